"""Image features across shards, and the normal equations that Ray Data accumulates from them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from vgse.pipeline.features import pack
from vgse.pipeline.image_features import ImageFeatures
from vgse.pipeline.normal_equations import accumulated, accumulated_together
from vgse.storage import Storage
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.features import l2_rows
from vgse.zsl.prepared import feature_statistics
from vgse.zsl.settings import ZslSettings

SIZES = (7, 5, 9)


@pytest.fixture
def shards(tmp_path):
    """Three shards with both kinds of features, and all their rows in order."""
    rng = np.random.default_rng(0)
    arrays = [
        {name: rng.standard_normal((size, 6)).astype(np.float16) for name in ("whole", "patch_mean")} for size in SIZES
    ]
    for number, content in enumerate(arrays):
        (tmp_path / f"{number}.safetensors").write_bytes(pack(content))
    whole, mean = (np.concatenate([content[name] for content in arrays]) for name in ("whole", "patch_mean"))
    return [str(tmp_path / f"{number}.safetensors") for number in range(3)], whole, mean


def features(uris, kind, chosen=None):
    number = np.repeat(np.arange(3), SIZES)
    row = np.concatenate([np.arange(size) for size in SIZES])
    chosen = np.arange(sum(SIZES)) if chosen is None else chosen
    return ImageFeatures(Storage(), uris, number[chosen], row[chosen], kind)


@pytest.mark.parametrize("rows", [slice(4, 15), slice(0, 0), np.array([20, 0, 8, 8]), slice(None)])
@pytest.mark.parametrize("kind", ["whole", "patches", "both"])
def test_rows_are_those_of_the_joined_arrays(shards, kind, rows):
    uris, whole, mean = shards
    expected = {
        "whole": whole.astype(np.float32),
        "patches": mean.astype(np.float32),
        "both": np.concatenate([l2_rows(whole), l2_rows(mean)], axis=1),
    }[kind]
    found = features(uris, kind)
    assert (found.shape, len(found), found.size) == (expected.shape, len(expected), expected.size)
    np.testing.assert_array_equal(found[rows], expected[rows])


def test_it_pickles_without_its_rows(shards):
    uris, whole, _ = shards
    found = features(uris, "whole")
    found[:]
    sent = pickle.dumps(found)
    assert len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent)[3:9], whole[3:9].astype(np.float32))


@pytest.mark.usefixtures("ray_session")
def test_normal_equations_by_ray_data_are_those_of_one_process(shards):
    uris, _, _ = shards
    seen_C, rows = np.array([True, True, True, False]), np.arange(18)
    train = ImageSet(features(uris, "both", rows), rows % 3)
    test_seen, test_unseen = (
        ImageSet(features(uris, "both", chosen), labels)
        for chosen, labels in ((np.arange(18, 21), np.array([0, 1, 2])), (np.array([20]), np.array([3])))
    )
    episode = Episode(("a", "b", "c", "d"), seen_C, train, test_seen, test_unseen)
    settings = ZslSettings(chunk=4)
    here, there = feature_statistics(episode, settings), accumulated(episode, settings, in_process=0)
    np.testing.assert_allclose(there.gram_FF, here.gram_FF, atol=1e-12)
    np.testing.assert_allclose(there.sums_SF, here.sums_SF, atol=1e-12)
    assert there.count_S.tolist() == here.count_S.tolist() == [6, 6, 6]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("own", [False, True])
def test_folds_and_final_are_counted_in_one_go(shards, own):
    """Two folds in other class orders, each without a class and without some images; and one with other features."""
    uris, _, _ = shards
    kinds = ["whole" if own else "both", "both", "both"]
    names = (("c", "a", "b"), ("b", "c", "a"), ("a", "b", "c", "d"))
    seen = (("c", "a"), ("b", "c"), ("a", "b", "c"))
    rows_of = [np.arange(3, 18), np.arange(0, 15), np.arange(18)]
    episodes = [fold(uris, *each) for each in zip(kinds, names, seen, rows_of, strict=True)]
    settings = ZslSettings(chunk=4)
    together = accumulated_together(episodes, settings, in_process=0)
    for found, episode in zip(together, episodes, strict=True):
        alone = feature_statistics(episode, settings)
        np.testing.assert_allclose(found.gram_FF, alone.gram_FF, atol=1e-12)
        np.testing.assert_allclose(found.sums_SF, alone.sums_SF, atol=1e-12)
        assert found.count_S.tolist() == alone.count_S.tolist()
    assert together[0].images < together[2].images
    assert accumulated_together(episodes, settings) == [None] * 3, "few images are counted where they are prepared"


def fold(uris, kind, names, seen, rows):
    """An episode that trains on the rows of its seen classes; class number modulo 3, tested on the last rows."""
    seen_C = np.array([name in seen for name in names])
    number = np.array([names.index(name) for name in ("a", "b", "c")])

    def images(chosen, of_seen):
        labels = number[chosen % 3]
        kept = seen_C[labels] == of_seen
        return ImageSet(features(uris, kind, chosen[kept]), labels[kept])

    last = np.arange(18, 21)
    of_d = ImageSet(features(uris, kind, last[:1]), np.array([3]))
    return Episode(names, seen_C, images(rows, True), images(last, True), of_d if "d" in names else images(last, False))
