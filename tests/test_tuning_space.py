"""The search space: what it may hold, what it comes to, and errors that name the field before anything runs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vgse.config_loading import apply_overrides, fingerprint, parse_config
from vgse.errors import ConfigError
from vgse.tuning.journal import campaign_fingerprint
from vgse.tuning.space import Space, read_space, with_settings

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}
K, ALPHA = "cluster.num_clusters", "relate.alpha"


def config(space: dict[str, Any], sections: dict[str, Any] | None = None, **tune: Any):
    return parse_config({**MINIMAL, **(sections or {}), "tune": {"space": space, **tune}}, "test.yaml")


def read(space: dict[str, Any], sections: dict[str, Any] | None = None, **tune: Any) -> Space:
    return read_space(config(space, sections, **tune))


def test_what_needs_no_training_is_scored_with_every_trained_setting():
    space = read({K: {"grid": [20, 50]}, ALPHA: {"grid": [-0.1, 0]}, "knowledge.weights.gloss": {"choice": [0, 1]}})
    assert list(space.trained) == [K]
    assert space.fixed_trials() == [{K: 20}, {K: 50}]
    assert len(space.relations()) == 4
    changed = space.config({K: 20, ALPHA: -0.1, "knowledge.weights.gloss": 0})
    assert (changed.cluster.num_clusters, changed.relate.alpha, changed.knowledge.weights) == (20, -0.1, {"gloss": 0})
    assert not changed.tune.space


def test_settings_of_crop_and_encode_are_known_as_such():
    space = read(
        {"crop.patches": {"grid": [4, 9]}, "evaluate.features": {"grid": ["whole", "both"]}, K: {"grid": [20]}}
    )
    assert set(space.data) == {"crop.patches", "evaluate.features"}
    assert set(space.trained) == {"crop.patches", "evaluate.features", K}


@pytest.mark.parametrize(
    ("domain", "within"),
    [
        ({"uniform": [1e-3, 1e-2]}, lambda x: 1e-3 <= x <= 1e-2),
        ({"loguniform": [1e-5, 1e-2]}, lambda x: 1e-5 <= x <= 1e-2),
        ({"choice": [1e-3, 5e-3, 7e-3, 1e-2]}, lambda x: x in (1e-3, 5e-3, 7e-3, 1e-2)),
    ],
)
def test_random_settings_lie_in_their_domain_and_are_the_same_each_time(domain, within):
    space = {"cluster.learning_rate": domain}
    few, many = (read(space, search="random", trials=n).fixed_trials() for n in (2, 4))
    assert few == many[:2]
    assert len({fingerprint(each) for each in many}) == 4
    assert all(within(each["cluster.learning_rate"]) for each in many)


@pytest.mark.parametrize("kind", ["int", "logint"])
def test_whole_numbers_reach_both_ends_once_each(kind):
    found = read({K: {kind: [20, 24]}}, search="random", trials=5).fixed_trials()
    assert sorted(each[K] for each in found) == [20, 21, 22, 23, 24]


def test_loguniform_is_even_on_the_logarithmic_scale():
    found = read({"cluster.learning_rate": {"loguniform": [1e-6, 1e-2]}}, search="random", trials=300).fixed_trials()
    low = sum(each["cluster.learning_rate"] < 1e-4 for each in found)
    # Half of them, within three standard deviations of a fair coin.
    assert abs(low - 150) < 3 * math.sqrt(300) / 2


def test_ranges_of_scored_settings_are_drawn_once_for_the_campaign():
    space = {K: {"grid": [20]}, ALPHA: {"uniform": [-0.5, 0]}, "relate.method": {"choice": ["simplex", "mean"]}}
    found = read(space, relations=6).relations()
    assert len(found) == 6
    assert all(-0.5 <= each[ALPHA] <= 0 for each in found)
    assert found == read(space, relations=6).relations()


REFUSED = [
    ({"cluster.num_cluster": {"grid": [20]}}, {}, "unknown field; did you mean cluster.num_clusters?"),
    ({"num_clusters": {"grid": [20]}}, {}, "did you mean cluster.num_clusters?"),
    ({"cluster": {"grid": [20]}}, {}, "tune.space.cluster: a section"),
    ({K: {"grid": [1, 50]}}, {}, "cluster.num_clusters: Input should be greater than or equal to 2"),
    ({K: {"grid": ["many"]}}, {}, "cluster.num_clusters: Input should be a valid integer"),
    ({ALPHA: {"uniform": [-2, 0]}}, {}, "relate.alpha: Input should be greater than or equal to -1"),
    ({"relate.method": {"grid": ["simplx"]}}, {}, "relate.method: Input should be 'simplex'"),
    ({K: {"uniform": [20, 50]}}, {"search": "random", "trials": 2}, "use int or logint"),
    ({K: {"int": [20, 50]}}, {}, "search random or optuna"),
    ({K: {"int": [20, 50]}}, {"search": "optuna"}, "tune.trials"),
    ({K: {"int": [20, 22]}}, {"search": "random", "trials": 4}, "at most 3"),
    ({"run": {"grid": ["a"]}}, {}, "tune.space.run"),
    ({"data.images_per_class": {"grid": [9]}}, {}, "tune.space.data.images_per_class"),
    ({"evaluate.folds": {"grid": [1, 2]}}, {}, "figures would not compare"),
    ({"cluster.keep_best": {"grid": [1, 2]}}, {}, "no figure depends on it"),
    ({"crop.compactness": {"uniform": [0.01, 1]}}, {"search": "random", "trials": 2}, "as grid or choice"),
    ({K: {"grid": [20]}}, {"asha": True, "grace_epochs": 15}, "tune.grace_epochs"),
    ({K: {"grid": [20]}}, {"class_splits": 2}, "tune.class_splits"),
    ({}, {}, "tune.space: the search space is empty"),
]


@pytest.mark.parametrize(("space", "tune", "said"), REFUSED)
def test_a_wrong_space_is_refused_by_name(space, tune, said):
    with pytest.raises(ConfigError) as caught:
        read(space, **tune)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ({"grid": [1], "choice": [1]}, "give exactly one of"),
        ({}, "give exactly one of"),
        ({"uniform": [1, 0]}, "first bound must be below"),
        ({"loguniform": [0, 1]}, "bounds must be above 0"),
        ({"gird": [1]}, "gird: unknown key"),
    ],
)
def test_a_wrong_domain_is_refused_when_the_file_is_read(domain, said):
    with pytest.raises(ConfigError) as caught:
        config({K: domain})
    assert "tune.space.cluster.num_clusters" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "tune", "said"),
    [
        ({"cluster": {"mode": "finetune"}}, {}, "cluster.mode"),
        ({"cluster": {"serve": "best"}}, {}, "cluster.serve"),
        ({"evaluate": {"protocol": "as_published"}}, {}, "evaluate.protocol"),
        ({"evaluate": {"models": ["prototype"]}}, {}, "tune.model"),
    ],
)
def test_a_base_that_trials_cannot_stand_on_is_refused(sections, tune, said):
    with pytest.raises(ConfigError, match=said):
        read({K: {"grid": [20]}}, sections, **tune)


def test_overrides_leave_the_space_alone():
    changed = apply_overrides(config({K: {"grid": [20]}}), ["--tune.trials", "1", "--relate.ridge", "2"])
    assert changed.tune.space[K].grid == (20,)
    assert (changed.tune.trials, changed.relate.ridge) == (1, 2.0)


def test_credentials_survive_settings():
    base = config({K: {"grid": [20]}}, {"storage": {"key": "AKIDEXAMPLE", "secret": "very-secret"}})
    assert with_settings(base, {K: 20}).storage.secret.get_secret_value() == "very-secret"


def test_more_trials_go_on_in_the_same_campaign_and_another_space_begins_anew():
    space = {K: {"int": [20, 50]}}
    base = {"search": "random", "trials": 3}
    first = campaign_fingerprint(config(space, **base), "e", False)
    assert campaign_fingerprint(config(space, **{**base, "trials": 9, "max_concurrent": 2}), "e", False) == first
    assert campaign_fingerprint(config({K: {"int": [20, 60]}}, **base), "e", False) != first
    assert campaign_fingerprint(config(space, **base), "other base", False) != first
