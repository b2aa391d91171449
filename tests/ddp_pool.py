"""One pool of processes for all tests that need `torch.distributed`: starting Python and torch costs seconds."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

LARGEST_WORLD = 4


@functools.cache
def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(LARGEST_WORLD, mp_context=multiprocessing.get_context("spawn"))
    atexit.register(pool.shutdown)
    return pool


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Runs `function(rank, world_size, *args)` on every rank of a gloo group and returns the results by rank.

    The function must be importable (module level), its arguments and results picklable. All ranks are inside the
    group while it runs; an exception of any rank is raised here.
    """
    assert 1 <= world_size <= LARGEST_WORLD
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "rendezvous").as_uri()
        futures = [_pool().submit(_in_group, function, meeting, rank, world_size, args) for rank in range(world_size)]
        return [future.result(timeout=120) for future in futures]


def _in_group(function: Callable[..., Any], meeting: str, rank: int, world_size: int, args: tuple[Any, ...]) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    try:
        return function(rank, world_size, *args)
    finally:
        dist.destroy_process_group()
