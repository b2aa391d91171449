"""Comparisons: the interval agrees with a plain bootstrap, pairing is by class, and the words claim no more than it."""

import tracemalloc

import numpy as np
import pytest

from vgse.zsl.comparisons import collapse_draws, compare
from vgse.zsl.metrics import Figures, harmonic_mean
from vgse.zsl.mode import mode_of
from vgse.zsl.protocol import ModelResult

UNSEEN, SEEN = 30, 50


def result(T1_U, u_U, s_S, chosen="on_choice", hubness=0.0):
    u, s = float(np.mean(u_U)), float(np.mean(s_S))
    return ModelResult(
        figures=Figures(float(np.mean(T1_U)), u, s, harmonic_mean(u, s)),
        chosen={"T1": {chosen: 0.5}, "H": {chosen: 0.5}},
        per_class={"T1": np.asarray(T1_U), "u": np.asarray(u_U), "s": np.asarray(s_S)},
        hubness=hubness,
    )


def drawn(rng, level, unseen=UNSEEN, seen=SEEN, **more):
    return result(*(np.clip(rng.normal(level, 0.2, size), 0, 1) for size in (unseen, unseen, seen)), **more)


def splits_of(levels, splits=4, seed=0, **sizes):
    """Class splits with arms of these mean accuracies, classes and noise drawn."""
    rng = np.random.default_rng(seed)
    return [{arm: {"eszsl": drawn(rng, level, **sizes)} for arm, level in levels.items()} for _ in range(splits)]


def plain_bootstrap(per_split, arm, other, draws, rng):
    """One draw after the other, as one would write it down."""
    T1, H = [], []
    for _ in range(draws):
        of_T1, of_H = [], []
        for split in rng.integers(len(per_split), size=len(per_split)):
            one, two = (per_split[split][name]["eszsl"].per_class for name in (arm, other))
            unseen, seen = rng.integers(UNSEEN, size=UNSEEN), rng.integers(SEEN, size=SEEN)
            of_T1.append(one["T1"][unseen].mean() - two["T1"][unseen].mean())
            h = [harmonic_mean(p["u"][unseen].mean(), p["s"][seen].mean()) for p in (one, two)]
            of_H.append(h[0] - h[1])
        T1.append(np.mean(of_T1))
        H.append(np.mean(of_H))
    return 100 * np.percentile(T1, [2.5, 97.5]), 100 * np.percentile(H, [2.5, 97.5])


def test_difference_is_that_of_the_figures_and_the_interval_that_of_a_plain_bootstrap():
    per_split = splits_of({"vgse": 0.5, "one_hot": 0.45})
    found = {c.figure: c for c in compare(per_split, draws=6000)}
    expected = plain_bootstrap(per_split, "vgse", "one_hot", 6000, np.random.default_rng(1))
    for figure, (low, high) in zip(("T1", "H"), expected, strict=True):
        of = [[getattr(s[arm]["eszsl"].figures, figure) for s in per_split] for arm in ("vgse", "one_hot")]
        assert found[figure].difference == pytest.approx(100 * np.mean(np.subtract(*of)), abs=1e-3)
        # The ends of two bootstraps of 6,000 draws differ by a few hundredths of the interval's width.
        assert found[figure].low == pytest.approx(low, abs=0.07 * (high - low))
        assert found[figure].high == pytest.approx(high, abs=0.07 * (high - low))
        assert found[figure].splits == 4


def test_the_same_classes_are_drawn_for_both_arms():
    rng = np.random.default_rng(0)
    T1, u, s = rng.random(UNSEEN) * 0.8, rng.random(UNSEEN) * 0.8, rng.random(SEEN) * 0.8
    per_split = [{"vgse": {"eszsl": result(T1 + 0.02, u, s)}, "random": {"eszsl": result(T1, u, s)}}] * 3
    of_T1, of_H = compare(per_split)
    # Classes differ by up to 80 points, the arms by 2 in each of them.
    assert (of_T1.low, of_T1.difference, of_T1.high) == pytest.approx((2, 2, 2))
    assert (of_H.low, of_H.difference, of_H.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert of_H.verdict == "no difference shown"


def test_seen_classes_are_resampled_for_H():
    rng = np.random.default_rng(0)
    even_U, s, other_s = np.full(UNSEEN, 0.5), rng.random(SEEN), rng.random(SEEN)
    per_split = [{"vgse": {"eszsl": result(even_U, even_U, s)}, "random": {"eszsl": result(even_U, even_U, other_s)}}]
    of_T1, of_H = compare(per_split)
    assert of_T1.high - of_T1.low == 0
    assert of_H.high - of_H.low > 1


def test_words_follow_the_interval():
    per_split = splits_of({"vgse": 0.5, "words_centred": 0.3, "oracle": 0.8, "one_hot": 0.5})
    found = {(c.against, c.figure): c for c in compare(per_split)}
    better, worse, same = (found[arm, "T1"] for arm in ("words_centred", "oracle", "one_hot"))
    assert better.low > 0
    assert better.sentence == (
        f"VGSE over words_centred: T1 +{better.difference:.1f} [{better.low:.1f}, {better.high:.1f}]: better"
    )
    assert worse.high < 0
    assert worse.sentence.endswith("]: worse")
    assert same.low < 0 < same.high
    assert same.sentence.endswith("]: no difference shown")


def test_an_interval_printed_as_touching_0_shows_no_difference():
    def over(gain):
        base_U, base_S = np.full(UNSEEN, 0.5), np.full(SEEN, 0.5)
        one, two = result(base_U + gain, base_U, base_S), result(base_U, base_U, base_S)
        return compare([{"vgse": {"eszsl": one}, "one_hot": {"eszsl": two}}] * 2)[0].sentence

    assert over(0.0004) == "VGSE over one_hot: T1 0.0 [0.0, 0.0]: no difference shown"
    assert over(-0.0004) == "VGSE over one_hot: T1 0.0 [0.0, 0.0]: no difference shown"
    assert over(0.0011) == "VGSE over one_hot: T1 +0.1 [0.1, 0.1]: better"
    assert over(-0.0011) == "VGSE over one_hot: T1 -0.1 [-0.1, -0.1]: worse"


def test_equal_arms_are_told_apart_about_as_seldom_as_95_percent_says():
    sentences = [compare(splits_of({"vgse": 0.5, "one_hot": 0.5}, 6, seed), draws=400)[0] for seed in range(150)]
    wrong = np.mean([c.verdict != "no difference shown" for c in sentences])
    # 5 % are due; percentile intervals over six splits are a little short or long.
    assert 0 < wrong < 0.12


def test_one_split_resamples_classes_only_and_says_so():
    (comparison, _) = compare(splits_of({"vgse": 0.5, "one_hot": 0.4}, splits=1))
    assert comparison.high - comparison.low > 1
    assert comparison.sentence.endswith("(one class split: only classes resampled)")


def test_splits_are_resampled_too():
    def split(level):
        rows = (np.full(UNSEEN, level), np.full(UNSEEN, level), np.full(SEEN, level))
        return {"vgse": {"eszsl": result(*rows)}, "one_hot": {"eszsl": result(*(r * 0 + 0.5 for r in rows))}}

    # No class differs from another within a split; only the splits do.
    (comparison, _) = compare([split(level) for level in (0.4, 0.6, 0.5, 0.7)])
    assert comparison.difference == pytest.approx(5)
    assert comparison.low < 0 < comparison.high


def test_random_draws_are_compared_as_their_mean_class_by_class():
    rng = np.random.default_rng(0)
    draws = {name: {"eszsl": drawn(rng, 0.3, hubness=i)} for i, name in enumerate(("random", "random-2", "random-3"))}
    split = {"vgse": {"eszsl": drawn(rng, 0.5)}, **draws}
    collapsed = collapse_draws(split)
    assert list(collapsed) == ["vgse", "random"]
    mean = collapsed["random"]["eszsl"]
    for name in ("T1", "u", "s"):
        np.testing.assert_allclose(mean.per_class[name], sum(d["eszsl"].per_class[name] for d in draws.values()) / 3)
    assert mean.hubness == pytest.approx(1)
    assert pytest.approx(mean.per_class["T1"].mean()) == mean.figures.T1
    assert pytest.approx(harmonic_mean(mean.per_class["u"].mean(), mean.per_class["s"].mean())) == mean.figures.H
    assert [c.against for c in compare([split])] == ["random", "random"]


def test_the_order_of_arms_and_the_run_do_not_matter():
    per_split = splits_of({"vgse": 0.5, "one_hot": 0.45, "random": 0.3})
    alone = compare(per_split, against=["random"])
    assert alone == [c for c in compare(per_split) if c.against == "random"]
    turned = compare(per_split, "random", against=["vgse"])
    for one, other in zip(alone, turned, strict=True):
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert turned[0].sentence.startswith("random over vgse: T1 -")


def test_thousands_of_classes_stay_within_memory():
    per_split = splits_of({"vgse": 0.5, "one_hot": 0.45}, splits=1, unseen=1_000, seen=20_000)
    tracemalloc.start()
    compare(per_split)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All draws at once would be 2,000 x 20,000 x 8 bytes = 320 MB for a single array of them.
    assert peak < 200e6


def test_what_does_not_fit_is_refused():
    per_split = splits_of({"vgse": 0.5, "one_hot": 0.45})
    with pytest.raises(ValueError, match="no split"):
        compare([])
    with pytest.raises(ValueError, match="no arm words"):
        compare(per_split, against=["words"])
    short = [
        {"vgse": split["vgse"], "one_hot": splits_of({"one_hot": 0.5}, unseen=5)[0]["one_hot"]} for split in per_split
    ]
    with pytest.raises(ValueError, match="of different classes"):
        compare(short)


def test_results_chosen_on_the_test_set_are_called_so_and_never_mixed():
    rng = np.random.default_rng(0)
    honest, published = ({"eszsl": drawn(rng, 0.5, chosen=where)} for where in ("on_choice", "on_test"))
    assert mode_of([{"vgse": honest}]) == "honest"
    assert mode_of([{"vgse": published}]) == "as-published"
    with pytest.raises(ValueError, match="do not belong in one table"):
        compare([{"vgse": published, "one_hot": honest}])
    for comparison in compare([{"vgse": published, "one_hot": published}]):
        assert comparison.sentence.startswith("AS PUBLISHED (chosen on the test set): VGSE over one_hot")
