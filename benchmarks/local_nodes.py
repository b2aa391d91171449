"""A Ray cluster of several nodes on this machine, each with a folder for temporary files that no other node sees.

`ray start --head` and one `ray start --address` per further node, in mount namespaces of their own (Linux, as root):
every node finds its own empty folder at the same TMPDIR. So what a worker keeps on its disk (downloads, unpacked code,
Ray's session) is out of the others' reach, as on machines of a cloud, and a path that only the driver has breaks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from s3_server import free_port

_ROOT = Path(__file__).resolve().parents[1]
_READY_S = 180
_AGENTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port")


@dataclass(frozen=True)
class LocalNodes:
    """A running cluster: the address of its head, and where jobs are submitted."""

    address: str
    jobs: str
    isolated: bool

    def submit(self, *entrypoint: str, environment: Mapping[str, str]) -> list[str]:
        """Submits a job with this checkout and waits for it; its log, which is shown as it comes.

        Raises:
            RuntimeError: the job failed.
        """
        command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", self.jobs]
        command += ["--working-dir", ".", "--runtime-env-json", json.dumps({"env_vars": dict(environment)})]
        whole = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        log = []
        with subprocess.Popen([*command, "--", *entrypoint], env=whole, cwd=_ROOT, stdout=subprocess.PIPE,
                              text=True) as job:  # fmt: skip
            for line in job.stdout or ():
                print(line, end="", flush=True)
                log.append(line)
        if job.returncode != 0:
            raise RuntimeError(f"the job {' '.join(entrypoint)} ended with {job.returncode}")
        return log


@contextmanager
def local_nodes(nodes: int, cpus_each: int, folder: Path) -> Iterator[LocalNodes]:
    """Starts `nodes` nodes with `cpus_each` logical CPUs, and ends their processes (no others) with the block.

    Args:
        nodes: the head among them.
        cpus_each: of every node, the head too.
        folder: for temporary files; a short path, since sockets lie in it.
    """
    head, dashboard = free_port(), free_port()
    started: list[subprocess.Popen[bytes]] = []
    # A cluster for this program alone, on the loopback: nodes, jobs and this process do without Ray's token.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    shared = folder / "tmp"
    cpus = f"--num-cpus={cpus_each}"
    try:
        for number in range(nodes):
            where = ["--head", f"--port={head}", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
            where += [f"--ray-client-server-port={free_port()}", f"--temp-dir={shared / 'ray'}"]
            arguments = where if number == 0 else [f"--address=127.0.0.1:{head}"]
            started.append(start_node([*arguments, cpus], folder / f"node-{number}", shared))
            if number == 0:
                _wait_for(f"http://127.0.0.1:{dashboard}/api/version", started[0])
        while not _joined(f"127.0.0.1:{head}", nodes, started):
            # On a busy machine a node gives up when its agent takes 15 s to start; it is started again.
            for number in [n for n in range(1, nodes) if started[n].poll() is not None]:
                again = [f"--address=127.0.0.1:{head}", cpus]
                started[number] = start_node(again, folder / f"node-{number}", shared)
        yield LocalNodes(f"127.0.0.1:{head}", f"http://127.0.0.1:{dashboard}", may_isolate())
    finally:
        end_nodes(started)


def start_node(
    arguments: list[str], private: Path, shared: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Starts one node, by `ray start --block`; its output goes to a log beside `private`.

    Args:
        arguments: of `ray start`: where, and the node's resources.
        private: the node's own folder for temporary files.
        shared: the path at which the node sees that folder, where it can be isolated.
        environment: added to this process's.
    """
    private.mkdir(parents=True, exist_ok=True)
    shared.mkdir(parents=True, exist_ok=True)
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "start", *arguments, "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    # Ports that are given need not be waited for: a node gives up when its agent takes 15 s to name them.
    command += [f"--{name}={free_port()}" for name in _AGENTS]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={512 * 2**20}"]
    if may_isolate():
        script = 'mount --bind "$0" "$1" && shift && exec "$@"'
        isolate = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(private), str(shared)]
        command = [*isolate, *command]
    whole = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    whole |= {
        "TMPDIR": str(shared), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment,
    }  # fmt: skip
    log = (private.parent / f"{private.name}.log").open("wb")
    return subprocess.Popen(
        command, env=whole, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
    )


@cache
def may_isolate() -> bool:
    """Whether this user may give processes a view of the file system of their own."""
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(_READY_S):
        if process.poll() is not None:
            raise RuntimeError(f"ray start ended at once with code {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"{url} did not answer in {_READY_S} s")


def _joined(address: str, nodes: int, started: list[subprocess.Popen[bytes]]) -> bool:
    """Waits until all nodes have joined; False where one has ended instead."""
    from ray._raylet import GcsClient

    client = GcsClient(address=address)
    for _ in range(_READY_S):
        alive = [info for info in client.get_all_node_info().values() if info.state == 0]
        if len(alive) == nodes:
            return True
        if any(process.poll() is not None for process in started[1:]):
            return False
        time.sleep(1)
    raise RuntimeError(f"{nodes} nodes did not join {address} in {_READY_S} s")


def end_nodes(started: list[subprocess.Popen[bytes]]) -> None:
    """Ends the nodes, workers first joined last, and whatever of their descendants outlives them."""
    family = {process.pid: _descendants(process.pid) for process in started}
    for process in reversed(started):
        process.terminate()
    for process in reversed(started):
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    for pid in {pid for pids in family.values() for pid in pids}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, pending = [], [root]
    while pending:
        found += (below := children.get(pending.pop(), []))
        pending += below
    return found
