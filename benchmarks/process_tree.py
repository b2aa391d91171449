"""What a process and all below it use (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            below.setdefault(int(_stat(int(folder.name))[1]), []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += below.get(found[-1], [])
    return found


def cpu_seconds() -> dict[int, float]:
    """CPU seconds of this process and of each below it, by process number."""
    used = {}
    for process in tree(os.getpid()):
        with suppress(OSError):
            fields = _stat(process)
            used[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _stat(process: int) -> list[str]:
    """The fields of /proc/N/stat behind the name, which may hold blanks: state, parent, ..."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
