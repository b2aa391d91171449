"""The whitened-prototype classifier against the formulas written out densely, image by image."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from planted_zsl import TRAIN, VAL, Planted

from vgse.zsl.choosing import fitted
from vgse.zsl.episode import ImageSet
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.features import FeatureMap
from vgse.zsl.models import Prototype
from vgse.zsl.prepared import PreparedEpisode, feature_statistics
from vgse.zsl.prototype import EmbeddingRidge, WithinSpectrum
from vgse.zsl.settings import PrototypeSettings, ZslSettings

SETTINGS = ZslSettings(models=("prototype",), prototype=PrototypeSettings((0.05, 1.0), (1e-3, 0.1, 10.0)))


@pytest.fixture(scope="module")
def planted():
    problem = Planted(seed=4)
    return problem.e_CK[: TRAIN + VAL], problem.episode(np.arange(TRAIN), np.arange(TRAIN, TRAIN + VAL))


def few_features(episode, width):
    """The episode with so few features that there are more classes than features."""
    parts = {part: getattr(episode, part) for part in ("train", "test_seen", "test_unseen")}
    return replace(episode, **{n: ImageSet(p.features_NF[:, :width], p.labels_N) for n, p in parts.items()})


def unevenly(episode):
    """The episode with fewer training images for some classes, so that means over classes and over images differ."""
    keep = (np.arange(len(episode.train)) % 3 == 0) | (episode.train.labels_N > 8)
    return replace(episode, train=ImageSet(episode.train.features_NF[keep], episode.train.labels_N[keep]))


def dense_scores(episode, e_CK, part, shrinkage, ridge):
    """Cosines (N, C), from whole matrices; features L2-normalised and centred on the training mean."""

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    x_NF, y_N = unit(episode.train.features_NF.astype(np.float64)), episode.train.labels_N
    mean_F = x_NF.mean(0)
    x_NF = x_NF - mean_F
    seen = np.flatnonzero(episode.seen_C)
    v_SF = np.stack([x_NF[y_N == c].mean(0) for c in seen])
    around_NF = x_NF - v_SF[np.searchsorted(seen, y_N)]
    within_FF = around_NF.T @ around_NF / len(x_NF)
    lam = shrinkage * np.trace(within_FF) / len(within_FF)
    values, vectors = np.linalg.eigh(within_FF + lam * np.eye(len(within_FF)))
    m_FF = vectors @ np.diag(values**-0.5) @ vectors.T
    e_SK = e_CK[seen] - e_CK[seen].mean(0)
    rho = ridge * np.trace(e_SK @ e_SK.T) / len(seen)
    a_KF = np.linalg.solve(e_SK.T @ e_SK + rho * np.eye(e_SK.shape[1]), e_SK.T @ (v_SF - v_SF.mean(0)))
    v_CF = (e_CK - e_CK[seen].mean(0)) @ a_KF + v_SF.mean(0)
    v_CF[seen] = v_SF
    queries_NF = unit(getattr(episode, part).features_NF.astype(np.float64)) - mean_F
    return unit(queries_NF @ m_FF) @ unit(v_CF @ m_FF).T


@pytest.mark.parametrize("width", [40, 7], ids=["fewer classes than features", "more classes than features"])
@pytest.mark.parametrize("part", ["test_seen", "test_unseen", "train"])
def test_scores_are_the_formulas_written_out(planted, part, width):
    e_CK, episode = planted
    episode = few_features(unevenly(episode), width)
    prepared = PreparedEpisode(episode, replace(SETTINGS, chunk=50))
    groups = list(Prototype().fit(prepared, e_CK, Prototype().grid(SETTINGS)))
    found = [
        (parameters, np.concatenate(list(group.queries(part))) @ right_CK.T)
        for group in groups
        for parameters, right_CK in group.rights
    ]
    assert len(found) == 6
    for parameters, scores_NC in found:
        expected_NC = dense_scores(episode, e_CK, part, parameters["shrinkage"], parameters["ridge"])
        np.testing.assert_allclose(scores_NC, expected_NC, atol=2e-5)
        assert np.abs(expected_NC).max() > 0.3


def test_enough_dimensions_and_a_tiny_ridge_carry_prototypes_by_the_relation():
    rng = np.random.default_rng(0)
    seen_C = rng.permutation(np.arange(25) < 18)
    v_SF, r_US = rng.normal(size=(18, 30)), rng.dirichlet(np.ones(18), 7)
    for width in (18, 60):
        phi_SK = rng.normal(size=(18, width))
        e_CK = np.empty((25, width))
        e_CK[seen_C], e_CK[~seen_C] = phi_SK, r_US @ phi_SK
        found_CF = EmbeddingRidge(e_CK, seen_C).predict(v_SF, 1e-10)
        np.testing.assert_allclose(found_CF[~seen_C], r_US @ v_SF, atol=1e-5)
        np.testing.assert_array_equal(found_CF[seen_C], v_SF)
    # With too few dimensions the embeddings decide, too.
    phi_SK = rng.normal(size=(18, 5))
    e_CK = np.empty((25, 5))
    e_CK[seen_C], e_CK[~seen_C] = phi_SK, r_US @ phi_SK
    assert np.abs(EmbeddingRidge(e_CK, seen_C).predict(v_SF, 1e-10)[~seen_C] - r_US @ v_SF).max() > 0.1


def test_statistics_of_parts_give_the_whole(planted):
    episode = planted[1]
    whole = feature_statistics(episode, SETTINGS)
    merged = EszslStatistics(episode.feature_dim, TRAIN)
    plain = FeatureMap(SETTINGS.l2_features)
    for rows in np.array_split(np.random.default_rng(1).permutation(len(episode.train)), 4):
        part = EszslStatistics(episode.feature_dim, TRAIN)
        part.add(plain(episode.train.features_NF[rows]), episode.seen_positions(episode.train.labels_N)[rows])
        merged.merge(part)
    one, other = WithinSpectrum.of(whole.centred()), WithinSpectrum.of(merged.centred())
    np.testing.assert_allclose(one.values_F, other.values_F, rtol=1e-7)
    assert one.unit == pytest.approx(other.unit, rel=1e-9)
    # Eigenvectors have a free sign; what is made of them has none.
    x_BF = np.random.default_rng(2).normal(size=(9, episode.feature_dim)).astype(np.float32)
    scores = []
    for spectrum in (one, other):
        left_FR, prototypes_SR = spectrum.whitened(0.1)
        scores.append(x_BF @ left_FR @ prototypes_SR.T)
        np.testing.assert_allclose(spectrum.lengths(x_BF, (0.1,)), one.lengths(x_BF, (0.1,)), rtol=1e-4)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4 * np.abs(scores[0]).max())


@pytest.mark.parametrize("l2", [True, False])
def test_the_scale_of_an_image_does_not_matter(planted, l2):
    """With l2 off and no centring, nothing but the cosine takes the length of an image out."""
    e_CK, episode = planted
    settings = replace(SETTINGS, l2_features=l2, centre_features=l2)
    factor_N = np.random.default_rng(0).choice([0.25, 1.0, 4.0], len(episode.test_unseen)).astype(np.float32)
    images = ImageSet(episode.test_unseen.features_NF * factor_N[:, None], episode.test_unseen.labels_N)
    tops = []
    for one in (episode, replace(episode, test_unseen=images)):
        prepared, grid = PreparedEpisode(one, settings), Prototype().grid(settings)
        tops.append([scored.unseen for scored in fitted(Prototype(), e_CK, prepared, grid)])
    for one, other in zip(*tops, strict=True):
        np.testing.assert_array_equal(one.best_unseen, other.best_unseen)
        np.testing.assert_allclose(one.margins, other.margins, atol=1e-5)


def test_classes_without_spread_are_not_whitened(planted):
    episode = planted[1]
    first = [int(np.flatnonzero(episode.train.labels_N == c)[0]) for c in range(TRAIN)]
    single = replace(episode, train=ImageSet(episode.train.features_NF[first], episode.train.labels_N[first]))
    spectrum = PreparedEpisode(single, SETTINGS).within
    assert spectrum.unit == 1.0
    x_BF = np.random.default_rng(0).normal(size=(5, episode.feature_dim)).astype(np.float32)
    np.testing.assert_allclose(spectrum.lengths(x_BF, (1.0,))[:, 0], np.linalg.norm(x_BF, axis=1), rtol=1e-5)


def test_queries_too_large_to_keep_and_a_pickled_episode_give_the_same(planted, monkeypatch):
    e_CK, episode = planted
    grid = Prototype().grid(SETTINGS)
    prepared = PreparedEpisode(episode, SETTINGS)

    def margins(one):
        return [scored.unseen.margins for scored in fitted(Prototype(), e_CK, one, grid)]

    kept = margins(prepared)
    assert prepared._queries
    copy = pickle.loads(pickle.dumps(prepared))
    assert not copy._queries
    assert not copy._kept
    assert "whitened_lengths" in copy.__dict__
    np.testing.assert_array_equal(margins(copy), kept)
    monkeypatch.setattr("vgse.zsl.prepared._KEPT_VALUES", 0)
    anew = PreparedEpisode(episode, SETTINGS)
    np.testing.assert_array_equal(margins(anew), kept)
    assert not anew._queries


@pytest.mark.parametrize("changes", [{"shrinkages": ()}, {"ridges": (0.0,)}])
def test_useless_grids_are_refused(changes):
    with pytest.raises(ValueError, match=f"prototype.{next(iter(changes))}"):
        ZslSettings(prototype=PrototypeSettings(**changes))
