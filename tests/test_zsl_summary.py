"""evaluation.json and what the terminal shows of it."""

import json

import numpy as np
import pytest

from tests.test_zsl_comparisons import SEEN, UNSEEN, drawn, splits_of
from vgse.zsl.summary import aggregate
from vgse.zsl.table import comparison_lines, evaluation_text, results_text

ARMS = (
    "oracle",
    "words_raw",
    "words_l2",
    "words_centred",
    "texts",
    "one_hot",
    "random",
    "random-2",
    "permuted",
    "vgse",
)
MODELS = ("eszsl", "sje", "prototype")
NAMES = [(tuple(f"seen {i}" for i in range(SEEN)), tuple(f"unseen {i}" for i in range(UNSEEN)))]


def three_models(splits, chosen="on_choice"):
    rng = np.random.default_rng(0)
    levels = {"oracle": 0.8, "words_raw": 0.2, "words_centred": 0.4}
    return [
        {arm: {m: drawn(rng, levels.get(arm, 0.5), chosen=chosen, hubness=1.5) for m in MODELS} for arm in ARMS}
        for _ in range(splits)
    ]


def test_the_whole_of_it_goes_through_json():
    per_split = three_models(3)
    summary = json.loads(json.dumps(aggregate(per_split, NAMES * 3)))
    assert set(summary) == {"protocol", "arms", "comparisons", "per_class", "hubness"}
    assert set(summary["arms"]) == set(ARMS) - {"random-2"}
    assert summary["protocol"]["random_draws"] == 2
    assert summary["protocol"]["class_splits"] == 3
    assert set(summary["protocol"]["chosen"]) == set(ARMS)
    T1 = [np.mean([split[arm]["sje"].figures.T1 for arm in ("random", "random-2")]) for split in per_split]
    found = summary["arms"]["random"]["sje"]["T1"]
    assert found["values"] == pytest.approx(T1)
    assert (found["mean"], found["std"]) == pytest.approx((np.mean(T1), np.std(T1, ddof=1)))
    assert summary["hubness"]["vgse"]["eszsl"] == {"mean": 1.5, "std": 0.0, "values": [1.5] * 3}
    # Eight other arms, three models, T1 and H.
    assert len(summary["comparisons"]) == 8 * 3 * 2
    assert {c["arm"] for c in summary["comparisons"]} == {"vgse"}


def test_accuracies_per_class_carry_their_names_and_average_to_the_figures():
    per_split = three_models(2)
    summary = aggregate(per_split, NAMES * 2)
    for name, classes in (("T1", NAMES[0][1]), ("u", NAMES[0][1]), ("s", NAMES[0][0])):
        found = summary["per_class"]["vgse"]["prototype"][name]
        assert [tuple(split) for split in found] == [classes, classes]
        means = [np.mean(list(split.values())) for split in found]
        assert means == pytest.approx(summary["arms"]["vgse"]["prototype"][name]["values"], abs=1e-4)
        assert all(round(value, 4) == value for value in found[0].values())


def test_accuracies_of_too_many_classes_are_left_out_and_that_is_said():
    many = [(tuple(map(str, range(1900))), tuple(map(str, range(1900, 2001))))]
    per_split = splits_of({"vgse": 0.5, "one_hot": 0.4}, splits=1, seen=1900, unseen=101)
    summary = aggregate(per_split, many)
    assert "per_class" not in summary
    assert summary["protocol"]["per_class"] == "left out: 2001 classes"
    assert "per_class" not in aggregate(per_split)


def test_other_arms_can_be_compared():
    per_split = splits_of({"mine": 0.5, "att": 0.4, "one_hot": 0.4}, splits=1)
    summary = aggregate(per_split, compared={"mine": ["att", "one_hot"], "att": ["one_hot"]})
    pairs = [(c["arm"], c["against"]) for c in summary["comparisons"][::2]]
    assert pairs == [("mine", "att"), ("mine", "one_hot"), ("att", "one_hot")]
    assert aggregate(per_split)["comparisons"] == []


@pytest.mark.parametrize("splits", [1, 6])
def test_choices_made_on_the_test_set_are_told_everywhere(splits):
    label = "AS PUBLISHED (chosen on the test set):"
    summary = aggregate(three_models(splits, "on_test"))
    protocol = summary["protocol"]
    assert protocol["mode"] == "as-published"
    assert "chosen on the test set" in protocol["choices"]
    assert "for comparison with published tables only" in protocol["choices"]
    assert "validation" not in json.dumps({key: protocol[key] for key in ("choices", "T1", "u_s_H")})
    assert all(c["sentence"].startswith(label) for c in summary["comparisons"])
    for width in (60, 100, 160):
        text = evaluation_text(summary, width=width)
        # Above every table (one per model where they are narrow) and above the comparisons.
        unbroken = " ".join(text.split())
        assert unbroken.count(label) == text.count("┏") + 1
    assert label not in evaluation_text(aggregate(three_models(splits)))
    assert aggregate(three_models(splits), mode="honest")["protocol"]["mode"] == "honest"
    with pytest.raises(ValueError, match="these results are as-published, not honest"):
        aggregate(three_models(splits, "on_test"), mode="honest")


@pytest.mark.parametrize("splits", [1, 6])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_three_models_fit_the_terminal(splits, width):
    summary = aggregate(three_models(splits))
    text = results_text(summary["arms"], "title", width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    tables = text.count("┏")
    assert tables == (1 if width == 160 else 3)
    figure = summary["arms"]["texts"]["prototype"]["H"]
    shown = f"{100 * (figure if splits == 1 else figure['mean']):.1f}"
    assert shown in [line for line in lines if "texts" in line][-1].split("│")[-2]
    rows = [line.split()[1] for line in lines if line.startswith("│")]
    assert rows[:1] == ["vgse"]
    assert rows[-1] == "oracle"
    assert len(rows) == 9 * tables


def test_comparisons_in_short_hold_the_best_word_arm_only():
    summary = aggregate(three_models(6))
    lines = comparison_lines(summary["comparisons"])
    assert max(map(len, lines)) <= 110
    assert [line for line in lines if not line.startswith(" ")][1:] == [f"VGSE in {m.upper()} over" for m in MODELS]
    shown = [line.split()[0] for line in lines if line.startswith("  ")]
    best = {m: max(w for w in ARMS if w.startswith("words_")) for m in MODELS}
    for model in MODELS:
        words = {a: summary["arms"][a][model]["T1"]["mean"] for a in ARMS if a.startswith("words_")}
        best[model] = max(words, key=words.get)
    assert [name for name in shown if name.startswith("words_")] == list(best.values())
    assert {"texts", "one_hot", "random", "permuted", "oracle"} <= set(shown)
    one = next(c for c in summary["comparisons"] if (c["against"], c["model"], c["figure"]) == ("oracle", "eszsl", "H"))
    line = next(line for line in lines if "oracle" in line)
    assert f"H {one['difference']:+.1f}" in " ".join(line.split())
    assert line.endswith("worse")
    assert comparison_lines([]) == []
