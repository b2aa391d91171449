"""Receipts: how far a changed setting reaches, and what is kept or cleared when a stage starts."""

from __future__ import annotations

import pytest

from vgse.config_loading import parse_config
from vgse.errors import RunDirectoryError
from vgse.receipts import STAGES, Inputs, Receipt, Receipts, stage_fingerprints
from vgse.storage import Storage

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}
INPUTS = Inputs(data="d", split="s", splits="ss", words="w", knowledge="k")


def fingerprints(inputs=INPUTS, **sections):
    return stage_fingerprints(parse_config({**MINIMAL, **sections}, "test.yaml"), inputs)


def changed(inputs=INPUTS, **sections):
    before, after = fingerprints(), fingerprints(inputs, **sections)
    return [stage for stage in STAGES if before[stage] != after[stage]]


def from_(stage):
    return list(STAGES[STAGES.index(stage) :])


@pytest.mark.parametrize(
    ("sections", "first"),
    [
        ({"crop": {"patches": 4}}, "crop"),
        ({"crop": {"method": "grid"}}, "crop"),
        ({"crop": {"short_side": 128}}, "crop"),
        ({"encode": {"input_size": 96}}, "encode"),
        ({"encode": {"weights": "other.safetensors"}}, "encode"),
        ({"cluster": {"mode": "finetune"}}, "encode"),
        ({"cluster": {"num_clusters": 50}}, "cluster"),
        ({"cluster": {"epochs": 3}}, "cluster"),
        ({"evaluate": {"choice_held_out": 0.3}}, "cluster"),
        ({"evaluate": {"choice_images": 20}}, "cluster"),
        ({"evaluate": {"folds": 3}}, "cluster"),
        ({"seeds": 2}, "cluster"),
        ({"cluster": {"serve": "best"}}, "embed"),
        ({"knowledge": {"weights": {"gloss": 0.5}}}, "relate"),
        ({"relate": {"alpha": -0.05}}, "relate"),
        ({"relate": {"ridge": 0.1}}, "relate"),
        ({"evaluate": {"models": ["eszsl"]}}, "evaluate"),
        ({"evaluate": {"random_draws": 5}}, "evaluate"),
        ({"evaluate": {"protocol": "as_published"}}, "evaluate"),
    ],
)
def test_a_changed_setting_reaches_its_stage_and_all_after_it(sections, first):
    assert changed(**sections) == from_(first)


@pytest.mark.parametrize(
    "sections",
    [
        {"run": "elsewhere"},
        {"encode": {"batch_size": 8}},
        {"crop": {"max_quarantined": 0.01}},
        {"cluster": {"max_failures": 9, "checkpoint_every": 2}},
        {"cluster": {"validate_every": 1, "validation_images": 9, "keep_best": 3, "log_to": ["mlflow"]}},
        {"resources": {"workers": 2}},
        {"storage": {"endpoint_url": "http://127.0.0.1:9000", "key": "k", "secret": "s", "retries": 1}},
    ],
)
def test_how_and_where_a_run_is_done_changes_nothing(sections):
    assert changed(**sections) == []


@pytest.mark.parametrize("evaluate", [{"features": "whole"}, {"input_size": 192}])
def test_what_the_evaluation_sees_of_images_trains_nothing_anew(evaluate):
    assert changed(evaluate=evaluate) == ["encode", "embed", "relate", "evaluate"]


@pytest.mark.parametrize(
    ("name", "first"),
    [("data", "crop"), ("splits", "encode"), ("mended", "encode"), ("words", "cluster"), ("knowledge", "relate")],
)
def test_changed_inputs_reach_who_reads_them(name, first):
    inputs = Inputs(**{**vars(INPUTS), name: "other"})
    assert changed(inputs) == from_(first)


def test_the_seed_neither_repeats_crop_nor_moves_images_between_shards():
    """Shards of an interrupted crop are continued by number, so their contents must not depend on what changed."""
    import pandas as pd

    from vgse.data.units import cut_units

    frame = pd.DataFrame({"image_id": [f"{i}" for i in range(64)], "uri": [f"u{i}" for i in range(64)]})
    frame = frame.assign(row=-1, row_group=-1)
    first, second = ([unit.tolist() for unit in cut_units(frame, 8)] for _ in range(2))
    assert first == second
    assert sorted(row for unit in first for row in unit) == list(range(64))
    assert fingerprints(seed=0)["crop"] == fingerprints(seed=1)["crop"]


# ---- one run directory
@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def receipts(run):
    return Receipts(Storage(), run)


def leave(run, name):
    Storage().write_bytes(f"{run}/{name}", b"result")
    return f"{run}/{name}"


def receipt(stage="crop", fingerprint="A"):
    return Receipt(stage=stage, fingerprint=fingerprint, rows_in=4, rows_out=3, quarantined=1, seconds=2.0)


def test_a_new_stage_clears_what_lies_at_its_outputs(receipts, run):
    stray, other = leave(run, "patches/part-0"), leave(run, "features/part-0")
    assert receipts.begin("crop", "A", [f"{run}/patches", f"{run}/quarantine.parquet"]) is False
    assert not Storage().exists(stray)
    assert Storage().exists(other)


def test_an_interrupted_stage_continues_with_the_same_fingerprint_only(receipts, run):
    receipts.begin("crop", "A", [f"{run}/patches"])
    shard = leave(run, "patches/part-0")
    assert receipts.begin("crop", "A", [f"{run}/patches"]) is True
    assert Storage().exists(shard)
    assert receipts.begin("crop", "B", [f"{run}/patches"]) is False
    assert not Storage().exists(shard)


def test_a_finished_stage_is_done_for_its_fingerprint_only(receipts, run):
    assert receipts.done("crop", "A") is None
    receipts.begin("crop", "A", [])
    assert receipts.done("crop", "A") is None
    receipts.finish(receipt())
    assert receipts.done("crop", "A").rows_out == 3
    assert receipts.done("crop", "B") is None
    assert receipts.read("crop").fingerprint == "A"
    assert receipts.read("encode") is None


def test_a_finished_stage_that_begins_again_loses_receipt_and_results(receipts, run):
    receipts.begin("crop", "A", [f"{run}/patches"])
    shard = leave(run, "patches/part-0")
    receipts.finish(receipt())
    assert receipts.begin("crop", "B", [f"{run}/patches"]) is False
    assert receipts.read("crop") is None
    assert not Storage().exists(shard)


def test_a_receipt_reads_back_as_written(receipts):
    written = Receipt("embed", "A", 5, 5, 0, 2.5, {"unit": "images", "nested": {"a": [1, 2]}})
    receipts.finish(written)
    assert receipts.read("embed") == written
    assert written.rate == 2.0


@pytest.mark.parametrize(
    ("other", "said", "unsaid"),
    [
        ({"data": "x"}, "another data set", "class split"),
        ({"split": "x"}, "another class split", "data set"),
        ({"data": "x", "split": "x"}, "another data set and another class split", "word"),
    ],
)
def test_a_run_directory_of_other_inputs_is_refused(receipts, run, other, said, unsaid):
    receipts.check_inputs(INPUTS)
    receipts.write_inputs(INPUTS, {})
    receipts.check_inputs(INPUTS)
    with pytest.raises(RunDirectoryError, match=said) as caught:
        receipts.check_inputs(Inputs(**{**vars(INPUTS), **other}))
    assert run in caught.value.message
    assert unsaid not in caught.value.message
    assert caught.value.remedy


def test_other_words_or_more_splits_are_no_other_run(receipts):
    receipts.write_inputs(INPUTS, {})
    receipts.check_inputs(Inputs(**{**vars(INPUTS), "words": "x", "splits": "x"}))
