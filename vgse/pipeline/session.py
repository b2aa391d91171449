"""The connection to Ray: a cluster where there is one, else this machine."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

from vgse.config import Config, ResourcesConfig
from vgse.pipeline import placement
from vgse.pipeline.capacity import GIB, Capacity
from vgse.pipeline.fleet.growth import cluster_capacity, growth
from vgse.pipeline.fleet.machines import Fleet

# Of a machine's memory, what tasks may ask for; Ray takes up to 30 % for its object store.
_SHARE_OF_MEMORY = 0.7

# What this process's cluster may grow to, as far as it is known.
_growth: Fleet | None = None


def connect(resources: ResourcesConfig | None = None) -> None:
    """Joins the cluster of RAY_ADDRESS (set by `ray job submit`), else starts Ray on this machine. Idempotent.

    Said outright, since Ray left to itself would join whatever cluster was last started here, and wait for it long
    after it has gone.

    Args:
        resources: the run's, which may name the file that says what the cluster may grow to.
    """
    global _growth
    if resources is not None:
        joins = os.environ.get("RAY_ADDRESS") not in (None, "", "local")
        _growth = growth(resources.grows_to) if joins else None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "local"
        # What Ray hands out should not depend on what else runs on this machine just now.
        own: dict[str, Any] = {"_memory": int(_SHARE_OF_MEMORY * machine_memory())} if address == "local" else {}
        with _silent_stderr():
            ray.init(
                address,
                **own,
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


def capacity() -> Capacity:
    """The nodes of the cluster and those that it may grow."""
    return cluster_capacity(ray.nodes(), _growth)


def cpus() -> int:
    """Whole CPUs that the cluster has or may grow to, at least 1."""
    return capacity().cpus


def asks(stage: str, config: Config) -> list[placement.Ask]:
    """What a stage asks of this cluster, see `placement`."""
    return placement.asks(stage, config, capacity())


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


def machine_memory() -> int:
    """Bytes of memory of this machine, or of this container where that has less."""
    limits = [_meminfo("MemTotal")]
    with suppress(OSError, ValueError):
        limits.append(int((Path("/sys/fs/cgroup") / "memory.max").read_text()))
    return min(limit for limit in limits if limit) if any(limits) else 4 * GIB


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


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, since the next batch asks for as much again.

    By default glibc gives large pieces back to the system, which hands them out anew page by page, each filled with
    zeros first: up to half of the time of a forward pass on the CPU. Does nothing with other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    mallopt(trim_threshold, 2**31 - 1)
    # Activations of a batch are often larger than the first; earlier versions of glibc take no more than that.
    mallopt(mmap_threshold, 2**25)
    mallopt(mmap_threshold, 2**30)
