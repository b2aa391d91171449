"""A board on which workers pin what the driver should show while a blocking call runs there, and who worked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from vgse.errors import VgseError


@ray.remote(num_cpus=0)
class _BoardActor:
    def __init__(self) -> None:
        self._notes: list[tuple[str, Any]] = []
        self._error: Exception | None = None
        self._attempts: Counter[int] = Counter()
        self._tasks: Counter[str] = Counter()

    def served(self, node: str) -> None:
        self._tasks[node] += 1

    def tasks(self) -> dict[str, int]:
        return dict(sorted(self._tasks.items()))

    def pin(self, kind: str, content: Any) -> None:
        self._notes.append((kind, content))

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def error(self) -> Exception | None:
        return self._error

    def attempt(self, task: int) -> int:
        self._attempts[task] += 1
        return self._attempts[task]

    def take(self) -> list[tuple[str, Any]]:
        notes, self._notes = self._notes, []
        return notes


class Board:
    """A handle that travels to workers; each call returns at once."""

    def __init__(self) -> None:
        self._actor = _BoardActor.remote()  # type: ignore[attr-defined]

    def pin(self, kind: str, content: Any) -> None:
        """Leaves a note for the driver."""
        self._actor.pin.remote(kind, content)

    def fail(self, error: Exception) -> None:
        """Leaves the error that should end the stage; the first one stands."""
        ray.get(self._actor.fail.remote(error))

    def error(self) -> Exception | None:
        """The error left by a worker, if any."""
        return ray.get(self._actor.error.remote())

    def attempt(self, task: int) -> int:
        """On a worker: how often this task was begun, this time included; more than once where a worker died."""
        return ray.get(self._actor.attempt.remote(task))

    def served(self) -> None:
        """On a worker: one task of the stage, as large as the stage cuts them, has been done on this node."""
        # Waited for, so that the driver, which asks when it has the task's result, finds it counted.
        ray.get(self._actor.served.remote(_this_node()))

    def nodes(self) -> dict[str, int]:
        """How many tasks each node has done: "address, start of Ray's node id": tasks."""
        return ray.get(self._actor.tasks.remote())

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """On a worker: a typed error of the block reaches the driver whole. Ray would hand on only its text."""
        try:
            yield
        except VgseError as error:
            self.fail(error)
            raise

    def rows(self, dataset: Any) -> Iterator[dict[str, Any]]:
        """On the driver: the rows of a dataset, or the typed error that a worker left here."""
        try:
            yield from dataset.iter_rows()
        except Exception as error:
            raise self.error() or error from None

    @contextmanager
    def watched(self, show: Callable[[str, Any], None]) -> Iterator[None]:
        """Hands every note to `show` on this process while the block runs, and what is left at its end."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                self._drain(show)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._drain(show)

    def _drain(self, show: Callable[[str, Any], None]) -> None:
        for kind, content in ray.get(self._actor.take.remote()):
            show(kind, content)


def _this_node() -> str:
    return f"{ray.util.get_node_ip_address()} {ray.get_runtime_context().get_node_id()[:8]}"
