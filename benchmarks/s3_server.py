"""A real S3 server on this machine (`rclone serve s3` over a folder), for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "vgse-local-key", "vgse-local-secret"


@dataclass(frozen=True)
class S3Server:
    """A running server: its endpoint, the folder whose subfolders are the buckets, its process, how to reach it."""

    endpoint: str
    folder: Path
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables with which a program reaches it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def serve_s3(folder: Path, port: int = 0) -> Iterator[S3Server]:
    """Serves `folder` until the block ends. Port 0 takes a free one."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise RuntimeError("rclone is not installed; it comes with the development dependencies (uv sync)")
    port = port or free_port()
    command = [program, "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{port}", str(folder)]
    # The folder listing is cached for a minute: files put there behind the server's back show up late.
    command += ["--vfs-cache-mode", "off", "--dir-cache-time", "60s", "--config", "/dev/null", "--log-level", "ERROR"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield S3Server(f"http://127.0.0.1:{port}", folder, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"rclone serve s3 ended at once with code {process.returncode} (is port {port} taken?)")
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"rclone serve s3 did not open port {port}")
