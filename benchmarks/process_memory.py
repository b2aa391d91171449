"""Memory and time of a command with all the processes it starts, as Linux counts them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_INTERVAL_S = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of processors, as last seen of each process: up to a second of its end is missing.
        peak_gib: largest sum over its processes of proportional set sizes: a page that several share counts once.
        peak_held_gib: the same without pages of files, which the kernel can drop at any time.
        output: what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_gib: float
    peak_held_gib: float
    output: str


def measure(command: Sequence[str], environment: dict[str, str], folder: Path, timeout_s: float) -> Measured:
    """Runs a command to its end.

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peaks, stop = [0, 0], threading.Event()
    used: dict[int, float] = {}

    def watch() -> None:
        while not stop.wait(_INTERVAL_S):
            for place, size in enumerate(_sizes(process.pid, used)):
                peaks[place] = max(peaks[place], size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, _ = process.communicate()
    finally:
        stop.set()
        watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")
    seconds = time.monotonic() - started
    return Measured(seconds, sum(used.values()), peaks[0] / 2**20, peaks[1] / 2**20, output)


def _sizes(root: int, used: dict[int, float]) -> tuple[int, int]:
    """KiB that the process and its descendants hold: all pages, and those that no file backs; notes their processor
    seconds in `used`."""
    parents, spent = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    total = held = 0
    for pid in parents:
        if root not in _line(pid, parents):
            continue
        used[pid] = spent[pid]
        fields = _rollup(pid)
        total += fields.get("Pss", 0)
        held += fields.get("Pss_Anon", 0) + fields.get("Pss_Shmem", 0)
    return total, held


def _line(pid: int, parents: dict[int, int]) -> list[int]:
    line = []
    while pid > 1:
        line.append(pid)
        pid = parents.get(pid, 0)
    return line


def _rollup(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
