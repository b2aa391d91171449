"""Numbered training checkpoints: safetensors and JSON, no pickle, committed by a pointer written last.

    folder/checkpoint-000240/model.safetensors
    folder/checkpoint-000240/state.json
    folder/latest.json                          {"checkpoint": "checkpoint-000240"}
    folder/best.json                            {"checkpoint": "checkpoint-000180", "value": 0.31, "kept": [..]}

The number is that of optimiser steps done. A reader follows the pointer, so that a checkpoint of which only a part was
written is never seen. Which checkpoints are the best stands in the state that `latest.json` points to, and so changes
with the same single write; `best.json` says it once more for other programs, and what it points to is always whole.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vgse.errors import StorageError

_POINTER, _BEST, _TENSORS, _STATE = "latest.json", "best.json", "model.safetensors", "state.json"
_NAME = re.compile(r"checkpoint-(\d{6,})")
# The one before the last stays, for a reader that has just followed the pointer to it.
_NEWEST = 2


class Files(Protocol):
    """What is needed of `vgse.storage.Storage`."""

    def read_bytes(self, uri: str) -> bytes: ...
    def write_bytes(self, uri: str, data: bytes) -> None: ...
    def exists(self, uri: str) -> bool: ...
    def list_names(self, uri: str) -> list[str]: ...
    def remove_tree(self, uri: str) -> None: ...


@dataclass(frozen=True)
class Saved:
    """A checkpoint as read: optimiser steps done, tensors by name, and JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return int(self.state["epoch"])

    @property
    def position(self) -> int:
        """Steps done of the epoch after those."""
        return int(self.state["position"])


class Checkpoints:
    """The checkpoints of one training run: the newest two, and the best by a validation figure.

    Args:
        storage: where the bytes go.
        folder_uri: the folder of this run's checkpoints.
        keep_best: how many of the best stay beside the newest; 0 keeps none for being good.
    """

    def __init__(self, storage: Files, folder_uri: str, keep_best: int = 1) -> None:
        if keep_best < 0:
            raise ValueError(f"keep_best must be at least 0, not {keep_best}")
        self._storage, self._folder, self._keep_best = storage, folder_uri.rstrip("/"), keep_best
        self._ranking: list[tuple[str, float]] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], value: float | None = None) -> None:
        """Writes a checkpoint whole, then points to it, then removes what need not be kept.

        Args:
            step: optimiser steps done.
            tensors: to be read back under the same names.
            state: JSON; `epoch` and `position` say where in the data the run stands.
            value: a validation figure, the higher the better, where there is one.
        """
        name = f"checkpoint-{step:06d}"
        ranking = self._with(name, value)
        on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        self._storage.write_bytes(self._uri(name, _TENSORS), save(on_cpu))
        self._write_json({**state, "step": step, "best": ranking}, name, _STATE)
        self._write_json({"checkpoint": name}, _POINTER)
        if ranking:
            kept = [{"checkpoint": each, "value": reached} for each, reached in ranking]
            self._write_json({**kept[0], "kept": kept}, _BEST)
        self._ranking = ranking
        self._prune(step, {each for each, _ in ranking})

    def would_keep(self, value: float) -> bool:
        """Whether a checkpoint with this validation figure would be among the best; of equals the first stays."""
        ranking = self._best_so_far()
        return len(ranking) < self._keep_best or (bool(ranking) and value > ranking[-1][1])

    def latest(self) -> Saved | None:
        """The committed checkpoint, or None where there is none yet.

        Raises:
            StorageError: the pointer or what it points to cannot be read.
        """
        name = self._pointed_to()
        return None if name is None else self._read(name)

    def best(self) -> Saved | None:
        """The checkpoint with the highest validation figure, or None where none was validated.

        Raises:
            StorageError: as `latest`.
        """
        ranking = self._best_so_far()
        return self._read(ranking[0][0]) if ranking else None

    def _best_so_far(self) -> list[tuple[str, float]]:
        if self._ranking is None:
            name = self._pointed_to()
            state = {} if name is None else self._read_json(name, _STATE)
            self._ranking = [(str(each), float(value)) for each, value in state.get("best", [])]
        return self._ranking

    def _with(self, name: str, value: float | None) -> list[tuple[str, float]]:
        # Written again after a kill, a checkpoint counts once.
        others = [entry for entry in self._best_so_far() if entry[0] != name]
        if value is not None:
            others.append((name, value))
        # sorted keeps the order of equals: the first to reach a figure stays.
        return sorted(others, key=lambda entry: -entry[1])[: self._keep_best]

    def _pointed_to(self) -> str | None:
        if not self._storage.exists(self._uri(_POINTER)):
            return None
        return str(self._read_json(_POINTER).get("checkpoint"))

    def _read(self, name: str) -> Saved:
        state = self._read_json(name, _STATE)
        try:
            return Saved(int(state["step"]), load(self._storage.read_bytes(self._uri(name, _TENSORS))), state)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self._damaged(error) from error

    def _read_json(self, *parts: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self._storage.read_bytes(self._uri(*parts))))
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _write_json(self, content: dict[str, Any], *parts: str) -> None:
        self._storage.write_bytes(self._uri(*parts), json.dumps(content, indent=1).encode())

    def _damaged(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self._folder}: its latest checkpoint is damaged ({type(error).__name__}: {error})",
            f"remove {self._folder} to train again from the start",
        )

    def _uri(self, *parts: str) -> str:
        return "/".join((self._folder, *parts))

    def _prune(self, step: int, best: set[str]) -> None:
        found = sorted(
            (int(match[1]), match[0])
            for match in map(_NAME.fullmatch, self._storage.list_names(self._folder))
            if match and int(match[1]) <= step
        )
        for _, name in found[:-_NEWEST]:
            if name not in best:
                self._storage.remove_tree(self._uri(name))
