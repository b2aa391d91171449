"""`vgse tune`: a campaign of trials on cached features, by Ray Tune.

What needs no training is found once and scored with every network; what has ended stands in the journal, so that the
same command goes on where an interrupted campaign stopped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vgse.config import Config
from vgse.errors import VgseError
from vgse.pipeline.plan import Plan, announced_plan, make_plan
from vgse.pipeline.stage import Progress, run_stages
from vgse.receipts import stage_fingerprints
from vgse.report.tuning import tuning_page
from vgse.storage import join
from vgse.tuning.journal import Journal, Record, campaign_fingerprint
from vgse.tuning.results import Campaign, best_yaml, said, terminal_table, trials_table
from vgse.tuning.space import Settings, Space, read_space

# The stages that make what trials are trained on.
_FEATURES = ("crop", "encode")


class TrialsFailedError(VgseError):
    """Some trials of a campaign failed; the others' results are written all the same."""


def tune(config: Config, *, quiet: bool = False) -> Campaign:
    """Runs or continues a campaign, writes its results and prints them.

    Raises:
        UserError: the space or the data is wrong, before anything runs.
        TrialsFailedError: at the end, if any trial failed.
    """
    from vgse.pipeline import session

    space = read_space(config)
    plan = announced_plan(config)
    session.connect(config.resources)
    shape = _shape(config)
    key = campaign_fingerprint(config, plan.fingerprints["evaluate"], shape.on_gpu)
    journal = Journal(plan.storage, plan.uri("tuning", "campaigns", key))
    ended = journal.ended()
    _say_where(space, ended)
    if len(ended) < space.trials():
        journal.begin({"tune": config.tune.model_dump(mode="json", exclude_unset=True), "base": plan.fingerprints})
        plans = _prepared_plans(plan, space, quiet)
        with Progress("tune", quiet=quiet) as progress:
            progress.start(space.trials(), "trials", done=len(ended))
            _run_trials(plan, plans, space, journal, ended, shape, progress)
    campaign = Campaign(space, space.relations(), list(journal.ended().values())[: space.trials()])
    _write_results(plan, campaign, shape)
    _print_results(plan, campaign)
    failed = campaign.failed()
    if failed:
        raise TrialsFailedError(
            f"{len(failed)} of {len(campaign.records)} trials failed, first trial {failed[0].number}: "
            f"{failed[0].reason}\n  -> their reasons stand in {plan.uri('tuning', 'trials.parquet')}"
        )
    return campaign


@dataclass(frozen=True)
class _Shape:
    """What a trial asks for, and how many run at a time."""

    cpus: int
    gpus: float
    memory: int
    at_once: int

    @property
    def on_gpu(self) -> bool:
        return self.gpus > 0

    def resources(self) -> dict[str, float]:
        """The same in Ray's words."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), "memory": self.memory}


def _shape(config: Config) -> _Shape:
    """What a trial asks of this cluster.

    Raises:
        ClusterError: no node can give it.
    """
    from vgse.pipeline import session
    from vgse.pipeline.placement import Ask, require, room

    wanted, capacity = config.tune, session.capacity()
    present = 0 if config.resources.use_gpu is False else capacity.gpus
    gpus = wanted.gpus_per_trial if wanted.gpus_per_trial is not None else float(present > 0)
    if gpus and not present:
        print("warning: tune.gpus_per_trial is ignored: there is no GPU to share", file=sys.stderr)
        gpus = 0.0
    memory = session.asks("cluster", config)[0].memory
    ask = Ask("tune", "trials", wanted.cpus_per_trial, 0, memory, 1)
    require([replace(ask, gpus=int(gpus > 0))], capacity, config.resources)
    held = room(ask, capacity)
    if gpus:
        held = min(held, int(present / gpus + 1e-9))
    return _Shape(wanted.cpus_per_trial, gpus, memory, max(1, min(held, wanted.max_concurrent or held)))


def _say_where(space: Space, ended: dict[int, Record]) -> None:
    trials, relations = space.trials(), len(space.relations())
    begun = f", {len(ended)} of them ended before" if ended else ""
    print(f"campaign: {trials} trials x {relations} scored settings = {trials * relations} rows{begun}", flush=True)


def _prepared_plans(plan: Plan, space: Space, quiet: bool) -> dict[str, Plan]:
    """The plan of every combination of crop and encode settings, its features encoded; that of the base in the run
    directory itself, others in directories below it."""
    from vgse.pipeline.tune_trial import data_key

    combined = [dict(zip(space.data, each, strict=True)) for each in _data_values(space)]
    plans = {}
    for settings in combined:
        config = space.config(settings)
        known = stage_fingerprints(config, plan.inputs)
        if any(known[stage] != plan.fingerprints[stage] for stage in _FEATURES):
            run = plan.uri("tuning", "features", f"{known['crop']}-{known['encode']}")
            if not quiet:
                print(f"features with {said(settings)} in {run}", flush=True)
            config = config.model_copy(update={"run": run})
            of_settings = make_plan(config)
        else:
            of_settings = replace(plan, config=config, fingerprints=known)
        run_stages(of_settings, _FEATURES, quiet=quiet)
        plans[data_key(space, settings)] = of_settings
    return plans


def _data_values(space: Space) -> Iterator[tuple[Any, ...]]:
    return product(*(space.trained[path].values or () for path in space.data))


def _run_trials(
    plan: Plan,
    plans: dict[str, Plan],
    space: Space,
    journal: Journal,
    ended: dict[int, Record],
    shape: _Shape,
    progress: Progress,
) -> None:
    import ray
    from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner, with_parameters, with_resources

    from vgse.pipeline import session
    from vgse.pipeline.tune_scoring import Episodes, scored_settings
    from vgse.pipeline.tune_search import Asha, FixedTrials, OptunaTrials, Recorder
    from vgse.pipeline.tune_trial import Shared, run_trial

    wanted = space.base.tune
    rounds = [each for each in plan.rounds() if each.final.split < (wanted.class_splits or len(plan.splits))]
    # Prepared by tasks while this process finds the relations.
    episodes = {key: Episodes(each, rounds, wanted.model) for key, each in plans.items()}
    scored = scored_settings(plan, space, rounds)
    judges = {key: ray.put(each.judge(scored)) for key, each in episodes.items()}
    problems = tuple(problem for each in rounds for problem in each.choices)
    shared = Shared(
        space, plans, judges, problems, len(scored), plan.uri("tuning", "fits"), shape.cpus, shape.on_gpu, shape.at_once
    )
    fixed = space.fixed_trials()
    search = OptunaTrials(space, journal, ended) if fixed is None else FixedTrials(fixed, ended)
    asha = Asha(space, _most_epochs(space), ended) if wanted.asha else None
    recorder = Recorder(journal, space, asha, progress)
    scratch = session.scratch_folder()
    try:
        with _quiet_tune(), session.own_interrupts():
            Tuner(
                with_resources(with_parameters(run_trial, shared=shared), shape.resources()),
                tune_config=TuneConfig(
                    search_alg=search,
                    scheduler=asha,
                    num_samples=-1,
                    max_concurrent_trials=shape.at_once,
                    time_budget_s=wanted.time_budget_s,
                    reuse_actors=True,
                ),
                run_config=RunConfig(
                    name="tune",
                    storage_path=scratch,
                    callbacks=[recorder],
                    failure_config=FailureConfig(max_failures=space.base.cluster.max_failures),
                    verbose=0,
                ),
            ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    left = space.trials() - len(ended) - recorder.ended
    if left:
        progress.say(f"the time budget is spent; the same command goes on with the {left} trials that have not ended")


def _most_epochs(space: Space) -> int:
    domain = space.trained.get("cluster.epochs")
    return int(max(domain.values or domain.bounds)) if domain else space.base.cluster.epochs


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Ray Tune without tables, log files and complaints about figures that only some reports carry."""
    wanted = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        # Its handler of Ctrl-C would end the campaign as if all were well.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "1e9",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _write_results(plan: Plan, campaign: Campaign, shape: _Shape) -> None:
    if not campaign.records:
        return
    plan.storage.write_table(plan.uri("tuning", "trials.parquet"), trials_table(campaign))
    best = campaign.best()
    if best is not None:
        config, run = campaign.space.config(best), _run_of(plan, campaign.space, best)
        plan.storage.write_bytes(
            plan.uri("tuning", "best.yaml"), best_yaml(campaign, run, config, shape.on_gpu).encode()
        )
    page = tuning_page(campaign, plan.uri("tuning", "best.yaml"))
    plan.storage.write_bytes(plan.uri("tuning", "report.html"), page.encode())


def _run_of(plan: Plan, space: Space, settings: Settings) -> str:
    """The run directory that holds the features of these settings."""
    known = stage_fingerprints(space.config({path: settings[path] for path in space.data}), plan.inputs)
    if all(known[stage] == plan.fingerprints[stage] for stage in _FEATURES):
        return plan.run
    return join(plan.run, "tuning", "features", f"{known['crop']}-{known['encode']}")


def _print_results(plan: Plan, campaign: Campaign) -> None:
    print("\n" + terminal_table(campaign))
    if campaign.best() is not None:
        print(f"best:     vgse run {plan.uri('tuning', 'best.yaml')}")
    print(
        f"rows:     {plan.uri('tuning', 'trials.parquet')}\npictures: {plan.uri('tuning', 'report.html')}", flush=True
    )
