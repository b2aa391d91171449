"""What comes of a campaign: rows, best.yaml, the terminal's table and the page."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from vgse.config_loading import parse_config
from vgse.report.tuning import tuning_page
from vgse.storage import Storage
from vgse.tuning.journal import Journal, Record
from vgse.tuning.results import Campaign, best_yaml, terminal_table, trials_table
from vgse.tuning.space import read_space

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}
K, ALPHA = "cluster.num_clusters", "relate.alpha"
WIDE = {
    K: {"logint": [20, 400]},
    "cluster.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "encode.input_size": {"choice": [None, 96]},
    ALPHA: {"uniform": [-0.5, 0]},
    "relate.method": {"choice": ["simplex", "mean"]},
}
NARROW = {K: {"grid": [20, 50, 150]}, ALPHA: {"grid": [-0.2, -0.1, 0]}}


def campaign(domains: dict[str, Any], **tune: Any) -> Campaign:
    """The second trial was stopped, the third failed; H is highest for the first trial's last relation."""
    space = read_space(parse_config({**MINIMAL, "tune": {"space": domains, **tune}}, "test.yaml"))
    relations, records = space.relations(), []
    for number, settings in enumerate(space.fixed_trials() or []):
        status = {1: "stopped", 2: "failed"}.get(number, "done")
        figures = [{"val_T1": 0.5 - 0.01 * i, "val_H": 0.4 + 0.01 * i - 0.05 * number} for i in range(len(relations))]
        curve = [{"epoch": e, "loss": 3 / e, "seconds": 1.5, **({"val_H": 0.1} if e == 2 else {})} for e in (1, 2, 3)]
        done = status == "done"
        reason = "" if done else "because <it> was so"
        records.append(Record(number, settings, status, reason, 3, 4.5, 0.5, figures if done else [], curve))
    return Campaign(space, relations, records)


def test_every_trial_has_a_row_for_every_scored_setting():
    table = trials_table(campaign(NARROW))
    assert table.num_rows == 9
    assert set(zip(table[K].to_pylist(), table[ALPHA].to_pylist(), strict=True)) == {
        (k, alpha) for k in (20, 50, 150) for alpha in (-0.2, -0.1, 0)
    }
    assert table["status"].to_pylist() == ["done"] * 3 + ["stopped"] * 3 + ["failed"] * 3
    assert [value is None for value in table["val_H"].to_pylist()] == [False] * 3 + [True] * 6


def test_values_of_several_types_are_written_as_text(tmp_path):
    table = trials_table(campaign(WIDE, search="random", trials=6))
    Storage().write_table(str(tmp_path / "t.parquet"), table)
    assert set(Storage().read_table(str(tmp_path / "t.parquet"))["encode.input_size"].to_pylist()) == {"null", "96"}


def test_best_yaml_is_a_whole_configuration():
    found = campaign(NARROW, metric="val_H")
    best = found.best()
    assert best == {K: 20, ALPHA: 0}
    text = best_yaml(found, "/runs/features", found.space.config(best), on_gpu=False)
    config = parse_config(yaml.safe_load(text), "best.yaml")
    assert (config.run, config.cluster.num_clusters, config.relate.alpha) == ("/runs/features", 20, 0.0)
    assert (config.resources.workers, config.resources.cpus_per_worker, config.resources.use_gpu) == (1, 1, False)
    assert "0.420000" in text.splitlines()[0]


def test_the_metric_decides():
    assert campaign(NARROW, metric="val_T1").best() == {K: 20, ALPHA: -0.2}


def test_the_terminal_shows_the_best_first_and_who_did_not_finish():
    text = terminal_table(campaign(NARROW))
    figures = [line for line in text.splitlines() if line.startswith("│")]
    assert "42.00" in figures[0]
    assert "trial 1 stopped (num_clusters 50): because <it> was so" in text
    assert "trial 2 failed" in text


@pytest.mark.parametrize(
    ("domains", "tune", "pictures"),
    # With one judged row there is nothing to compare by setting.
    [(NARROW, {}, 4), (WIDE, {"search": "random", "trials": 6}, 4), ({K: {"grid": [20, 50, 150]}}, {}, 2)],
)
def test_the_page_is_whole_and_asks_nobody_for_anything(domains, tune, pictures):
    page = tuning_page(campaign(domains, **tune), "s3://bucket/best.yaml")
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == pictures
    for svg in svgs:
        ElementTree.fromstring(svg)
    links = re.findall(r"(?:src|href)=[\"']([^\"']*)", page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "because &lt;it&gt; was so" in page


def test_a_campaign_of_which_nothing_was_done_has_a_page_too():
    found = campaign(NARROW)
    failed = [Record(**{**asdict(each), "status": "failed", "figures": []}) for each in found.records]
    none = Campaign(found.space, found.relations, failed)
    assert none.best() is None
    assert "No trial was done" in tuning_page(none, "best.yaml")
    assert trials_table(none)["val_H"].null_count == 9


def test_the_journal_gives_back_what_it_was_told(tmp_path):
    journal, records = Journal(Storage(), str(tmp_path / "not there yet")), campaign(NARROW).records
    assert journal.ended() == {}
    for record in reversed(records):
        journal.end(record)
    assert list(journal.ended().values()) == records
