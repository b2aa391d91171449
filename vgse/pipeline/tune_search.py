"""How Ray Tune is told what to try, when to stop, and what to write down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState, create_trial
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from vgse.config_loading import fingerprint
from vgse.config_tuning import Domain
from vgse.pipeline.stage import Progress
from vgse.tuning.journal import Journal, Record
from vgse.tuning.results import said
from vgse.tuning.space import Settings, Space

# Looks after which Optuna, which may propose what was tried before, is given something new by chance.
_TRIES = 50


class FixedTrials(Searcher):
    """The settings of a grid or random search that have not ended yet, in order."""

    def __init__(self, settings: list[Settings], ended: dict[int, Record]) -> None:
        super().__init__()
        self._left = [(number, each) for number, each in enumerate(settings) if number not in ended]

    def suggest(self, trial_id: str) -> Any:
        """The next trial's number and settings."""
        if not self._left:
            return Searcher.FINISHED
        number, settings = self._left.pop(0)
        return {"number": number, "settings": settings}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing follows from it."""


class OptunaTrials(Searcher):
    """Settings picked by Optuna's TPE from all trials so far, each of them once.

    A campaign that goes on hands over what has ended, and begins with what was asked and has not.
    """

    def __init__(self, space: Space, journal: Journal, ended: dict[int, Record]) -> None:
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        tune, self._journal = space.base.tune, journal
        # A study that goes on draws anew, not what it drew at its start.
        sampler = optuna.samplers.TPESampler(seed=space.base.seed + len(ended), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._domains = space.trained
        self._distributions = {path: _distribution(domain) for path, domain in space.trained.items()}
        for record in ended.values():
            self._study.add_trial(self._as_ended(record, record.best(tune.metric)))
        asked = journal.asked()
        self._resumed = [(number, asked[number]) for number in sorted(set(asked) - set(ended))]
        self._taken = {fingerprint(each) for each in asked.values()}
        self._next = max(asked, default=-1) + 1
        self._left = space.trials() - len(ended)
        self._spare = iter(space.drawn(space.trials() + len(asked)))
        self._open: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's number and settings, written down before it starts."""
        if self._left <= 0:
            return Searcher.FINISHED
        self._left -= 1
        if self._resumed:
            number, settings = self._resumed.pop(0)
            self._study.enqueue_trial(self._parameters(settings))
            self._open[trial_id] = self._study.ask(self._distributions)
        else:
            self._open[trial_id], settings = self._new()
            number, self._next = self._next, self._next + 1
            self._journal.ask(number, settings)
        return {"number": number, "settings": settings}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Optuna learns what the trial reached; of a stopped or failed one, that it was not worth it."""
        trial = self._open.pop(trial_id, None)
        if trial is None:
            return
        value = (result or {}).get("value")
        if value is None or error:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def _new(self) -> tuple[Trial, Settings]:
        for _ in range(_TRIES):
            trial = self._study.ask(self._distributions)
            settings = self._settings(trial)
            if fingerprint(settings) not in self._taken:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            settings = next(each for each in self._spare if fingerprint(each) not in self._taken)
            self._study.enqueue_trial(self._parameters(settings))
            trial = self._study.ask(self._distributions)
        self._taken.add(fingerprint(settings))
        return trial, settings

    def _settings(self, trial: Trial) -> Settings:
        # Values of any type stand for themselves by their place in the domain.
        return {
            path: domain.values[trial.params[path]] if domain.values is not None else trial.params[path]
            for path, domain in self._domains.items()
        }

    def _parameters(self, settings: Settings) -> dict[str, Any]:
        return {
            path: _place(domain, settings[path]) if domain.values is not None else settings[path]
            for path, domain in self._domains.items()
        }

    def _as_ended(self, record: Record, value: float | None) -> Any:
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        parameters = self._parameters(record.settings)
        return create_trial(state=state, params=parameters, distributions=self._distributions, value=value)


def _place(domain: Domain, value: Any) -> int:
    assert domain.values is not None
    return next(i for i, each in enumerate(domain.values) if fingerprint(each) == fingerprint(value))


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.values is not None:
        return CategoricalDistribution(range(len(domain.values)))
    low, high = domain.bounds
    if domain.kind in ("int", "logint"):
        return IntDistribution(int(low), int(high), log=domain.kind == "logint")
    return FloatDistribution(low, high, log=domain.kind == "loguniform")


class Asha(ASHAScheduler):
    """ASHA over epochs that remembers whom it stopped, and knows what earlier starts of the campaign have seen."""

    def __init__(self, space: Space, epochs: int, ended: dict[int, Record]) -> None:
        tune = space.base.tune
        super().__init__(
            "epoch", "look", "max", max_t=epochs, grace_period=tune.grace_epochs, reduction_factor=tune.reduction
        )
        self.stopped: set[str] = set()
        # Of the controller the scheduler asks nothing.
        nobody: Any = None
        for record in ended.values():
            earlier: Any = SimpleNamespace(trial_id=f"earlier {record.number}")
            self.on_trial_add(nobody, earlier)
            for epoch, look in record.looks.items():
                super().on_trial_result(nobody, earlier, {"epoch": int(epoch), "look": look})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """Whether the trial goes on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            self.stopped.add(trial.trial_id)
        return decision


class Recorder(Callback):
    """Writes a trial down in the journal when it has ended, and says so."""

    def __init__(self, journal: Journal, space: Space, asha: Asha | None, progress: Progress) -> None:
        self._journal, self._space, self._asha, self._progress = journal, space, asha, progress
        self.ended = 0

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Done, failed in a way that no other try would mend, or stopped; one that the time budget cut short has not
        ended and goes on with the campaign."""
        last = trial.last_result or {}
        if "record" in last:
            self._end(Record(**last["record"]))
        elif self._asha is not None and trial.trial_id in self._asha.stopped:
            reason = f"val figure {last['look']:.4f} after epoch {last['epoch']} was not among the best"
            self._end(self._record(trial, "stopped", reason))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """The trial's process died more often than cluster.max_failures allows."""
        self._end(self._record(trial, "failed", _reason(trial)))

    def _record(self, trial: Any, status: Any, reason: str) -> Record:
        last = trial.last_result or {}
        kept = {name: last[name] for name in ("curve", "looks", "training_s") if name in last}
        config = trial.config
        return Record(config["number"], config["settings"], status, reason, epochs=int(last.get("epoch", 0)), **kept)

    def _end(self, record: Record) -> None:
        self._journal.end(record)
        self.ended += 1
        best = record.best(self._space.base.tune.metric)
        figure = "" if best is None else f"  {self._space.base.tune.metric} {100 * best:.2f}"
        reason = f": {record.reason}" if record.reason else ""
        self._progress.say(
            f"trial {record.number} {record.status}  {said(record.settings)}{figure}  "
            f"{record.epochs} epochs, {record.training_s:.1f} s{reason}"
        )
        self._progress.advance(1)


def _reason(trial: Any) -> str:
    text = str(trial.get_error() or "its process died")
    return text.strip().splitlines()[-1][:500]
