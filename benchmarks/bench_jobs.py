"""Jobs on a real head that starts from nothing: exit codes, and the code that is shipped.

    uv run python benchmarks/bench_jobs.py

Starts a head with CPU 0 and Ray's own autoscaler (v2) over nodes that are processes of this machine, and submits with
`ray job submit --working-dir .` as a user would: a configuration with an unknown key must end as FAILED, with exit code
2 and our message in its log and no traceback; the code that a job imports must be that of the working directory.

The last line is one JSON object. Nothing else on the machine is touched: own ports, own folder, own processes.
"""

import argparse
import json
import os
import platform
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/jobs.md"
# Ray's provider of nodes that are processes of this machine.
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# The id that this provider gives the head.
_HEAD_ID = "f" * 51 + "00000"
# More than two CPUs would only promise what this machine does not have.
TYPES = {
    "cpu": {"resources": {"CPU": 2, "memory": 4 * 2**30}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    "gpu": {"resources": {"CPU": 2, "GPU": 1, "memory": 4 * 2**30}, "node_config": {}, "min_workers": 0,
            "max_workers": 1},
}  # fmt: skip


class Head:
    """A head with an autoscaler, and the commands of a user who has its address."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self.address, self.environment = address, environment

    def ray(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """`ray job ...` against this head."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", *arguments[:1], "--address", self.address]
        return subprocess.run([*command, *arguments[1:]], cwd=ROOT, env=self.environment, capture_output=True,
                              text=True, timeout=timeout)  # fmt: skip

    def submit(self, name: str, *entrypoint: str, wait: bool = True) -> tuple[str, str, float]:
        """(status, log, seconds) of a job; without `wait` as soon as it was accepted."""
        started = time.monotonic()
        waiting = [] if wait else ["--no-wait"]
        done = self.ray("submit", "--submission-id", name, *waiting, "--working-dir", ".", "--", *entrypoint)
        return (self.status(name), done.stdout + done.stderr, time.monotonic() - started)

    def status(self, name: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        done = self.ray("status", name)
        found = re.search(rf"[Jj]ob '{name}'(?:: | was | )(\w+)", done.stdout + done.stderr)
        return found[1].upper() if found else "UNKNOWN"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def growing_head(folder: Path) -> Iterator[Head]:
    """A head with CPU 0 over nodes that the autoscaler starts on this machine; ends every process it started."""
    port, board = free_port(), free_port()
    config = {
        "cluster_name": "jobs", "max_workers": 2, "idle_timeout_minutes": 1, "upscaling_speed": 1, "auth": {},
        "provider": {"type": "external", "module": _PROVIDER, "gcs_address": f"127.0.0.1:{port}",
                     "launch_multiple": True, "head_node_id": _HEAD_ID},
        "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [],
        "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
        "worker_start_ray_commands": [], "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, **TYPES,
        },
    }  # fmt: skip
    grows = folder / "grows.yaml"
    grows.write_text(yaml.safe_dump(config))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
    }  # fmt: skip
    session = folder / "ray"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0",
               f"--port={port}", "--node-ip-address=127.0.0.1", f"--dashboard-port={board}", f"--temp-dir={session}",
               "--dashboard-agent-listen-port=0", f"--ray-client-server-port={free_port()}",
               f"--autoscaling-config={grows}", "--object-store-memory=200000000"]  # fmt: skip
    log = (folder / "head.log").open("w")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        here = Head(f"http://127.0.0.1:{board}", environment)
        deadline = time.monotonic() + 90
        while here.ray("list", timeout=60).returncode:
            if time.monotonic() > deadline or head.poll() is not None:
                raise RuntimeError(f"the head did not start: {(folder / 'head.log').read_text()[-2000:]}")
            time.sleep(1)
        yield here
    finally:
        _end(head, str(session))


def _end(head: subprocess.Popen[bytes], session: str) -> None:
    """Ends the head and what it started, known by descent or by the session folder in their command lines."""
    ours = {head.pid, *_family(head.pid, session)}
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in ours - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        time.sleep(2)
    head.wait()


def _family(ancestor: int, session: str) -> set[int]:
    parents, named = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if session.encode() in (folder / "cmdline").read_bytes():
                named.add(int(folder.name))
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return (found | named) - {ancestor}


def wrong_configuration(head: Head, folder: Path) -> dict[str, Any]:
    """A key that does not exist."""
    bad = folder / "bad.yaml"
    bad.write_text("run: /nowhere\ndata: {images: a, classes: b, word_vectors: c}\nrelate: {alhpa: 0}\n")
    status, log, seconds = head.submit("wrong", "python", "jobs/run.py", str(bad))
    assert status == "FAILED", log
    assert "relate.alhpa: unknown key; did you mean relate.alpha?" in log, log
    assert "Job entrypoint command failed with exit code 2" in log, log
    assert "Traceback" not in log, log
    return {"status": status, "seconds": round(seconds, 1)}


def code_of_the_job(head: Head, folder: Path) -> dict[str, Any]:
    """The driver imports the package from the working directory that was sent, not from where it is installed."""
    status, log, _ = head.submit("where", "python", "-c", "import vgse; print(vgse.__file__)")
    assert (status, "runtime_resources/working_dir_files" in log) == ("SUCCEEDED", True), log
    return {"status": status}


def report(found: dict[str, dict[str, Any]]) -> str:
    """The results page."""
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {', '.join(f'{key} {value}' for key, value in part.items())} |"
        for name, part in found.items()
    )
    return f"""# Jobs on a head that starts from nothing

`ray job submit --working-dir .` against a real head with CPU 0 and Ray's autoscaler (v2) over nodes that are processes
of this machine. What each part demands stands in the script, which ends at the first thing that is not so. Seconds of
`ray job submit` from start to end, on a busy machine.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_jobs.py`.

| part | found |
|---|---|
{rows}
"""


def main() -> None:
    """Runs all parts, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder to work in and to keep (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vj") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {}
        with growing_head(folder) as head:
            for part in (wrong_configuration, code_of_the_job):
                found[part.__name__] = part(head, folder)
                print(part.__name__, found[part.__name__], flush=True)
        RESULTS.write_text(report(found))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
