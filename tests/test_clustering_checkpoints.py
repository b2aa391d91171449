"""Checkpoints: whole or not at all, and pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vgse.clustering.checkpoints import Checkpoints
from vgse.errors import StorageError
from vgse.storage import Storage


def _tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((2, 3), value), "count": torch.tensor(int(value)), "none": torch.zeros(0, 4)}


def test_what_is_saved_is_read(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path / "run"))
    assert checkpoints.latest() is None
    transposed = torch.arange(6.0).view(2, 3).T
    checkpoints.save(12, {**_tensors(1), "view": transposed}, {"settings": {"x": 1.5}})
    saved = checkpoints.latest()
    assert saved is not None
    assert (saved.epoch, saved.state["settings"]) == (12, {"x": 1.5})
    assert torch.equal(saved.tensors["view"], transposed)
    assert saved.tensors["none"].shape == (0, 4)
    assert (tmp_path / "run" / "checkpoint-000012" / "model.safetensors").is_file()


def test_only_the_newest_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path), keep=2)
    for epoch in (1, 2, 3, 10):
        checkpoints.save(epoch, _tensors(epoch), {})
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-000003", "checkpoint-000010"]


class _Dying(Storage):
    """Dies at its n-th write."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    def write_bytes(self, uri: str, data: bytes) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().write_bytes(uri, data)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_save_cut_short_leaves_the_one_before(writes: int, tmp_path: Path):
    Checkpoints(Storage(), str(tmp_path)).save(1, _tensors(1), {})
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(_Dying(writes), str(tmp_path)).save(2, _tensors(2), {})
    again = Checkpoints(Storage(), str(tmp_path))
    saved = again.latest()
    assert saved is not None
    assert saved.epoch == 1
    again.save(2, _tensors(2), {})
    newest = again.latest()
    assert newest is not None
    assert torch.equal(newest.tensors["a"], torch.full((2, 3), 2.0))


def test_a_damaged_checkpoint_names_its_folder(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path))
    checkpoints.save(1, _tensors(1), {})
    (tmp_path / "checkpoint-000001" / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="damaged"):
        checkpoints.latest()
