"""The first epochs of a finetune with the backbone left as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks

from vgse.clustering.backbones import build_backbone
from vgse.clustering.batches import Batch, InMemoryBatches
from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.training import FitSettings, fit
from vgse.storage import Storage

ROWS, K, S, W, SIZE = 40, 8, 4, 5, 16
SETTINGS = FitSettings(
    epochs=4, global_batch=16, bank_size=20, neighbours=2, head_epochs=2, mixed_precision="false", warmup_epochs=0.5
)


class Pixels(InMemoryBatches):
    """Pixels in memory."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch, first_step):
            yield Batch(batch.inputs.to(torch.uint8), batch.labels_B)


class _Stop(Exception):
    """Ends a run from outside, as a kill would."""


def _train(rank: int, world_size: int, folder: str, stop_after: int | None = None):
    """Backbone weights after every epoch, the last state, and the learning rates of the backbone."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    labels = random.integers(0, S, ROWS)
    pixels = (random.integers(0, 60, (ROWS, SIZE, SIZE, 3)) + 40 * labels[:, None, None, None]).astype(np.uint8)
    torch.manual_seed(0)
    backbone = build_backbone("tiny", input_size=SIZE)
    network = ClusterNetwork(backbone.spec.feature_dim, K, S, W, backbone, seed=1)
    weights, rates = [backbone.model.layers[0][0].weight.detach().numpy().copy()], []

    def on_epoch(figures: dict[str, float]) -> None:
        weights.append(backbone.model.layers[0][0].weight.detach().numpy().copy())
        rates.append(figures["backbone_learning_rate"])
        if figures["epoch"] == stop_after:
            raise _Stop

    source = Pixels(pixels, labels, SETTINGS.global_batch, rank, world_size, 0)
    words = torch.from_numpy(random.normal(size=(S, W)))
    with contextlib.suppress(_Stop):
        fit(network, source, words, SETTINGS, checkpoints=Checkpoints(Storage(), folder), on_epoch=on_epoch)
    return weights, {name: value.numpy().copy() for name, value in network.state_dict().items()}, rates


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return _train(0, 1, str(tmp_path_factory.mktemp("undisturbed")))


def test_the_backbone_joins_in_after_the_head_epochs(undisturbed):
    weights, _, rates = undisturbed
    assert [np.array_equal(weights[0], later) for later in weights[1:]] == [True, True, False, False]
    assert rates[:2] == [0.0, 0.0]
    # It warms up from then on: half an epoch of it, so that the rate after three epochs is past its peak.
    assert 0 < rates[3] < rates[2] <= SETTINGS.backbone_learning_rate


def test_it_is_the_same_on_two_ranks(undisturbed, tmp_path: Path):
    for _, state, _ in run_ranks(_train, 2, str(tmp_path)):
        for name, value in undisturbed[1].items():
            np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_it_resumes_on_either_side(stop_after: int, undisturbed, tmp_path: Path):
    _train(0, 1, str(tmp_path), stop_after)
    _, state, _ = _train(0, 1, str(tmp_path))
    for name, value in undisturbed[1].items():
        np.testing.assert_allclose(state[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
