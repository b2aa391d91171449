"""How Ray Tune is told what to try: every setting once, also after an interruption, and ASHA with a memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from vgse.config_loading import fingerprint, parse_config
from vgse.pipeline.tune_search import Asha, FixedTrials, OptunaTrials
from vgse.pipeline.tune_trial import asha_looks
from vgse.storage import Storage
from vgse.tuning.journal import Journal, Record
from vgse.tuning.space import Space, read_space

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}
K = "cluster.num_clusters"


def space(domains: dict[str, Any], **tune: Any) -> Space:
    return read_space(parse_config({**MINIMAL, "tune": {"space": domains, **tune}}, "test.yaml"))


def done(number: int, settings: dict[str, Any], value: float) -> Record:
    return Record(number, settings, "done", figures=[{"val_T1": value, "val_H": value}])


def suggested(search: Searcher) -> list[dict[str, Any]]:
    found = []
    while (each := search.suggest(f"trial {len(found)}")) != Searcher.FINISHED:
        found.append(each)
    return found


def test_a_grid_goes_on_with_what_has_not_ended():
    fixed = [{K: value} for value in (20, 30, 40)]
    left = suggested(FixedTrials(fixed, {1: done(1, fixed[1], 0.1)}))
    assert left == [{"number": 0, "settings": {K: 20}}, {"number": 2, "settings": {K: 40}}]


def test_optuna_exhausts_a_small_space_without_trying_anything_twice(tmp_path):
    found = suggested(
        OptunaTrials(space({K: {"int": [20, 27]}}, search="optuna", trials=8), Journal(Storage(), str(tmp_path)), {})
    )
    assert sorted(each["settings"][K] for each in found) == list(range(20, 28))
    assert [each["number"] for each in found] == list(range(8))


def test_optuna_goes_on_with_what_was_asked_and_not_ended(tmp_path):
    domains = {K: {"int": [20, 90]}, "relate.alpha": {"grid": [0]}, "crop.method": {"choice": ["grid", "watershed"]}}
    asked, journal = space(domains, search="optuna", trials=6), Journal(Storage(), str(tmp_path))
    first = OptunaTrials(asked, journal, {})
    begun = [first.suggest(f"trial {i}") for i in range(4)]
    for each in (begun[0], begun[2]):
        journal.end(done(each["number"], each["settings"], 0.3))
    journal = Journal(Storage(), str(tmp_path))
    left = suggested(OptunaTrials(asked, journal, journal.ended()))
    assert left[:2] == [begun[1], begun[3]]
    everything = [begun[0], begun[2], *left]
    assert sorted(each["number"] for each in everything) == list(range(6))
    assert len({fingerprint(each["settings"]) for each in everything}) == 6


def test_optuna_learns_from_what_ended_before(tmp_path):
    """H grows with K in the journal, so what is proposed next lies high."""
    domains = {K: {"int": [20, 1000]}}
    ended = {n: done(n, {K: 20 + 40 * n}, n / 25) for n in range(25)}
    search = OptunaTrials(space(domains, search="optuna", trials=35), Journal(Storage(), str(tmp_path)), ended)
    found = [each["settings"][K] for each in suggested(search)]
    assert sum(found) / len(found) > 700


def test_asha_stops_the_worse_and_remembers_earlier_starts():
    asked = space({K: {"grid": [20]}}, asha=True, grace_epochs=2, reduction=2)
    earlier = {n: Record(n, {K: 20}, "stopped", looks={"2": 0.1 * n}) for n in range(1, 4)}
    for ended, decision in ((earlier, TrialScheduler.STOP), ({}, TrialScheduler.CONTINUE)):
        asha, trial = Asha(asked, 15, ended), SimpleNamespace(trial_id="now")
        asha.on_trial_add(None, trial)
        assert asha.on_trial_result(None, trial, {"epoch": 1}) == TrialScheduler.CONTINUE
        assert asha.on_trial_result(None, trial, {"epoch": 2, "look": 0.15}) == decision
        assert asha.stopped == ({"now"} if decision == TrialScheduler.STOP else set())


@pytest.mark.parametrize(
    ("grace", "reduction", "epochs", "expected"),
    [(2, 3, 15, {2, 6}), (1, 3, 9, {1, 3}), (5, 2.5, 40, {5, 13, 32}), (4, 4, 5, {4})],
)
def test_trials_are_looked_at_where_asha_decides_and_never_at_their_end(grace, reduction, epochs, expected):
    asked = space({K: {"grid": [20]}}, asha=True, grace_epochs=grace, reduction=reduction)
    deep = read_space(asked.base.model_copy(update={"cluster": asked.base.cluster.model_copy(update={"epochs": 99})}))
    assert asha_looks(deep, epochs) == expected
