"""The clustering network with and without a backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks

from vgse.clustering.backbones import build_backbone
from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.training import Batch, FitSettings, fit
from vgse.storage import Storage

SETTINGS = FitSettings(
    epochs=2, global_batch=12, neighbours=2, bank_size=24, backbone_learning_rate=1e-3, mixed_precision="false"
)


def test_shapes_and_probabilities():
    network = ClusterNetwork(7, 5, 3, 4)
    outputs = network(torch.randn(6, 7))
    assert [tuple(x.shape) for x in outputs] == [(6, 7), (6, 5), (6, 5), (6, 3), (6, 4)]
    torch.testing.assert_close(outputs.a_BK.sum(1), torch.ones(6))
    torch.testing.assert_close(network.assign(torch.ones(2, 7)), network(torch.ones(2, 7)).a_BK)
    assert network.training


def test_the_scale_of_features_does_not_matter():
    network, features = ClusterNetwork(7, 5, 3, 4), torch.randn(6, 7).abs()
    torch.testing.assert_close(network.assign(features), network.assign(1000 * features), rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_initial_weights():
    first, second, other = (ClusterNetwork(7, 5, 3, 4, seed=s).clusters.weight for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_features_of_another_size_than_the_backbones_are_refused():
    with pytest.raises(ValueError, match="128"):
        ClusterNetwork(7, 5, 3, 4, build_backbone("tiny"))


class _Pixels:
    """Random images in the same global batches on any number of ranks."""

    steps_per_epoch = 3

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def epoch(self, epoch: int, first_step: int = 0):
        rng = np.random.default_rng(epoch)
        for _ in range(self.steps_per_epoch):
            labels = rng.integers(0, 3, 12)
            pixels = (60 * labels[:, None, None, None] + rng.integers(0, 99, (12, 32, 32, 3))).astype(np.uint8)
            first, last = (12 * r // self.world_size for r in (self.rank, self.rank + 1))
            yield Batch(torch.from_numpy(pixels[first:last]), torch.from_numpy(labels[first:last]))


def _finetuned(rank: int, world_size: int, folder: str) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    network = ClusterNetwork(128, 8, 3, 4, build_backbone("tiny"))
    words = torch.eye(3, 4)
    fit(network, _Pixels(rank, world_size), words, SETTINGS, checkpoints=Checkpoints(Storage(), folder))
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def test_the_backbone_learns_with_the_heads_and_alike_on_two_ranks(tmp_path: Path):
    torch.manual_seed(0)
    initial = {f"backbone.{k}": v.numpy() for k, v in build_backbone("tiny").state_dict().items()}
    alone = _finetuned(0, 1, str(tmp_path / "one"))
    assert all(not np.array_equal(alone[name], value) for name, value in initial.items())
    for found in run_ranks(_finetuned, 2, str(tmp_path / "two")):
        for name, value in alone.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-4, err_msg=name)
