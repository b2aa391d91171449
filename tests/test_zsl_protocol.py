"""The whole evaluation on planted problems: good embeddings win, random ones reach chance, tests choose nothing."""

from dataclasses import replace

import numpy as np
import pytest
from planted_zsl import TRAIN, UNSEEN, VAL, WIDTH, Planted

from vgse.errors import DataError
from vgse.zsl.episode import ImageSet
from vgse.zsl.metrics import Figures, harmonic_mean
from vgse.zsl.prepared import PreparedEpisode, feature_statistics, scaled_embeddings
from vgse.zsl.protocol import ModelResult, evaluate_arm, evaluate_arms
from vgse.zsl.settings import SjeSettings, ZslSettings
from vgse.zsl.summary import aggregate
from vgse.zsl.table import results_text

SETTINGS = ZslSettings(
    gammas=(0.01, 0.1, 1.0),
    lambdas=(0.01, 1.0),
    sje=SjeSettings(learning_rates=(0.01,), weight_decays=(0.1,), epochs=(2, 5), batch=128),
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problem():
    planted = Planted()
    train, val = np.arange(TRAIN), np.arange(TRAIN, TRAIN + VAL)
    unseen = np.arange(TRAIN + VAL, TRAIN + VAL + UNSEEN)
    choice, final = planted.episode(train, val), planted.episode(np.concatenate([train, val]), unseen)
    return planted.e_CK, choice, final


def test_true_embeddings_win_and_random_ones_reach_chance(problem):
    e_CK, choice, final = problem
    draws = []
    for seed in range(5):
        rng = np.random.default_rng([7, seed])
        random = [rng.normal(size=(len(e.seen_C), WIDTH)) for e in (choice, final)]
        draws.append(evaluate_arm([random[0]], [choice], random[1], final, SETTINGS))
    good = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, SETTINGS)
    for model in ("eszsl", "sje", "prototype"):
        figures = good[model].figures
        assert figures.T1 > 0.85, model
        assert figures.H > 0.6, model
        assert abs(figures.H - harmonic_mean(figures.u, figures.s)) < 1e-12
        assert abs(np.mean([draw[model].figures.T1 for draw in draws]) - 1 / UNSEEN) < 0.1, model


def test_the_calibration_carries_to_the_final_fit(problem):
    e_CK, choice, final = problem
    figures = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, SETTINGS)["eszsl"].figures
    # Without calibration seen classes win nearly everywhere; the carried constant must bring u and s near each other.
    assert 0.5 < figures.u / figures.s < 2.0


def scrambled(final, what):
    rng = np.random.default_rng(3)

    def scramble(images):
        if what == "labels":
            return ImageSet(images.features_NF, rng.permutation(images.labels_N))
        noise = rng.normal(size=images.features_NF.shape).astype(np.float16)
        return ImageSet(noise, images.labels_N)

    return replace(final, test_seen=scramble(final.test_seen), test_unseen=scramble(final.test_unseen))


@pytest.mark.parametrize("what", ["labels", "features"])
def test_scrambled_test_images_change_figures_but_no_choice(problem, what):
    e_CK, choice, final = problem
    before = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, SETTINGS)
    after = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, scrambled(final, what), SETTINGS)
    for model in before:
        assert after[model].chosen == before[model].chosen
        assert after[model].figures.T1 < 0.3 < before[model].figures.T1


def test_prediction_of_an_image_does_not_depend_on_the_other_test_images(problem):
    e_CK, choice, final = problem
    order = np.random.default_rng(0).permutation(len(final.test_unseen))
    images = ImageSet(final.test_unseen.features_NF[order], final.test_unseen.labels_N[order])
    doubled = ImageSet(np.repeat(images.features_NF, 2, axis=0), np.repeat(images.labels_N, 2))
    before = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, SETTINGS)
    after = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, replace(final, test_unseen=doubled), SETTINGS)
    for model in before:
        assert after[model].figures.as_dict() == pytest.approx(before[model].figures.as_dict(), abs=1e-9)


def test_what_was_chosen_is_told_with_its_unit(problem):
    e_CK, choice, final = problem
    chosen = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, SETTINGS)
    assert set(chosen["eszsl"].chosen["T1"]) == {"gamma", "lambda", "on_choice"}
    assert set(chosen["eszsl"].chosen["H"]) == {"gamma", "lambda", "calibration", "on_choice"}
    assert set(chosen["sje"].chosen["H"]) == {"learning_rate", "weight_decay", "epochs", "calibration", "on_choice"}
    assert set(chosen["prototype"].chosen["H"]) == {"shrinkage", "ridge", "calibration", "on_choice"}
    assert chosen["eszsl"].chosen["T1"]["gamma"] in SETTINGS.gammas


def test_scale_of_embeddings_and_features_does_not_matter(problem):
    e_CK, choice, final = problem
    settings = replace(SETTINGS, models=("eszsl",), l2_features=False)

    def times(episode, factor):
        parts = {
            part: ImageSet(
                getattr(episode, part).features_NF.astype(np.float32) * factor, getattr(episode, part).labels_N
            )
            for part in ("train", "test_seen", "test_unseen")
        }
        return replace(episode, **parts)

    once = evaluate_arm([e_CK[: TRAIN + VAL]], [times(choice, 1)], e_CK, times(final, 1), settings)["eszsl"]
    large = evaluate_arm([16 * e_CK[: TRAIN + VAL]], [times(choice, 8)], 16 * e_CK, times(final, 8), settings)["eszsl"]
    assert large.figures.as_dict() == pytest.approx(once.figures.as_dict(), abs=0.01)
    assert large.chosen["T1"]["gamma"] == once.chosen["T1"]["gamma"]


def test_statistics_made_elsewhere_and_small_chunks_give_the_same(problem):
    e_CK, choice, final = problem
    small = replace(SETTINGS, chunk=64, models=("eszsl",))
    prepared = PreparedEpisode(final, small, feature_statistics(final, small))
    one = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, prepared, small)["eszsl"].figures
    other = evaluate_arm([e_CK[: TRAIN + VAL]], [choice], e_CK, final, replace(small, chunk=10_000))["eszsl"].figures
    assert one.as_dict() == pytest.approx(other.as_dict(), abs=0.005)
    with pytest.raises(ValueError, match="statistics of"):
        PreparedEpisode(final, small, feature_statistics(choice, small))


def test_embeddings_keep_their_relative_lengths():
    e_CK = np.array([[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    seen_C = np.array([True, True, False])
    scaled = scaled_embeddings(e_CK, seen_C, centre=False)
    np.testing.assert_allclose(scaled, e_CK / 2.0)
    centred = scaled_embeddings(e_CK, seen_C, centre=True)
    np.testing.assert_allclose(centred[seen_C].mean(0), 0, atol=1e-12)
    assert np.linalg.norm(centred[seen_C], axis=1).mean() == pytest.approx(1.0)


def test_unseen_embeddings_are_as_long_as_seen_ones_if_asked():
    rng = np.random.default_rng(3)
    seen_C = np.arange(30) < 20
    e_CK = rng.normal(size=(30, 6)) + 2.0
    e_CK[~seen_C] = e_CK[seen_C].mean(0) + 0.3 * (e_CK[~seen_C] - e_CK[seen_C].mean(0))
    plain, matched = (scaled_embeddings(e_CK, seen_C, True, match) for match in (False, True))
    np.testing.assert_array_equal(plain[seen_C], matched[seen_C])
    assert np.linalg.norm(plain[~seen_C], axis=1).mean() < 0.5
    assert np.linalg.norm(matched[~seen_C], axis=1).mean() == pytest.approx(1.0)
    ratio_U = np.linalg.norm(matched[~seen_C], axis=1) / np.linalg.norm(plain[~seen_C], axis=1)
    np.testing.assert_allclose(ratio_U, ratio_U[0])
    # Unseen rows that are all the seen mean have no length to match.
    e_CK[~seen_C] = e_CK[seen_C].mean(0)
    assert np.isfinite(scaled_embeddings(e_CK, seen_C, True, True)).all()


def test_length_matching_changes_gzsl_and_not_T1(problem):
    e_CK, choice, final = problem
    shrunk_CK = np.where(final.seen_C[:, None], e_CK, 0.2 * e_CK + 0.8 * e_CK[final.seen_C].mean(0))
    small = replace(SETTINGS, models=("eszsl",), match_lengths=False)
    plain, matched = (
        evaluate_arm([shrunk_CK[: TRAIN + VAL]], [choice], shrunk_CK, final, each)["eszsl"].figures
        for each in (small, replace(small, match_lengths=True))
    )
    assert matched.T1 == plain.T1
    assert matched.H > plain.H


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (1.0, "same embedding")])
def test_useless_embeddings_are_refused(value, message):
    with pytest.raises(DataError, match=message):
        scaled_embeddings(np.full((4, 3), value), np.array([True, True, True, False]), centre=True)


def test_episode_names_the_class_that_is_wrong(problem):
    final = problem[2]
    labels = final.train.labels_N.copy()
    labels[0] = TRAIN + VAL
    with pytest.raises(DataError, match="images in train belong to class_30, which is unseen"):
        replace(final, train=ImageSet(final.train.features_NF, labels))
    without = final.test_unseen.labels_N != TRAIN + VAL + 2
    images = ImageSet(final.test_unseen.features_NF[without], final.test_unseen.labels_N[without])
    with pytest.raises(DataError, match="no image in test_unseen of class_32"):
        replace(final, test_unseen=images)
    with pytest.raises(DataError, match="no zero-shot problem"):
        replace(final, seen_C=np.ones_like(final.seen_C))


def test_wrong_settings_and_arms_are_refused(problem):
    e_CK, choice, final = problem
    with pytest.raises(ValueError, match="devise"):
        ZslSettings(models=("devise",))
    with pytest.raises(ValueError, match="gammas"):
        ZslSettings(gammas=())
    with pytest.raises(ValueError, match="differ"):
        evaluate_arms([{"vgse": e_CK}], [choice], {"random": e_CK}, final, SETTINGS)
    with pytest.raises(ValueError, match="do not fit"):
        evaluate_arm([e_CK], [choice], e_CK, final, SETTINGS)


def test_all_arms_share_one_preparation(problem):
    e_CK, choice, final = problem
    done = []
    arms = {"vgse": e_CK, "shifted": e_CK + 1.0}
    results = evaluate_arms(
        [{name: e[: TRAIN + VAL] for name, e in arms.items()}], [choice], arms, final,
        replace(SETTINGS, models=("eszsl",)), done.append,
    )  # fmt: skip
    assert done == ["vgse", "shifted"]
    # Embeddings are centred, so a shift of all classes changes nothing.
    assert results["vgse"]["eszsl"].figures.as_dict() == pytest.approx(results["shifted"]["eszsl"].figures.as_dict())


def result(T1, H):
    per_class = {"T1": np.array([T1]), "u": np.array([0.2]), "s": np.array([0.6])}
    return {"eszsl": ModelResult(Figures(T1, 0.2, 0.6, H), {"T1": {"gamma": 1.0}, "H": {"gamma": 2.0}}, per_class, 0.5)}


def test_one_split_gives_plain_numbers():
    summary = aggregate([{"vgse": result(0.4, 0.3)}])
    assert summary["arms"] == {"vgse": {"eszsl": {"T1": 0.4, "u": 0.2, "s": 0.6, "H": 0.3}}}
    assert summary["protocol"]["class_splits"] == 1
    assert summary["protocol"]["chosen"]["vgse"]["eszsl"] == [{"T1": {"gamma": 1.0}, "H": {"gamma": 2.0}}]


def test_several_splits_give_mean_std_and_values():
    summary = aggregate([{"vgse": result(0.4, 0.3)}, {"vgse": result(0.2, 0.3)}])
    found = summary["arms"]["vgse"]["eszsl"]["T1"]
    assert found == {"mean": pytest.approx(0.3), "std": pytest.approx(np.sqrt(0.02)), "values": [0.4, 0.2]}
    with pytest.raises(ValueError, match="split 1"):
        aggregate([{"vgse": result(0.4, 0.3)}, {"oracle": result(0.2, 0.3)}])
    with pytest.raises(ValueError, match="no split"):
        aggregate([])


def test_table_puts_vgse_first_and_the_oracle_last():
    arms = aggregate([{name: result(0.4, 0.3) for name in ("oracle", "random", "vgse")}])["arms"]
    lines = results_text(arms, "CIFAR-100").splitlines()
    order = [word for line in lines for word in ("vgse", "random", "oracle") if word in line]
    assert order == ["vgse", "random", "oracle"]
    row = next(line for line in lines if "random" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["random", "40.0", "20.0", "60.0", "30.0"]
    several = aggregate([{"vgse": result(0.4, 0.3)}, {"vgse": result(0.2, 0.3)}])["arms"]
    assert "30.0 ± 14.1" in results_text(several)
