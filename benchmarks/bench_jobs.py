"""Jobs on a real head that starts from nothing: exit codes, stop and resume, a cluster that has to grow.

    uv run python benchmarks/bench_jobs.py

Starts a head with CPU 0 and Ray's own autoscaler (v2) over nodes that are processes of this machine, 0 to 1 CPU node
and 0 to 1 node with a GPU on paper, and submits with `ray job submit --working-dir .` as a user would:

1. a configuration with an unknown key: FAILED, exit code 2 in its log with the message, and nothing was started; and
   the code that a job imports is that of the working directory;
2. the demo's images: stopped by `ray job stop` once crop is done, submitted again, and finished;
3. a stage that no node can serve: FAILED within seconds, with what it asks and what the nodes offer;
4. encode where GPUs have yet to grow: its workers ask for one and run on the node that came for it.

The last line is one JSON object. Nothing else on the machine is touched: own ports, own folder, own processes.
"""

import argparse
import json
import os
import platform
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from local_nodes import end_nodes, start_node
from s3_server import free_port

from vgse.receipts import STAGES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/jobs.md"
# The id of the head, by which the provider of nodes knows it.
_HEAD_ID = "f" * 51 + "00000"
_NODE = {"CPU": 2, "memory": 4 * 2**30}
TYPES = {
    name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 1}
    for name, resources in {"cpu": _NODE, "gpu": {**_NODE, "GPU": 1}}.items()
}


class Head:
    """A head with an autoscaler, and the commands of a user who has its address."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self.address, self.environment = address, environment

    def ray(self, *arguments: str, group: str = "job", timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """`ray job ...` (or of another group of commands) against this head."""
        command = [sys.executable, "-m", "ray.scripts.scripts", group, *arguments[:1], "--address", self.address]
        return subprocess.run([*command, *arguments[1:]], cwd=ROOT, env=self.environment, capture_output=True,
                              text=True, timeout=timeout)  # fmt: skip

    def gpus(self) -> float:
        """GPUs of the nodes that are there now."""
        listed = self.ray("nodes", "--format", "json", "--detail", group="list")
        nodes = json.loads(listed.stdout)
        return sum(node["resources_total"].get("GPU", 0) for node in nodes if node["state"] == "ALIVE")

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


@contextmanager
def growing_head(folder: Path) -> Iterator[Head]:
    """A head with CPU 0 over nodes that the autoscaler starts on this machine; ends every process it started."""
    port, board = free_port(), free_port()
    config = {
        "cluster_name": "jobs", "max_workers": 2, "idle_timeout_minutes": 1, "upscaling_speed": 1, "auth": {},
        "provider": {"type": "external", "module": "grown_nodes.GrownNodes", "gcs_address": f"127.0.0.1:{port}",
                     "launch_multiple": True, "head_node_id": _HEAD_ID, "folder": str(folder)},
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
        "RAY_FAKE_CLUSTER": "1", "PYTHONPATH": str(ROOT / "benchmarks"), "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
    }  # fmt: skip
    shared = folder / "tmp"
    arguments = ["--head", "--num-cpus=0", f"--port={port}", f"--dashboard-port={board}", "--include-dashboard=true",
                 f"--temp-dir={shared / 'ray'}", f"--ray-client-server-port={free_port()}",
                 f"--autoscaling-config={grows}"]  # fmt: skip
    head = start_node(arguments, folder / "node-0", shared, environment)
    try:
        here = Head(f"http://127.0.0.1:{board}", {**os.environ, **environment})
        deadline = time.monotonic() + 90
        while here.ray("list", timeout=60).returncode:
            if time.monotonic() > deadline or head.poll() is not None:
                raise RuntimeError(f"the head did not start: {(folder / 'node-0.log').read_text()[-2000:]}")
            time.sleep(1)
        yield here
    finally:
        end_nodes([head])


def demo(folder: Path) -> list[str]:
    """The demo's images in `folder`, and the overrides that run the demo's configuration on them."""
    from vgse.data.demo_images import write_demo

    paths = write_demo(folder / "data", images_per_class=16)
    return ["--data.images", str(paths.images), "--data.classes", str(paths.classes), "--data.word-vectors",
            str(paths.words), "--run", str(folder / "run"), "--resources.grows-to", str(folder / "grows.yaml"),
            "--crop.rows-per-shard", "32", "--encode.batch-size", "32", "--cluster.epochs", "2"]  # fmt: skip


def wrong_configuration(head: Head, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """A key that does not exist."""
    bad = folder / "bad.yaml"
    bad.write_text("run: /nowhere\ndata: {images: a, classes: b, word_vectors: c}\nrelate: {alhpa: 0}\n")
    status, log, seconds = head.submit("wrong", "python", "jobs/run.py", str(bad))
    assert status == "FAILED", log
    assert "relate.alhpa: unknown key; did you mean relate.alpha?" in log, log
    assert "Job entrypoint command failed with exit code 2" in log, log
    assert "Traceback" not in log, log
    return {"status": status, "seconds": round(seconds, 1)}


def code_of_the_job(head: Head, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The driver imports the package from the working directory that was sent, not from where it is installed."""
    status, log, seconds = head.submit("where", "python", "-c", "import vgse; print(vgse.__file__)")
    assert (status, "runtime_resources/working_dir_files" in log) == ("SUCCEEDED", True), log
    return {"status": status, "seconds": round(seconds, 1)}


def impossible_stage(head: Head, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """More CPUs than any node has or could have."""
    asked = [*overrides, "--run", str(folder / "impossible"), "--resources.cpus-per-worker", "64",
             "--resources.use-gpu", "False"]  # fmt: skip
    assert head.submit("ready", "python", "jobs/crop.py", "jobs/configs/demo.yaml", *asked)[0] == "SUCCEEDED"
    encoded = head.submit("ready2", "python", "jobs/encode.py", "jobs/configs/demo.yaml", *asked)
    assert encoded[0] == "SUCCEEDED", encoded[1]
    status, log, seconds = head.submit("impossible", "python", "jobs/cluster.py", "jobs/configs/demo.yaml", *asked)
    assert status == "FAILED", log
    assert "cluster asks for 1 workers of 64 CPU" in log, log
    assert "lower resources.cpus_per_worker" in log, log
    return {"status": status, "seconds": round(seconds, 1)}


def stop_and_resume(head: Head, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """`ray job stop` in the middle, then the same submission again."""
    run = ["python", "jobs/run.py", "jobs/configs/demo.yaml", *overrides, "--resources.use-gpu", "False"]
    head.submit("first", *run, wait=False)
    deadline = time.monotonic() + 240
    while not (folder / "run/receipts/crop.json").exists():
        assert time.monotonic() < deadline, head.ray("logs", "first").stdout
        assert head.status("first") in ("PENDING", "RUNNING"), head.ray("logs", "first").stdout
        time.sleep(0.5)
    head.ray("stop", "first")
    stopped = head.status("first")
    receipts = {path.stem for path in (folder / "run/receipts").glob("*.json")}
    status, log, seconds = head.submit("second", *run)
    assert (stopped, status) == ("STOPPED", "SUCCEEDED"), log
    assert re.search(r"crop .*\[done before, nothing to do\]", log), log
    assert (folder / "run/evaluation.json").exists()
    assert re.search(r"waits for the cluster to grow", head.ray("logs", "first").stdout)
    done = [name for name in STAGES if name in receipts]
    return {"status": status, "seconds": round(seconds, 1), "done_when_stopped": done}


def grown_for_a_gpu(head: Head, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """encode of a frozen run on a cluster that shows no GPU yet; the GPU is one on paper, so it computes on the CPU."""
    weights = folder / "tiny.safetensors"
    _tiny_weights(weights)
    asked = [*overrides, "--run", str(folder / "grown"), "--cluster.mode", "frozen", "--encode.weights", str(weights)]
    assert head.submit("gpu-crop", "python", "jobs/crop.py", "jobs/configs/demo.yaml", *asked)[0] == "SUCCEEDED"
    deadline = time.monotonic() + 240
    while head.gpus():
        assert time.monotonic() < deadline, "the node with a GPU has nothing to do and stays"
        time.sleep(2)
    status, log, seconds = head.submit("gpu-encode", "python", "jobs/encode.py", "jobs/configs/demo.yaml", *asked)
    assert status == "SUCCEEDED", log
    assert re.search(r"encode +waits for the cluster to grow: 1 workers of 2 CPU, 1 GPU", log), log
    return {"status": status, "seconds": round(seconds, 1)}


def _tiny_weights(path: Path) -> None:
    from safetensors.torch import save_file

    from vgse.clustering.backbones import build_backbone

    network = build_backbone("tiny", weights=None, pretrained=False, input_size=32)
    save_file({name: tensor.contiguous() for name, tensor in network.model.state_dict().items()}, str(path))


_SAID = {
    "wrong_configuration": "a key that does not exist: the message and exit code 2 in the log, no traceback",
    "code_of_the_job": "imports the code that was sent, not the one that is installed",
    "stop_and_resume": "stopped by `ray job stop`, submitted again: what was done is not done again",
    "grown_for_a_gpu": "encode where no GPU is there yet: waits for the node that brings one",
    "impossible_stage": "a stage that no node can serve: what it asks and what to lower, instead of a hang",
}


def report(found: dict[str, dict[str, Any]]) -> str:
    """The results page."""
    rows = "\n".join(f"| {_SAID[name]} | {part['status']} | {part['seconds']} |" for name, part in found.items())
    return f"""# Jobs on a head that starts from nothing

`ray job submit --working-dir .` against a real head with CPU 0 and Ray's autoscaler (v2) over nodes that are processes
of this machine, isolated from each other: 0 to 1 node of 2 CPUs, 0 to 1 of 2 CPUs and a GPU on paper. What each part
demands of the log and of the files stands in the script, which ends at the first thing that is not so. Seconds are
those of `ray job submit`, starting nodes and waiting for them included.

Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_jobs.py`.

| job | ended | seconds |
|---|---|---|
{rows}

When it was stopped, {" and ".join(found["stop_and_resume"]["done_when_stopped"])} were done; the same submission did
the rest.
"""


def main() -> None:
    """Runs all parts, writes the page, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="a folder to work in and to keep (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vj") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        overrides, found = demo(folder), {}
        with growing_head(folder) as head:
            for part in (wrong_configuration, code_of_the_job, stop_and_resume, grown_for_a_gpu, impossible_stage):
                found[part.__name__] = part(head, folder, overrides)
                print(part.__name__, found[part.__name__], flush=True)
        RESULTS.write_text(report(found))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
