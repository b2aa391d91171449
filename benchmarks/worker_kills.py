"""Kills worker processes of this process's own Ray while they work."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path


class WorkerKiller(threading.Thread):
    """Kills (SIGKILL) one worker at each of the moments, one that is busy with the named function just then.

    Args:
        function: the name of the function that Ray Data maps, as the worker's process title shows it.
        moments: seconds after the first such worker was seen. Where none is busy at a moment, the next one dies.
        seed: decides which of several dies.
    """

    def __init__(self, function: str, moments: Sequence[float], seed: int = 0) -> None:
        super().__init__(daemon=True)
        self._function, self._moments, self._random = function, sorted(moments), random.Random(seed)
        self._stopped = threading.Event()
        self.killed: list[int] = []

    def run(self) -> None:
        """Waits for the moments one after the other."""
        began = self._busy_at(0.0) and time.monotonic()
        for moment in self._moments if began else ():
            # Asleep until then, since looking through all processes takes milliseconds.
            self._stopped.wait(max(0.0, began + moment - time.monotonic()))
            if busy := self._busy_at(began + moment):
                pid = self._random.choice(busy)
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)

    def _busy_at(self, moment: float) -> list[int]:
        """The busy workers at a moment or as soon after it as there are any; none once the thread is stopped."""
        busy: list[int] = []
        while not busy and not self._stopped.is_set():
            busy = busy_workers(os.getpid(), self._function) if time.monotonic() >= moment else []
            self._stopped.wait(0.0 if busy else 0.03)
        return busy

    def stop(self) -> None:
        """Ends the thread, kills or no kills."""
        self._stopped.set()
        self.join()


def busy_workers(ancestor: int, function: str) -> list[int]:
    """Processes below `ancestor` whose title says that they are busy with `function`, by /proc."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # It has ended meanwhile.
            continue
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(pid for pid in below if titles.get(pid, "").startswith("ray::") and function in titles[pid])
