"""Sources made one: lengths, weights, what stands in for the unknown, and that unseen classes influence nothing."""

import numpy as np
import pytest

from vgse.data.knowledge import Source, check_weights, fuse, missing_report
from vgse.data.words import prepare_words
from vgse.errors import ConfigError, DataError

C, SEEN = 12, np.arange(12) < 8
FORMS = ["centred", "l2", "raw"]


def source(name, seed, dim=5, unknown=()):
    vectors = np.random.default_rng(seed).normal(size=(C, dim)) + 2.0
    known = ~np.isin(np.arange(C), unknown)
    return Source(name, np.where(known[:, None], vectors, 0.0), known)


def changed(one, row, by=3.0):
    vectors = one.vectors_CD.copy()
    vectors[row] = by * vectors[row][::-1] + 1.0
    return Source(one.name, vectors, one.known_C)


@pytest.mark.parametrize("form", FORMS)
def test_names_alone_are_the_prepared_words(form):
    names = source("names", 0)
    np.testing.assert_array_equal(fuse([names], {}, SEEN, form), prepare_words(names.vectors_CD, SEEN, form))


def test_weights_share_out_one_length():
    sources = [source("names", 0), source("gloss", 1, 3)]
    fused = fuse(sources, {"gloss": 0.5}, SEEN)
    assert fused.shape == (C, 8)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1.0)
    np.testing.assert_allclose(np.linalg.norm(fused[:, 5:], axis=1), 0.5 / np.sqrt(1.25))
    np.testing.assert_allclose(fused[:, :5] * np.sqrt(1.25), prepare_words(sources[0].vectors_CD, SEEN, "centred"))


def test_weight_zero_leaves_a_source_out():
    names = source("names", 0)
    np.testing.assert_array_equal(fuse([names, source("gloss", 1)], {"gloss": 0.0}, SEEN), fuse([names], {}, SEEN))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("row", [8, 10])
def test_an_unseen_class_influences_only_itself(form, row):
    sources = [source("names", 0), source("gloss", 1, unknown=(2, 9)), source("vectors", 2, 7, unknown=(2, 8, 11))]
    before = fuse(sources, {}, SEEN, form)
    after = fuse([changed(one, row) if one.known_C[row] else one for one in sources], {}, SEEN, form)
    others = np.arange(C) != row
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before[row] - after[row]).max() > 0.1


def test_a_seen_class_does_influence_others():
    sources = [source("names", 0), source("gloss", 1)]
    after = fuse([changed(sources[0], 3), sources[1]], {}, SEEN)
    assert np.abs(fuse(sources, {}, SEEN) - after)[9].max() > 1e-3


def test_centring_counts_only_known_seen_classes():
    gloss = source("gloss", 1, unknown=(0, 1, 9))
    fused = fuse([source("names", 0), gloss], {}, SEEN)[:, 5:] * np.sqrt(2)
    mean = gloss.vectors_CD[2:8].mean(axis=0)
    shifted = gloss.vectors_CD[[4, 10]] - mean
    np.testing.assert_allclose(fused[[4, 10]], shifted / np.linalg.norm(shifted, axis=1, keepdims=True))


def test_the_nearest_by_the_other_source_stands_in():
    names, gloss = source("names", 0), source("gloss", 1, unknown=(9,))
    names.vectors_CD[9] = names.vectors_CD[4]
    by_names, by_gloss = (prepare_words(one.vectors_CD, SEEN, "centred") for one in (names, gloss))
    distance_S = np.linalg.norm(by_names[9] - by_names[:8], axis=1)
    near = np.argsort(distance_S)[:5]
    assert near[0] == 4
    mean = np.exp(-5.0 * distance_S[near]) @ by_gloss[near]
    fused = fuse([names, gloss], {}, SEEN)
    np.testing.assert_allclose(fused[9, 5:] * np.sqrt(2), mean / np.linalg.norm(mean), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(fused[9]), 1.0)


def test_sources_that_share_no_class_leave_the_seen_mean():
    first, second = source("gloss", 1, unknown=tuple(range(4))), source("vectors", 2, unknown=tuple(range(4, C)))
    fused = fuse([first, second], {}, SEEN)
    assert np.isfinite(fused).all()
    assert not fused[:4, :5].any()
    assert fused[:4, 5:].any(axis=1).all()


def test_the_blocks_of_many_missing_classes_agree():
    rng = np.random.default_rng(0)
    many, seen = 2600, np.arange(2600) < 300
    known = seen | (rng.random(many) < 0.2)
    names = Source("names", rng.normal(size=(many, 4)), np.ones(many, bool))
    gloss = Source("gloss", np.where(known[:, None], rng.normal(size=(many, 4)), 0.0), known)
    fused = fuse([names, gloss], {}, seen)
    some = np.flatnonzero(~known)[-3:]
    assert (~known).sum() > 1024
    rows = np.r_[np.arange(300), some]
    alone = fuse([Source(s.name, s.vectors_CD[rows], s.known_C[rows]) for s in (names, gloss)], {}, seen[rows])
    np.testing.assert_allclose(fused[some], alone[300:], atol=1e-9)


def test_a_class_or_seen_classes_that_nothing_knows():
    with pytest.raises(DataError, match="number 10 of"):
        fuse([source("gloss", 1, unknown=(9,))], {}, SEEN)
    with pytest.raises(DataError, match="gloss knows no seen class"):
        fuse([source("names", 0), source("gloss", 1, unknown=tuple(range(8)))], {}, SEEN)


def test_wrong_weights_are_named():
    sources = [source("names", 0), source("gloss", 1)]
    with pytest.raises(ConfigError, match=r"knowledge.weights.glos: .*\n.*did you mean gloss"):
        check_weights({"glos": 1.0}, sources)
    with pytest.raises(ConfigError, match="the sources of this run are names, gloss"):
        check_weights({"xyzzy": 1.0}, sources)
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"knowledge.weights.gloss is"):
            check_weights({"gloss": weight}, sources)
    with pytest.raises(ConfigError, match="all zero"):
        check_weights({"gloss": 0.0, "names": 0}, sources)


def test_the_report_is_silent_where_all_is_known():
    class_names = [f"class_{i}" for i in range(C)]
    assert missing_report([source("names", 0)], class_names) == []
    (said,) = missing_report([source("names", 0), source("gloss", 1, unknown=tuple(range(11)))], class_names)
    assert "11 of 12" in said
    assert "class_9 and 1 more" in said
