"""What a fit leaves to read: metrics.jsonl, TensorBoard events, and notes for the driver's progress bar."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from vgse.config import ClusterConfig
from vgse.pipeline.board import Board
from vgse.storage import Storage, join


class FitJournal:
    """The journal of one fit on one rank; only rank 0 writes. `rows` are patches, `patches` of them to an image.

    Object stores cannot append, so metrics.jsonl and the event file are small and written whole after every epoch.
    """

    def __init__(
        self,
        name: str,
        folder: str,
        storage: Storage,
        board: Board,
        rows: int,
        patches: int,
        cluster: ClusterConfig,
        rank: int,
        world: int,
    ) -> None:
        self._name, self._folder, self._storage, self._board = name, folder, storage, board
        self._rows, self._patches = rows, patches
        self._cluster, self._writes, self._world = cluster, rank == 0, world
        self._lines: list[dict[str, Any]] = []
        self._said = 0.0
        self._events: Any = None

    def begin(self, saved: Any) -> None:
        """Says where an interrupted fit goes on, and takes over the figures of the epochs behind it."""
        if not self._writes:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._scratch = tempfile.TemporaryDirectory(prefix="vgse-events-")
        self._events = SummaryWriter(self._scratch.name)
        for figures in saved.state["history"] if saved else []:
            self._record(figures)
        if saved:
            # A kill may have fallen between the checkpoint and the journal.
            self._write()
            steps_per_epoch = int(saved.state["steps_per_epoch"])
            self._board.pin("step", (self._name, saved.step * self._rows // steps_per_epoch))
            if saved.epoch < self._cluster.epochs:
                workers = f"{self._world} worker{'s' if self._world > 1 else ''}"
                further = f", {saved.position} of {steps_per_epoch} steps into the next," if saved.position else ""
                self.say(f"resumed after epoch {saved.epoch} of {self._cluster.epochs}{further} on {workers}")

    def say(self, text: str) -> None:
        """Shows the user a line about this fit."""
        if self._writes:
            self._board.pin("say", f"cluster: {self._name} {text}")

    def step(self, step: int, steps: int) -> None:
        """Moves the driver's bar, at most twice a second."""
        if self._writes and (step == steps or time.monotonic() - self._said > 0.5):
            self._said = time.monotonic()
            self._board.pin("step", (self._name, self._rows * self._cluster.epochs * step // steps))

    def epoch(self, figures: dict[str, float]) -> None:
        """Records an epoch's figures."""
        if not self._writes:
            return
        self._record(figures)
        self._write()
        said = f"{self._name} epoch {int(figures['epoch'])}/{self._cluster.epochs}"
        validated = f", val_H {figures['val_H']:.3f}" if "val_H" in figures else ""
        used = int(figures["used_clusters"])
        self._board.pin("figures", f"{said} loss {figures['loss']:.3f}, {used} clusters used{validated}")

    def end(self) -> None:
        """Closes the journal."""
        if self._writes:
            self._events.close()
            self._scratch.cleanup()

    def _write(self) -> None:
        self._events.flush()
        lines = "".join(json.dumps(line) + "\n" for line in self._lines)
        self._storage.write_bytes(join(self._folder, "metrics.jsonl"), lines.encode())
        for path in Path(self._scratch.name).glob("events.*"):
            self._storage.write_bytes(join(self._folder, "tensorboard", path.name), path.read_bytes())

    def _record(self, figures: dict[str, float]) -> None:
        if "rows_per_s" in figures:
            figures = {**figures, "images_per_s": figures["rows_per_s"] / self._patches}
        self._lines.append({"fit": self._name, **figures})
        if self._cluster.log_to:
            # Those of before a restart too: a tracker takes what it does not have yet.
            self._board.pin("epoch", self._lines[-1])
        for key, value in figures.items():
            if key not in {"epoch", "step"}:
                self._events.add_scalar(key, value, int(figures["epoch"]))
