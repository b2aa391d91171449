"""The search space of a campaign: which fields it may hold, and the settings that it comes to.

A setting is a mapping of field paths to values. Trained settings change the network; scored ones (the relation, what
classes are known by) need no training, so every trained network is scored with all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np

from vgse.config import Config
from vgse.config_loading import field_paths, fingerprint, nearest, parse_config
from vgse.config_tuning import Domain
from vgse.errors import ConfigError
from vgse.receipts import stage_settings

Settings = dict[str, Any]

# These decide what trials are judged on, or where they run: figures of different ones do not compare.
_FIXED = (
    "run", "data", "seed", "seeds", "storage", "resources", "tune", "cluster.mode", "cluster.serve",
    "cluster.validation_fit", "evaluate.models", "evaluate.folds", "evaluate.choice_held_out", "evaluate.protocol",
)  # fmt: skip
_DATA = ("crop", "patch_features", "image_features")
_STAGES = (*_DATA, "cluster", "relate", "evaluate")
# Streams of random numbers of a campaign.
_TRAINED, _SCORED = 1, 2


@dataclass(frozen=True)
class Space:
    """A checked search space.

    Attributes:
        base: the configuration that settings are put into.
        trained: domains of fields that change crop, encode or the network.
        data: which of these change crop or encode; they have values, not ranges.
        scored: domains of fields that the relation and the evaluation alone read.
    """

    base: Config
    trained: dict[str, Domain]
    data: tuple[str, ...]
    scored: dict[str, Domain]

    def config(self, settings: Settings) -> Config:
        """The base configuration with `settings`, without the campaign.

        Raises:
            ConfigError: a value of the wrong type or out of range, or values that do not go together.
        """
        return with_settings(self.base, settings)

    def trials(self) -> int:
        """Trained settings asked for."""
        return self.base.tune.trials or int(_size(self.trained))

    def fixed_trials(self) -> list[Settings] | None:
        """The trained settings of a grid or random search in order, None where Optuna picks them on the way."""
        tune = self.base.tune
        if tune.search == "optuna":
            return None
        if tune.search == "grid":
            return _combinations(self.trained)[: tune.trials]
        return self.drawn(self.trials())

    def drawn(self, number: int) -> list[Settings]:
        """The first `number` distinct random trained settings; the same ones whatever the number."""
        return _draws(self.trained, number, self.base.seed, _TRAINED)

    def relations(self) -> list[Settings]:
        """The scored settings: all combinations of values, or draws where one is a range."""
        if _size(self.scored) < math.inf:
            return _combinations(self.scored)
        return _draws(self.scored, self.base.tune.relations, self.base.seed, _SCORED)


def read_space(config: Config) -> Space:
    """The checked search space of `config.tune`.

    Raises:
        ConfigError: an unknown or fixed field, a value of the wrong type or range, settings of the campaign that do not
            go together; all before anything runs.
    """
    tune = config.tune
    if not tune.space:
        raise ConfigError(
            "tune.space: the search space is empty",
            "give domains by field, e.g. tune: {space: {cluster.num_clusters: {grid: [50, 150]}}}",
        )
    _check_base(config)
    changed = {path: _changed_stages(config, path, domain) for path, domain in tune.space.items()}
    trained = {path: tune.space[path] for path, stages in changed.items() if stages & {*_DATA, "cluster"}}
    data = tuple(path for path, stages in changed.items() if stages & set(_DATA))
    for path in data:
        if tune.space[path].values is None:
            raise ConfigError(
                f"tune.space.{path}: a range would crop or encode the images anew for every trial",
                "give its values as grid or choice",
            )
    space = Space(config, trained, data, {path: d for path, d in tune.space.items() if path not in trained})
    _check_search(space)
    return space


def with_settings(config: Config, settings: Settings) -> Config:
    """`config` with values by field path, and without its campaign.

    Raises:
        ConfigError: names the field whose value is wrong.
    """
    values = config.model_dump(exclude={"tune"})
    for path, value in settings.items():
        *parents, name = path.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[name] = value
    return parse_config(values, "tune.space with " + ", ".join(f"{path} = {value}" for path, value in settings.items()))


def _check_base(config: Config) -> None:
    tune, cluster = config.tune, config.cluster
    wrong = {
        "cluster.mode": (cluster.mode == "finetune", "trials train on cached features; set it to frozen"),
        "cluster.serve": (cluster.serve == "best", "trials are scored by their last epoch; set it to last"),
        "evaluate.protocol": (
            config.evaluate.protocol != "honest",
            "nothing is tuned on the test set; set it to honest",
        ),
        "tune.asha": (
            tune.asha and not cluster.validation_fit,
            "it looks at fits without the val classes; set cluster.validation_fit to true, or leave tune.asha out",
        ),
        "tune.model": (
            tune.model not in config.evaluate.models,
            f"{tune.model} is not among evaluate.models, so no run would show its figure; add it there",
        ),
        "tune.class_splits": (
            (tune.class_splits or 1) > config.data.class_splits,
            f"there are {config.data.class_splits} class splits (data.class_splits); ask for at most so many",
        ),
    }
    for field, (is_wrong, said) in wrong.items():
        if is_wrong:
            what, remedy = said.split("; ")
            raise ConfigError(f"{field}: {what}", remedy)


def _changed_stages(config: Config, path: str, domain: Domain) -> set[str]:
    """The stages that some value of the domain changes, after checking every value."""
    _check_path(path)
    values = domain.values or domain.bounds
    plain = with_settings(config, {})
    found: set[str] = set()
    for value in values:
        changed = with_settings(config, {path: value})
        reached = _value(changed, path)
        if domain.kind in ("uniform", "loguniform") and isinstance(reached, int) and not isinstance(reached, bool):
            raise ConfigError(f"tune.space.{path}: {domain.kind} on a whole number", "use int or logint")
        if domain.values is None and not isinstance(reached, (int, float)):
            raise ConfigError(f"tune.space.{path}: a range for a field that is no number", "use grid or choice")
        found |= {s for s in _STAGES if stage_settings(changed, s) != stage_settings(plain, s)}
    section = path.partition(".")[0]
    if found or section == "knowledge":
        return found
    if all(_value(with_settings(config, {path: value}), path) == _value(plain, path) for value in values):
        return {section} & {"crop", "cluster"} or ({"patch_features"} if section == "encode" else set())
    raise ConfigError(f"tune.space.{path}: no figure depends on it", "take it out of the space")


def _check_path(path: str) -> None:
    known = set(field_paths())
    parent = path.rpartition(".")[0]
    # One entry of a mapping, such as knowledge.weights.gloss.
    if path not in known and parent not in ("knowledge.weights",):
        raise ConfigError(f"tune.space.{path}: unknown field{nearest(path)}", "mend the field's name")
    if any(path == fixed or path.startswith(f"{fixed}.") for fixed in _FIXED):
        raise ConfigError(
            f"tune.space.{path}: it decides what trials are judged on or where they run, so figures would not compare",
            "set it outside the space",
        )
    if any(other.startswith(f"{path}.") for other in known):
        raise ConfigError(
            f"tune.space.{path}: a section, not a field", f"name a field of it, e.g. {path}.{_first(path)}"
        )


def _first(section: str) -> str:
    return next(other for other in field_paths() if other.startswith(f"{section}.")).removeprefix(f"{section}.")


def _check_search(space: Space) -> None:
    tune, size = space.base.tune, _size(space.trained)
    ranges = [path for path, domain in space.trained.items() if domain.values is None]
    if tune.search == "grid" and ranges:
        raise ConfigError(
            f"tune.search: a grid needs values, but {', '.join(ranges)} is a range", "use search random or optuna"
        )
    if tune.search != "grid" and tune.trials is None:
        raise ConfigError(f"tune.trials: search {tune.search} has no number of its own", "say how many trials to run")
    if (tune.trials or 0) > size:
        raise ConfigError(
            f"tune.trials: {tune.trials} trials asked for, but the space holds {int(size)} trained settings",
            f"ask for at most {int(size)}, or widen the space",
        )
    epochs = space.trained.get("cluster.epochs")
    least = min(epochs.values or epochs.bounds) if epochs else space.base.cluster.epochs
    if tune.asha and tune.grace_epochs >= least:
        raise ConfigError(
            f"tune.grace_epochs: {tune.grace_epochs}, but trials have {least} epochs: ASHA would stop none",
            "lower tune.grace_epochs, raise cluster.epochs, or leave out tune.asha",
        )
    for settings in (*(space.fixed_trials() or ()), *space.relations()):
        space.config(settings)


def _size(domains: dict[str, Domain]) -> float:
    """How many settings there are; infinite with a range of numbers."""
    size = 1.0
    for domain in domains.values():
        if domain.values is not None:
            size *= len(_distinct(domain))
        else:
            size *= domain.bounds[1] - domain.bounds[0] + 1 if domain.kind in ("int", "logint") else math.inf
    return size


def _distinct(domain: Domain) -> list[Any]:
    return list({fingerprint(value): value for value in domain.values or ()}.values())


def _combinations(domains: dict[str, Domain]) -> list[Settings]:
    """All combinations; the last field changes fastest."""
    return [
        dict(zip(domains, values, strict=True)) for values in product(*(_distinct(each) for each in domains.values()))
    ]


def _draws(domains: dict[str, Domain], number: int, seed: int, stream: int) -> list[Settings]:
    found: dict[str, Settings] = {}
    for settings in _stream(domains, seed, stream):
        if len(found) >= min(number, _size(domains)):
            break
        found.setdefault(fingerprint(settings), settings)
    return list(found.values())


def _stream(domains: dict[str, Domain], seed: int, stream: int) -> Iterator[Settings]:
    for number in count():
        rng = np.random.default_rng([seed, stream, number])
        yield {path: _draw(domain, rng) for path, domain in domains.items()}


def _draw(domain: Domain, rng: np.random.Generator) -> Any:
    if domain.values is not None:
        return domain.values[int(rng.integers(len(domain.values)))]
    low, high = domain.bounds
    if domain.kind == "int":
        return int(rng.integers(int(low), int(high) + 1))
    if domain.kind == "uniform":
        drawn = rng.uniform(low, high)
    else:
        drawn = math.exp(rng.uniform(math.log(low), math.log(high + (domain.kind == "logint"))))
    # Six digits, as people write numbers, and never beyond the ends.
    return min(int(drawn), int(high)) if domain.kind == "logint" else min(max(float(f"{drawn:.6g}"), low), high)


def _value(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name)
    return value
