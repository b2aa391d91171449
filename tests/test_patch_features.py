"""Patch features of chosen images across shards: gathered by row, or all held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgse.pipeline.features import PatchFeatures, held_rows, pack
from vgse.pipeline.session import free_memory
from vgse.storage import Storage

T, F = 3, 8


@pytest.fixture
def features(tmp_path: Path) -> tuple[PatchFeatures, np.ndarray]:
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(5, T, F)).astype(np.float16) for _ in range(2)]
    uris = []
    for number, patches in enumerate(shards):
        uris.append(str(tmp_path / f"part-{number}.safetensors"))
        Path(uris[-1]).write_bytes(pack({"patches": patches, "patch_rows": np.arange(5)}))
    shard, offset = np.array([1, 0, 0, 1, 1]), np.array([4, 2, 0, 0, 3])
    rows = np.concatenate([shards[s][o] for s, o in zip(shard, offset, strict=True)])
    return PatchFeatures(Storage(), uris, shard, offset, T), rows


def test_rows_are_those_of_the_chosen_images(features):
    found, expected = features
    assert found.shape == (15, F)
    assert found.nbytes == expected.nbytes
    order = np.random.default_rng(1).permutation(15)
    np.testing.assert_array_equal(found[order], expected[order])
    np.testing.assert_array_equal(found.read_all(), expected)


def test_they_are_held_where_they_fit(features):
    found, expected = features
    held, said = held_rows(found, expected.nbytes)
    assert isinstance(held, np.ndarray)
    np.testing.assert_array_equal(held, expected)
    assert said == "0.00 GB of patch features held in memory by each worker"
    streamed, said = held_rows(found, expected.nbytes - 1)
    assert streamed is found
    assert "read from the shards as needed" in said


def test_this_machine_has_some_memory_left():
    assert free_memory() > 2**20
