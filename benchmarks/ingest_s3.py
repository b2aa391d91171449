"""Ours from an S3 server with 20 ms of latency per request, against the same shards and files on this disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from s3_server import serve_s3

MILLISECONDS = 20
KINDS = {"tar": "ours_tar", "parquet": "ours_parquet", "files": "ours"}


@contextmanager
def far_away(port: int, milliseconds: float) -> Iterator[int]:
    """The port of a proxy in a process of its own that holds every request to `port` back."""
    command = [sys.executable, str(Path(__file__).with_name("latency_proxy.py")), str(port), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def latency(folder: Path, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second of ours by kind of data, `near` (this disk) and `far`, medians over the rounds.

    The server, the proxy and ours share this machine's cores.
    """
    from bench_ingest import run_contestant

    rates: dict[str, dict[str, list[float]]] = {kind: {"near": [], "far": []} for kind in KINDS}
    with serve_s3(folder.parent) as server, far_away(int(server.endpoint.rsplit(":", 1)[1]), MILLISECONDS) as port:
        there = {**server.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        for _ in range(rounds):
            for kind, contestant in KINDS.items():
                near = run_contestant(contestant, folder, images)
                far = run_contestant(contestant, f"s3://{folder.name}", images, more=there)
                assert near["checksum"] == far["checksum"]
                rates[kind]["near"].append(near["rate"])
                rates[kind]["far"].append(far["rate"])
    return {
        kind: {"images": images, **{where: median(found) for where, found in both.items()}}
        for kind, both in rates.items()
    }
