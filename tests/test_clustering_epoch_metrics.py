"""The figures of an epoch: against plain NumPy, with the time spent waiting, and carried over a restart."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.epoch_metrics import EpochMetrics
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.objective import Losses
from vgse.clustering.training import FitSettings, InMemoryBatches, fit
from vgse.storage import Storage

K = 7
CPU = torch.device("cpu")


def _steps() -> list[tuple[np.ndarray, np.ndarray]]:
    """(terms: total, clu, pel, cls, sem; assignments of the step's rows), one row being wholly sure of its cluster."""
    rng = np.random.default_rng(0)
    steps = []
    for rows in (5, 9, 2):
        a_BK = rng.dirichlet(np.ones(K), rows).astype(np.float32)
        a_BK[0] = np.eye(K)[3]
        steps.append((rng.normal(size=5).astype(np.float32), a_BK))
    return steps


def _add(metrics: EpochMetrics, terms: np.ndarray, a_BK: np.ndarray) -> None:
    values = [torch.tensor(float(each)) for each in terms]
    nothing = torch.zeros(())
    metrics.add(Losses(*values, torch.tensor(float(len(a_BK))), nothing, nothing), torch.from_numpy(a_BK))


def test_figures_are_means_over_rows_not_over_steps():
    metrics = EpochMetrics(K, CPU)
    for terms, a_BK in _steps():
        _add(metrics, terms, a_BK)
    found = metrics.result()
    rows = np.array([len(a) for _, a in _steps()])
    means = np.average([terms for terms, _ in _steps()], axis=0, weights=rows)
    names = ("loss", "loss_clu", "loss_pel", "loss_cls", "loss_sem")
    np.testing.assert_allclose([found[name] for name in names], means, rtol=1e-6)
    a_NK = np.concatenate([a for _, a in _steps()]).astype(np.float64)
    share = np.bincount(a_NK.argmax(axis=1), minlength=K) / len(a_NK)
    assert found["rows"] == len(a_NK)
    assert found["used_clusters"] == (share > 0).sum()
    assert found["cluster_entropy"] == pytest.approx(-sum(p * math.log(p) for p in share if p), rel=1e-9)
    entropies = [-sum(p * math.log(p) for p in row if p) for row in a_NK]
    assert found["assignment_entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)


def test_what_a_restart_carries_over_is_counted_once():
    whole, first, second = (EpochMetrics(K, CPU) for _ in range(3))
    steps = _steps()
    for step in steps:
        _add(whole, *step)
    for step in steps[:2]:
        _add(first, *step)
    first.waited(4.0)
    second.load_state_dict(first.state_dict())
    _add(second, *steps[2])
    expected, found = whole.result(), second.result()
    for name in ("loss", "cluster_entropy", "assignment_entropy", "rows", "used_clusters"):
        assert found[name] == pytest.approx(expected[name], rel=1e-9)
    assert found["wait_share"] * found["seconds"] == pytest.approx(4.0)


class _Slow(InMemoryBatches):
    """Half a second late with the first batch of an epoch."""

    def epoch(self, epoch: int, first_step: int = 0):
        time.sleep(0.5)
        yield from super().epoch(epoch, first_step)


def test_an_epoch_tells_its_losses_rates_clusters_speed_and_waiting(tmp_path: Path):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(200, 6)).astype(np.float32), rng.integers(0, 3, 200)
    history: list[dict[str, float]] = []
    fit(
        ClusterNetwork(6, K, 3, 4),
        _Slow(features, labels, 50, 0, 1, 0),
        torch.randn(3, 4),
        FitSettings(epochs=2, global_batch=50),
        checkpoints=Checkpoints(Storage(), str(tmp_path)),
        on_epoch=history.append,
    )
    for figures in history:
        assert figures.keys() >= {
            "epoch", "step", "loss", "loss_clu", "loss_pel", "loss_cls", "loss_sem", "heads_learning_rate",
            "used_clusters", "cluster_entropy", "assignment_entropy", "rows", "rows_per_s", "wait_share",
        }  # fmt: skip
        assert figures["rows_per_s"] == pytest.approx(200 / figures["seconds"])
        assert 0.5 <= figures["wait_share"] * figures["seconds"] <= figures["seconds"]
    assert history[1]["heads_learning_rate"] < history[0]["heads_learning_rate"]
