"""Gradients of a global batch: the same in one piece and in micro-batches, on one rank and on several."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vgse.clustering.backbones import build_backbone
from vgse.clustering.bank import NeighbourBank, unit
from vgse.clustering.compiling import compile_backbone
from vgse.clustering.global_step import GlobalStep
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.objective import ObjectiveWeights
from vgse.clustering.precision import backbone_precision
from vgse.errors import NonFiniteLossError

ROWS, K, S, W, SIZE = 26, 9, 4, 5, 16


def _network(dropout: float = 0.0) -> ClusterNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("tiny", input_size=SIZE)
    if dropout:
        backbone.model = nn.Sequential(backbone.model, nn.Dropout(dropout))
    return ClusterNetwork(backbone.spec.feature_dim, K, S, W, backbone, seed=1).train()


def _step(network: ClusterNetwork, accumulate: int, mixed_precision: str = "false") -> GlobalStep:
    random = torch.Generator().manual_seed(5)
    bank = NeighbourBank(40, network.feature_dim, K)
    bank.load_state_dict(
        {
            "features_MF": nn.functional.normalize(torch.randn(40, network.feature_dim, generator=random)),
            "a_MK": torch.rand(40, K, generator=random).softmax(dim=1),
            "written": torch.tensor(40),
        }
    )
    words_SW = torch.randn(S, W, generator=random)
    return GlobalStep(
        network,
        bank,
        words_SW,
        ObjectiveWeights(),
        neighbours=3,
        accumulate=accumulate,
        mixed_precision=mixed_precision,
        seed=3,
    )


def _pixels() -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (ROWS, SIZE, SIZE, 3)).astype(np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(random.integers(0, S, ROWS))


def _gradients(
    rank: int, world_size: int, accumulate: int, cuts: list[int], dropout: float = 0.0
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Gradients by name and the losses of one step, rank r holding the rows cuts[r] .. cuts[r + 1]."""
    torch.set_num_threads(1)
    network = _network(dropout)
    step = _step(network, accumulate)
    if world_size > 1:
        step.model = DistributedDataParallel(network, forward_sync_buffers=False, gradient_as_bucket_view=True)
    pixels, labels = _pixels()
    mine = slice(cuts[rank], cuts[rank + 1])
    losses, unit_BF, a_BK = step.backward(pixels[mine], labels[mine], step=7)
    assert unit_BF.shape == (cuts[rank + 1] - cuts[rank], network.feature_dim)
    assert a_BK.shape == (len(unit_BF), K)
    found = {name: p.grad.numpy().copy() for name, p in network.named_parameters() if p.grad is not None}
    return found, [float(value.detach()) for value in (losses.total, losses.clu, losses.pel, losses.cls, losses.sem)]


def _assert_same(found, expected, tolerance: float = 1e-5) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-4, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(found[1], expected[1], atol=tolerance)


@pytest.fixture(scope="module")
def whole():
    return _gradients(0, 1, 1, [0, ROWS])


@pytest.mark.parametrize("accumulate", [2, 5, ROWS, 1000])
def test_micro_batches_give_the_gradients_of_the_whole_batch(accumulate, whole):
    _assert_same(_gradients(0, 1, accumulate, [0, ROWS]), whole)


@pytest.mark.parametrize(
    ("cuts", "accumulate"),
    [([0, 13, 26], 1), ([0, 13, 26], 3), ([0, 2, 26], 4), ([0, 0, 26], 3), ([0, 9, 9, 20, 26], 2)],
)
def test_ranks_with_any_number_of_rows_give_them_too(cuts, accumulate, whole):
    for found in run_ranks(_gradients, len(cuts) - 1, accumulate, cuts):
        _assert_same(found, whole)


def test_dropout_is_the_same_in_both_passes():
    """Else the sums of the first pass would not be those of the second: the step is repeated without its graph."""
    network = _network(0.5)
    step = _step(network, 4)
    pixels, labels = _pixels()
    _, unit_BF, _ = step.backward(pixels, labels, step=7)
    part = ROWS // 4
    again = step._forward(network, pixels[:part], 7, 0)
    torch.testing.assert_close(unit(again.features_BF), unit_BF[:part])
    other = step._forward(network, pixels[:part], 8, 0)
    assert not torch.allclose(unit(other.features_BF), unit_BF[:part])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_gradient_that_is_not_finite_is_named(accumulate):
    network = _network()
    network.clusters.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteLossError) as caught:
        _step(network, accumulate).backward(*_pixels(), step=7)
    assert (caught.value.step, caught.value.term) == (7, "gradient of clusters.weight")


def test_bfloat16_is_close_and_gives_float32():
    exact, coarse = _network(), _network()
    pixels, labels = _pixels()
    losses, unit_BF, a_BK = _step(coarse, 1, "true").backward(pixels, labels, 0)
    expected, expected_BF, _ = _step(exact, 1, "false").backward(pixels, labels, 0)
    assert unit_BF.dtype == a_BK.dtype == losses.total.dtype == torch.float32
    assert float(losses.total) == pytest.approx(float(expected.total), abs=0.05)
    assert not torch.equal(unit_BF, expected_BF)
    cosine = nn.functional.cosine_similarity(coarse.clusters.weight.grad, exact.clusters.weight.grad, dim=1)
    assert float(cosine.min()) > 0.98


def test_automatic_precision_follows_the_device(monkeypatch):
    for fast in (True, False):
        monkeypatch.setattr("vgse.clustering.precision.fast_bf16", lambda device, fast=fast: fast)
        with backbone_precision(torch.device("cpu"), "auto"):
            assert torch.is_autocast_enabled("cpu") == fast


def test_a_backbone_that_cannot_be_compiled_stays_as_it_was(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no C++ compiler was found")

    backbone = _network().backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    pixels, _ = _pixels()
    features = backbone(pixels)
    monkeypatch.setattr(type(backbone.model), "compile", refuse)
    assert compile_backbone(backbone, "false") == "RuntimeError: no C++ compiler was found"
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(backbone(pixels), features)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_a_compiled_backbone_keeps_its_names_and_features():
    backbone = _network().backbone
    names, pixels = list(backbone.state_dict()), _pixels()[0]
    features = backbone(pixels)
    reason = compile_backbone(backbone, "false")
    if reason is not None:
        pytest.skip(f"torch.compile does not work here: {reason}")
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(pixels), features, rtol=1e-4, atol=1e-4)
