"""Numbered training checkpoints: safetensors and JSON, no pickle, committed by a pointer written last.

    folder/checkpoint-000012/model.safetensors
    folder/checkpoint-000012/state.json
    folder/latest.json                          {"checkpoint": "checkpoint-000012"}

A reader follows the pointer, so that a checkpoint of which only a part was written is never seen.
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

_POINTER, _TENSORS, _STATE = "latest.json", "model.safetensors", "state.json"
_NAME = re.compile(r"checkpoint-(\d{6,})")


class Files(Protocol):
    """What is needed of `vgse.storage.Storage`."""

    def read_bytes(self, uri: str) -> bytes: ...
    def write_bytes(self, uri: str, data: bytes) -> None: ...
    def exists(self, uri: str) -> bool: ...
    def list_names(self, uri: str) -> list[str]: ...
    def remove_tree(self, uri: str) -> None: ...


@dataclass(frozen=True)
class Saved:
    """A checkpoint as read: the epoch after which it was written, tensors by name, and JSON state."""

    epoch: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        storage: where the bytes go.
        folder_uri: the folder of this run's checkpoints.
        keep: how many are kept; older ones are removed after a newer one is committed.
    """

    def __init__(self, storage: Files, folder_uri: str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._storage, self._folder, self._keep = storage, folder_uri.rstrip("/"), keep

    def save(self, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Writes checkpoint `epoch` whole, then points to it, then removes what is older than the newest `keep`."""
        name = f"checkpoint-{epoch:06d}"
        on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        self._storage.write_bytes(self._uri(name, _TENSORS), save(on_cpu))
        self._storage.write_bytes(self._uri(name, _STATE), json.dumps({**state, "epoch": epoch}, indent=1).encode())
        self._storage.write_bytes(self._uri(_POINTER), json.dumps({"checkpoint": name}).encode())
        self._prune(epoch)

    def latest(self) -> Saved | None:
        """The committed checkpoint, or None where there is none yet.

        Raises:
            StorageError: the pointer or what it points to cannot be read.
        """
        pointer = self._uri(_POINTER)
        if not self._storage.exists(pointer):
            return None
        try:
            name = json.loads(self._storage.read_bytes(pointer))["checkpoint"]
            state = json.loads(self._storage.read_bytes(self._uri(name, _STATE)))
            return Saved(int(state["epoch"]), load(self._storage.read_bytes(self._uri(name, _TENSORS))), state)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StorageError(
                f"{self._folder}: its latest checkpoint is damaged ({type(error).__name__}: {error})",
                f"remove {self._folder} to train again from the start",
            ) from error

    def _uri(self, *parts: str) -> str:
        return "/".join((self._folder, *parts))

    def _prune(self, epoch: int) -> None:
        found = sorted(
            (int(match[1]), match[0])
            for match in map(_NAME.fullmatch, self._storage.list_names(self._folder))
            if match and int(match[1]) <= epoch
        )
        for _, name in found[: -self._keep]:
            self._storage.remove_tree(self._uri(name))
