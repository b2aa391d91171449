"""The training loop: exact on any number of ranks, resumed without a trace, stopped before anything bad is saved."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks

from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.objective import ObjectiveWeights
from vgse.clustering.training import FitSettings, InMemoryBatches, fit
from vgse.errors import ConfigError, NonFiniteLossError
from vgse.storage import Storage

N, F, K, S, W = 230, 12, 10, 5, 6
SETTINGS = FitSettings(epochs=4, global_batch=64, bank_size=100, neighbours=3, learning_rate=1e-2)


def _data() -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, S, N)
    features = 3 * rng.normal(size=(S, F))[labels] + rng.normal(size=(N, F))
    return features.astype(np.float16), labels, torch.tensor(rng.normal(size=(S, W)), dtype=torch.float32)


class _Stop(Exception):
    """Ends a run from outside, as a kill would."""


def _train(
    rank: int, world_size: int, folder: str, settings: FitSettings = SETTINGS, stop_after: int | None = None
) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    features, labels, words = _data()
    torch.set_num_threads(1)
    source = InMemoryBatches(features, labels, settings.global_batch, rank, world_size, settings.seed)
    history: list[dict[str, float]] = []

    def on_epoch(figures: dict[str, float]) -> None:
        history.append(figures)
        if figures["epoch"] == stop_after:
            raise _Stop

    network = ClusterNetwork(F, K, S, W, seed=7)
    with contextlib.suppress(_Stop):
        fit(network, source, words, settings, checkpoints=Checkpoints(Storage(), folder), on_epoch=on_epoch)
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}, history


def _assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], list[dict[str, float]]]:
    return _train(0, 1, str(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_training_is_the_same_on_any_number_of_ranks(world_size: int, undisturbed, tmp_path: Path):
    expected, history = undisturbed
    results = run_ranks(_train, world_size, str(tmp_path))
    for weights, figures in results:
        _assert_same(weights, expected, 1e-4)
        for mine, theirs in zip(figures, history, strict=True):
            for key in ("loss", "loss_clu", "loss_pel", "loss_cls", "loss_sem", "assignment_entropy"):
                assert mine[key] == pytest.approx(theirs[key], abs=1e-4)
            for key in ("rows", "used_clusters", "step"):
                assert mine[key] == theirs[key]
    assert history[-1]["rows"] == N
    assert history[-1]["loss_cls"] < history[0]["loss_cls"]


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 2)])  # fmt: skip
def test_a_resumed_run_ends_like_an_undisturbed_one(before: int, after: int, undisturbed, tmp_path: Path):
    expected, history = undisturbed

    def on(world_size: int, *args: object) -> list:
        return [_train(0, 1, *args)] if world_size == 1 else run_ranks(_train, world_size, *args)

    on(before, str(tmp_path), SETTINGS, 2)
    for weights, figures in on(after, str(tmp_path)):
        assert [f["epoch"] for f in figures] == [3, 4]
        _assert_same(weights, expected, 1e-6 if before == after == 1 else 1e-4)
        assert figures[-1]["loss"] == pytest.approx(history[-1]["loss"], abs=1e-4)


def test_a_finished_run_is_loaded_and_not_trained_again(undisturbed, tmp_path: Path):
    _train(0, 1, str(tmp_path))
    weights, figures = _train(0, 1, str(tmp_path))
    assert figures == []
    _assert_same(weights, undisturbed[0], 0)
    saved = Checkpoints(Storage(), str(tmp_path)).latest()
    assert saved is not None
    assert saved.state["finished"] is True
    assert [figures["epoch"] for figures in saved.state["history"]] == [1, 2, 3, 4]


def test_a_checkpoint_of_other_settings_is_refused_with_the_fields(tmp_path: Path):
    _train(0, 1, str(tmp_path), SETTINGS, 1)
    other = FitSettings(
        epochs=4, global_batch=64, bank_size=100, neighbours=3, learning_rate=0.5, weights=ObjectiveWeights(1.0)
    )
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01, is 0\.5; weights was"):
        _train(0, 1, str(tmp_path), other)


def test_validation_comes_when_it_is_due_and_decides_which_checkpoints_are_the_best(tmp_path: Path):
    features, labels, words = _data()
    settings = dataclasses.replace(SETTINGS, epochs=5, validate_every=2, checkpoint_every=5)
    values, history, modes = iter([0.3, 0.1, 0.2]), [], []

    def validate(network: ClusterNetwork) -> dict[str, float]:
        modes.append(network.training)
        return {"val_T1": 0.5, "val_H": next(values)}

    checkpoints = Checkpoints(Storage(), str(tmp_path))
    source = InMemoryBatches(features, labels, settings.global_batch, 0, 1, settings.seed)
    network = ClusterNetwork(F, K, S, W, seed=7)
    fit(network, source, words, settings, checkpoints=checkpoints, on_epoch=history.append, validate=validate)
    assert [figures.get("val_H") for figures in history] == [None, 0.3, None, 0.1, 0.2]
    assert modes == [False] * 3
    best, latest = checkpoints.best(), checkpoints.latest()
    assert best is not None
    assert latest is not None
    # Checkpoints were due at the end only; the one of the second epoch is there because it is the best.
    assert (best.epoch, best.step, latest.epoch) == (2, 8, 5)
    assert best.state["history"][-1]["val_H"] == 0.3
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_a_run_on_another_number_of_patches_is_not_continued(tmp_path: Path):
    features, labels, words = _data()
    settings = dataclasses.replace(SETTINGS, checkpoint_every=0.5)

    def stop(step: int, steps: int) -> None:
        if step == 7:
            raise _Stop

    def train(rows: int) -> None:
        source = InMemoryBatches(features[:rows], labels[:rows], 64, 0, 1, 0)
        network = ClusterNetwork(F, K, S, W, seed=7)
        fit(network, source, words, settings, checkpoints=Checkpoints(Storage(), str(tmp_path)), on_step=stop)

    with pytest.raises(_Stop):
        train(N)
    saved = Checkpoints(Storage(), str(tmp_path)).latest()
    assert saved is not None
    assert (saved.step, saved.epoch, saved.position) == (6, 1, 2)
    with pytest.raises(ConfigError, match="an epoch had 4 steps, has 2"):
        train(100)


class _Poisoned(InMemoryBatches):
    """Gives one NaN among the features of one rank, in one batch."""

    def __init__(self, *args, poisoned_step: int | None) -> None:
        super().__init__(*args)
        self.poisoned_step, self.given = poisoned_step, 0

    def epoch(self, epoch: int, first_step: int = 0):
        for batch in super().epoch(epoch, first_step):
            if self.given == self.poisoned_step:
                batch.inputs[0, 0] = math.nan
            self.given += 1
            yield batch


def _break(rank: int, world_size: int, folder: str, where: str) -> tuple[int, int, str]:
    features, labels, words = _data()
    poisoned = 5 if rank == world_size - 1 else None
    source = _Poisoned(
        features, labels, 64, rank, world_size, 0, poisoned_step=poisoned if where == "features" else None
    )
    network = ClusterNetwork(F, K, S, W)
    if where == "gradient" and poisoned is not None:
        backward_passes = iter(range(100))
        network.clusters.weight.register_hook(lambda g: g * math.nan if next(backward_passes) >= poisoned else g)
    if where == "words" and poisoned is not None:
        words[:] = math.nan
    try:
        fit(network, source, words, SETTINGS, checkpoints=Checkpoints(Storage(), folder))
    except NonFiniteLossError as error:
        return error.step, error.rank, error.term
    raise AssertionError("training went on")


@pytest.mark.parametrize(
    ("where", "step", "term"),
    [("features", 5, "features"), ("gradient", 5, "gradient of clusters.weight"), ("words", 0, "L_sem")],
)
@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_stop_at_the_step_where_one_is_not_finite(
    world_size: int, where: str, step: int, term: str, tmp_path: Path
):
    found = run_ranks(_break, world_size, str(tmp_path), where)
    assert found == [(step, world_size - 1, term)] * world_size
    # Four steps an epoch: the checkpoint of the first epoch stays the last, and is sound.
    saved = Checkpoints(Storage(), str(tmp_path)).latest()
    assert (saved.epoch if saved else 0) == step // 4
    if saved:
        assert all(bool(torch.isfinite(value).all()) for value in saved.tensors.values())


def test_an_error_on_one_process_names_rank_zero(tmp_path: Path):
    assert _break(0, 1, str(tmp_path), "gradient") == (5, 0, "gradient of clusters.weight")


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_every_row_comes_once_per_epoch_in_the_same_global_batches(world_size: int):
    features, labels, _ = _data()
    alone = list(InMemoryBatches(features, labels, 64, 0, 1, 5).row_numbers(2))
    parts = [list(InMemoryBatches(features, labels, 64, r, world_size, 5).row_numbers(2)) for r in range(world_size)]
    for step, batch in enumerate(alone):
        np.testing.assert_array_equal(np.concatenate([part[step] for part in parts]), batch)
    assert sorted(np.concatenate(alone)) == list(range(N))
    assert len(alone) == InMemoryBatches(features, labels, 64, 0, 1, 5).steps_per_epoch == 4
    for step, batch in enumerate(InMemoryBatches(features, labels, 64, 0, 1, 5).row_numbers(2, first_step=3), 3):
        np.testing.assert_array_equal(batch, alone[step])
    other_epoch = next(InMemoryBatches(features, labels, 64, 0, 1, 5).row_numbers(3))
    assert not np.array_equal(alone[0], other_epoch)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_memory_map_serves_as_features(tmp_path: Path, ahead: bool):
    features, labels, _ = _data()
    np.save(tmp_path / "features.npy", features)
    source = InMemoryBatches(np.load(tmp_path / "features.npy", mmap_mode="r"), labels, 100, 0, 1, 0, ahead=ahead)
    batches = list(source.epoch(0))
    rows = np.concatenate(list(source.row_numbers(0)))
    assert batches[0].inputs.dtype == torch.float32
    np.testing.assert_array_equal(torch.cat([b.inputs for b in batches]).numpy(), features[rows].astype(np.float32))
    np.testing.assert_array_equal(torch.cat([b.labels_B for b in batches]).numpy(), labels[rows])


def test_blobs_use_most_of_twenty_clusters_and_collapse_without_the_two_terms(tmp_path: Path):
    rng = np.random.default_rng(1)
    blobs = rng.normal(size=(40, 16))
    which = rng.integers(0, 40, 2000)
    features = (4 * blobs[which] + rng.normal(size=(2000, 16))).astype(np.float32)
    labels, words = which % 10, torch.tensor(rng.normal(size=(10, 8)), dtype=torch.float32)
    used = {}
    for name, weights in (("all", ObjectiveWeights()), ("bare", ObjectiveWeights(0.0, 0.0, 1.0))):
        history: list[dict[str, float]] = []
        settings = FitSettings(epochs=15, global_batch=200, weights=weights, learning_rate=1e-2)
        fit(
            ClusterNetwork(16, 20, 10, 8),
            InMemoryBatches(features, labels, 200, 0, 1, 0),
            words,
            settings,
            checkpoints=Checkpoints(Storage(), str(tmp_path / name)),
            on_epoch=history.append,
        )
        used[name] = history[-1]["used_clusters"]
    assert used["all"] >= 18
    assert used["bare"] < used["all"]


def test_the_state_of_a_checkpoint_is_json_and_safetensors_only(tmp_path: Path):
    _train(0, 1, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000012", "checkpoint-000016", "latest.json"]
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".json", ".safetensors"}
    assert json.loads((tmp_path / "latest.json").read_text()) == {"checkpoint": "checkpoint-000016"}
