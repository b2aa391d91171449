"""The connection to Ray: a cluster where there is one, else this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# `uv run` on one machine would make Ray build a second virtual environment for its workers (and gigabytes of it); on a
# cluster the image or the job's runtime environment brings the package. Read when ray is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
# The core's notes to itself would stand between the progress bars; what matters arrives as an exception.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# OpenMP's threads wait for each other by spinning, for milliseconds; on a machine with other work that costs more than
# the work itself. Spinning for less and then sleeping, an epoch on cached features took 3.1 s on two CPUs with or
# without another busy process; as it comes it took 2.8 s alone and 8.2 s beside one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import ray

from vgse.config import ResourcesConfig

# CPUs of a worker that trains on a GPU while other tasks cut its pixels.
_GPU_WORKER_CPUS = 4.0


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS (set by `ray job submit`), else starts Ray on this machine. Idempotent.

    Said outright, since Ray left to itself would join whatever cluster was last started here, and wait for it long
    after it has gone.
    """
    if not ray.is_initialized():
        with _silent_stderr():
            ray.init(
                os.environ.get("RAY_ADDRESS") or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.verbose_stats_logs = False
    for name in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def nodes() -> int:
    """Living nodes of the cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's core announces its log level on the file descriptor itself, past Python; errors come as exceptions."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C ours: Ray Train leaves its handler behind, and its handler ends the process as if all were well."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def cpus() -> int:
    """Whole CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus(resources: ResourcesConfig) -> int:
    """GPUs to use: none where the user said so or there are none."""
    present = int(ray.cluster_resources().get("GPU", 0))
    return 0 if resources.use_gpu is False else present


def worker_shape(resources: ResourcesConfig, *, reading: bool) -> tuple[int, float, int]:
    """(workers, CPUs per worker, GPUs per worker) for training and encoding.

    Args:
        resources: the user's wishes; what is left open is shared out evenly.
        reading: leave a CPU to the tasks that read and cut pixels beside the workers; a group that reserves every CPU
            would leave Ray Data none and hang. Workers get a fraction of a CPU where there are more of them than CPUs;
            one that computes on a GPU takes few, since cutting needs about one CPU per GPU or more.
    """
    accelerators = gpus(resources)
    workers = resources.workers or max(1, accelerators)
    gpu = 1 if accelerators >= workers else 0
    spare = max(0.5, cpus() - (1 if reading else 0))
    most = _GPU_WORKER_CPUS if reading and gpu else 16.0
    each = float(resources.cpus_per_worker or min(most, spare / workers))
    return workers, float(int(each)) if each >= 1 else round(each, 2), gpu


def cutting_cpus(workers: int, each: float) -> float:
    """CPUs that one worker's reading and cutting tasks may use: its share of what the workers leave, 0 where they
    leave none (the user gave them all)."""
    return max(0.0, int(100 * (cpus() - workers * each) / workers) / 100)


def free_memory() -> int:
    """Bytes of memory that this machine (or this container) could still give; 0 where it does not say."""
    free = [_meminfo("MemAvailable")]
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        if most != "max":
            free.append(int(most) - int(used))
    except (OSError, ValueError):
        pass
    return max(0, min(free))


def _meminfo(field: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def scratch_folder() -> str:
    """A folder on this machine for what Ray Train keeps during a fit; results go to the run directory."""
    return tempfile.mkdtemp(prefix="vgse-train-")


def limit_threads(count: int) -> None:
    """Keeps OpenCV and PyTorch of this worker to its CPUs, so that workers do not fight over them."""
    import cv2

    cv2.setNumThreads(1)
    torch: Any = __import__("torch")
    torch.set_num_threads(max(1, count))
