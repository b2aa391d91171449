"""Folds, choices made on the test set, figures by class, and that the final test images choose nothing."""

from dataclasses import replace

import numpy as np
import pytest
from planted_zsl import TRAIN, UNSEEN, VAL, Planted
from scipy import stats

from vgse.zsl.choosing import choose, fitted, training_margins, try_grid
from vgse.zsl.episode import ImageSet
from vgse.zsl.metrics import harmonic_mean
from vgse.zsl.models import zsl_models
from vgse.zsl.prepared import PreparedEpisode, scaled_embeddings
from vgse.zsl.protocol import evaluate_arm, evaluate_arm_as_published, evaluate_arms
from vgse.zsl.settings import PrototypeSettings, SjeSettings, ZslSettings

SETTINGS = ZslSettings(
    gammas=(0.01, 1.0, 100.0),
    lambdas=(0.01, 1.0, 100.0),
    sje=SjeSettings(learning_rates=(0.01, 0.1), weight_decays=(0.1,), epochs=(1, 4), batch=128),
    prototype=PrototypeSettings((0.03, 1.0), (1e-4, 0.1, 10.0)),
)
SEEN = TRAIN + VAL
MODELS = SETTINGS.models


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problem():
    """Three folds over the seen classes with noisy embeddings, (embeddings, episodes), and the final episode."""
    planted = Planted(seed=1)
    noisy_CK = planted.e_CK + 0.8 * np.random.default_rng(9).normal(size=planted.e_CK.shape)
    folds, embeddings = [], []
    for held in np.array_split(np.random.default_rng(2).permutation(SEEN), 3):
        seen = np.setdiff1d(np.arange(SEEN), held)
        folds.append(planted.episode(seen, held))
        embeddings.append(noisy_CK[np.concatenate([seen, held])])
    final = planted.episode(np.arange(SEEN), np.arange(SEEN, SEEN + UNSEEN))
    return embeddings, folds, noisy_CK, final


@pytest.fixture(scope="module")
def honest(problem):
    return evaluate_arm(*problem, SETTINGS)


@pytest.fixture(scope="module")
def published(problem):
    return evaluate_arm_as_published(problem[2], problem[3], SETTINGS)


def parameters_of(chosen):
    return {name: value for name, value in chosen.items() if name not in ("on_choice", "on_test", "calibration")}


@pytest.mark.parametrize("name", MODELS)
def test_folds_choose_what_wins_on_the_mean(problem, honest, name):
    embeddings, folds, _, _ = problem
    model = zsl_models([name])[name]
    prepared = [PreparedEpisode(fold, SETTINGS) for fold in folds]
    scaled = [scaled_embeddings(e, fold.seen_C, True, True) for e, fold in zip(embeddings, folds, strict=True)]
    # Every element of the grid on its own, no state shared.
    for figure, chosen in honest[name].chosen.items():
        reached = {
            number: np.mean([getattr(try_grid(model, e, one, [parameters]), figure).popitem()[1]
                             for e, one in zip(scaled, prepared, strict=True)])
            for number, parameters in enumerate(model.grid(SETTINGS))
        }  # fmt: skip
        best = max(reached.values())
        assert chosen["on_choice"] == pytest.approx(best, abs=1e-9)
        number = model.grid(SETTINGS).index(parameters_of(chosen))
        assert reached[number] == pytest.approx(best, abs=1e-9)


def test_the_constant_carried_over_is_the_mean_of_the_folds_constants(problem, honest):
    embeddings, folds, _, _ = problem
    chosen = honest["eszsl"].chosen["H"]
    model, expected = zsl_models(["eszsl"])["eszsl"], []
    for e_CK, fold in zip(embeddings, folds, strict=True):
        prepared, scaled_CK = PreparedEpisode(fold, SETTINGS), scaled_embeddings(e_CK, fold.seen_C, True, True)
        (constant,) = try_grid(model, scaled_CK, prepared, [parameters_of(chosen)]).constant.values()
        (scored,) = fitted(model, scaled_CK, prepared, [parameters_of(chosen)])
        middle, spread = training_margins(scored, prepared)
        expected.append((constant - middle) / spread)
    assert np.ptp(expected) > 0
    assert chosen["calibration"] == pytest.approx(np.mean(expected), rel=1e-9)


class Rigged:
    """A model with three candidates; each sees its own third of the embeddings' columns."""

    def __init__(self, real):
        self.real = real

    def grid(self, settings):
        return [{"noise": noise} for noise in (0, 1, 2)]

    def fit(self, prepared, embeddings_CK, grid):
        """The real model on each candidate's columns."""
        width = embeddings_CK.shape[1] // 3
        for parameters in grid:
            block = slice(parameters["noise"] * width, (parameters["noise"] + 1) * width)
            (group,) = self.real.fit(prepared, embeddings_CK[:, block], [{"gamma": 1.0, "lambda": 1.0}])
            yield replace(group, rights=[(parameters, group.rights[0][1])])


def test_the_mean_overrules_single_folds(problem):
    """Candidate 0 is best in fold one only, candidate 2 in fold two only, candidate 1 is good in both."""
    folds = problem[1]
    planted, rng = Planted(seed=1), np.random.default_rng(2)
    held_of = np.array_split(rng.permutation(SEEN), 3)[:2]
    noise_of = ((0.0, 0.7, 4.0), (4.0, 0.7, 0.0))
    embeddings = []
    for held, noises in zip(held_of, noise_of, strict=True):
        e_CK = planted.e_CK[np.concatenate([np.setdiff1d(np.arange(SEEN), held), held])]
        draws = np.random.default_rng(3)
        embeddings.append(np.concatenate([e_CK + noise * draws.normal(size=e_CK.shape) for noise in noises], axis=1))
    model = Rigged(zsl_models(["eszsl"])["eszsl"])
    prepared = [PreparedEpisode(fold, SETTINGS) for fold in folds[:2]]
    alone = [choose(model, [e], [one], SETTINGS) for e, one in zip(embeddings, prepared, strict=True)]
    together = choose(model, embeddings, prepared, SETTINGS)
    assert [one.for_H["noise"] for one in alone] == [0, 2]
    assert [one.for_T1["noise"] for one in alone] == [0, 2]
    assert together.for_H == together.for_T1 == {"noise": 1}
    assert all(one.H > together.H for one in alone)


@pytest.mark.parametrize("name", MODELS)
def test_looking_at_the_test_set_is_never_worse(honest, published, name):
    for figure in ("T1", "H"):
        assert getattr(published[name].figures, figure) >= getattr(honest[name].figures, figure)
        chosen = published[name].chosen[figure]
        assert "on_choice" not in chosen
        assert chosen["on_test"] == pytest.approx(getattr(published[name].figures, figure), abs=1e-12)
    assert set(published[name].chosen["H"]) - {"on_test"} == set(honest[name].chosen["H"]) - {"on_choice"}


def test_as_published_sje_tries_every_epoch(problem):
    _, _, noisy_CK, final = problem
    grids = [replace(SETTINGS, models=("sje",), sje=replace(SETTINGS.sje, epochs=e)) for e in ((4,), (1, 2, 3, 4))]
    found = [evaluate_arm_as_published(noisy_CK, final, settings)["sje"] for settings in grids]
    assert found[0] == found[1]
    assert 1 <= found[0].chosen["T1"]["epochs"] <= 4


@pytest.mark.parametrize("name", MODELS)
def test_figures_are_the_means_of_the_classes(honest, published, name):
    for result in (honest[name], published[name]):
        assert [len(result.per_class[figure]) for figure in ("T1", "u", "s")] == [UNSEEN, UNSEEN, SEEN]
        for figure, accuracies in result.per_class.items():
            assert accuracies.mean() == pytest.approx(getattr(result.figures, figure), abs=1e-12)
        u, s = result.per_class["u"].mean(), result.per_class["s"].mean()
        assert harmonic_mean(u, s) == pytest.approx(result.figures.H, abs=1e-12)


def test_figures_by_class_are_in_the_order_of_the_class_names(problem, honest):
    """A class whose images are another class's is never right; the others keep their place."""
    embeddings, folds, noisy_CK, final = problem
    labels = final.test_unseen.labels_N
    swapped = labels.copy()
    swapped[labels == SEEN + 3], swapped[labels == SEEN + 7] = SEEN + 7, SEEN + 3
    after = evaluate_arm(
        embeddings, folds, noisy_CK,
        replace(final, test_unseen=ImageSet(final.test_unseen.features_NF, swapped)), SETTINGS,
    )["prototype"].per_class["T1"]  # fmt: skip
    before = honest["prototype"].per_class["T1"]
    others = [row for row in range(UNSEEN) if row not in (3, 7)]
    np.testing.assert_array_equal(after[others], before[others])
    assert after[[3, 7]].sum() + before[[3, 7]].sum() <= 2.0
    assert np.any(after[[3, 7]] != before[[3, 7]])


@pytest.mark.parametrize("name", MODELS)
def test_hubness_is_the_skewness_of_how_often_classes_are_predicted(problem, honest, name):
    noisy_CK, final = problem[2:]
    model, prepared = zsl_models([name])[name], PreparedEpisode(final, SETTINGS)
    scaled_CK = scaled_embeddings(noisy_CK, final.seen_C, True, True)
    (scored,) = fitted(model, scaled_CK, prepared, [parameters_of(honest[name].chosen["T1"])])
    counts = [int((scored.unseen.best_unseen == c).sum()) for c in np.flatnonzero(~final.seen_C)]
    assert honest[name].hubness == pytest.approx(stats.skew(counts), rel=1e-9)


@pytest.mark.parametrize("what", ["unseen labels", "unseen features", "all test images"])
def test_the_final_test_images_choose_nothing(problem, honest, what):
    embeddings, folds, noisy_CK, final = problem
    rng = np.random.default_rng(3)

    def broken(images, labels=True, features=True):
        noise_NF = rng.normal(size=images.features_NF.shape).astype(np.float16)
        shuffled_N = rng.permutation(images.labels_N)
        return ImageSet(noise_NF if features else images.features_NF, shuffled_N if labels else images.labels_N)

    changes = {
        "unseen labels": lambda: {"test_unseen": broken(final.test_unseen, features=False)},
        "unseen features": lambda: {"test_unseen": broken(final.test_unseen, labels=False)},
        "all test images": lambda: {"test_unseen": broken(final.test_unseen), "test_seen": broken(final.test_seen)},
    }
    after = evaluate_arm(embeddings, folds, noisy_CK, replace(final, **changes[what]()), SETTINGS)
    for name in MODELS:
        assert after[name].chosen == honest[name].chosen
        assert after[name].figures.T1 < honest[name].figures.T1


def test_folds_and_arms_must_fit(problem):
    embeddings, folds, noisy_CK, final = problem
    with pytest.raises(ValueError, match="2 class embeddings for 3 choice episodes"):
        evaluate_arm(embeddings[:2], folds, noisy_CK, final, SETTINGS)
    with pytest.raises(ValueError, match="0 choice episodes"):
        evaluate_arm([], [], noisy_CK, final, SETTINGS)
    with pytest.raises(ValueError, match="differ"):
        evaluate_arms([{"vgse": e} for e in embeddings[:2]] + [{}], folds, {"vgse": noisy_CK}, final, SETTINGS)
