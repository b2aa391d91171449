"""Checkpoints: whole or not at all, and pruned."""

from __future__ import annotations

import json
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
    checkpoints.save(12, {**_tensors(1), "view": transposed}, {"epoch": 3, "position": 2, "settings": {"x": 1.5}})
    saved = checkpoints.latest()
    assert saved is not None
    assert (saved.step, saved.epoch, saved.position) == (12, 3, 2)
    assert saved.state["settings"] == {"x": 1.5}
    assert torch.equal(saved.tensors["view"], transposed)
    assert saved.tensors["none"].shape == (0, 4)
    assert (tmp_path / "run" / "checkpoint-000012" / "model.safetensors").is_file()


def _kept(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


def test_only_the_newest_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path))
    for step in (1, 2, 3, 10):
        checkpoints.save(step, _tensors(step), {})
    assert _kept(tmp_path) == [3, 10]
    assert checkpoints.best() is None
    assert not (tmp_path / "best.json").exists()


def test_the_best_stay_beside_the_newest(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path), keep_best=2)
    values = {10: 0.1, 20: 0.4, 30: None, 40: 0.4, 50: 0.3, 60: None, 70: 0.2}
    for step, value in values.items():
        checkpoints.save(step, _tensors(step), {}, value)
    assert _kept(tmp_path) == [20, 40, 60, 70]
    pointer = json.loads((tmp_path / "best.json").read_text())
    # Of equals the first is the best.
    assert (pointer["checkpoint"], pointer["value"]) == ("checkpoint-000020", 0.4)
    assert [entry["checkpoint"] for entry in pointer["kept"]] == ["checkpoint-000020", "checkpoint-000040"]
    assert [checkpoints.would_keep(value) for value in (0.3, 0.4, 0.41)] == [False, False, True]
    again = Checkpoints(Storage(), str(tmp_path), keep_best=2)
    best, latest = again.best(), again.latest()
    assert best is not None
    assert latest is not None
    assert (best.step, latest.step) == (20, 70)
    # A run that was killed and goes on remembers which were the best.
    again.save(80, _tensors(80), {}, 0.35)
    assert _kept(tmp_path) == [20, 40, 70, 80]


def test_none_is_kept_for_being_good_where_that_is_not_wanted(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path), keep_best=0)
    for step in (1, 2, 3):
        checkpoints.save(step, _tensors(step), {}, 1 / step)
    assert _kept(tmp_path) == [2, 3]
    assert not checkpoints.would_keep(9.0)


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


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_save_cut_short_leaves_the_one_before(writes: int, tmp_path: Path):
    Checkpoints(Storage(), str(tmp_path)).save(1, _tensors(1), {}, 0.1)
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(_Dying(writes), str(tmp_path)).save(2, _tensors(2), {}, 0.2)
    again = Checkpoints(Storage(), str(tmp_path))
    saved, best = again.latest(), again.best()
    assert saved is not None
    assert best is not None
    # The fourth write is that of best.json, which only repeats what the third committed.
    assert saved.step == best.step == (2 if writes == 3 else 1)
    assert (tmp_path / json.loads((tmp_path / "best.json").read_text())["checkpoint"] / "state.json").is_file()
    again.save(2, _tensors(2), {}, 0.2)
    newest = again.latest()
    assert newest is not None
    assert torch.equal(newest.tensors["a"], torch.full((2, 3), 2.0))


def test_a_damaged_checkpoint_names_its_folder(tmp_path: Path):
    checkpoints = Checkpoints(Storage(), str(tmp_path))
    checkpoints.save(1, _tensors(1), {})
    (tmp_path / "checkpoint-000001" / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="damaged"):
        checkpoints.latest()
