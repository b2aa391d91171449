"""One trial of a campaign: trains the networks of its settings, once, and scores every relation with them.

It trains in the trial's own process with the same function as `vgse cluster`, on the same number of threads as
best.yaml asks for, so that a run of best.yaml trains the same network to the last digit.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from ray import tune

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.config_loading import fingerprint
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.cluster import fit_task, serving
from vgse.pipeline.embed import add_shard, embed_task, shard_blocks
from vgse.pipeline.embed_shard import EmbedShard
from vgse.pipeline.fit_task import Place
from vgse.pipeline.fit_worker import train_fit
from vgse.pipeline.plan import Plan
from vgse.pipeline.problems import Problem
from vgse.pipeline.session import keep_freed_memory, limit_threads
from vgse.pipeline.tune_scoring import scored_in_parallel
from vgse.receipts import stage_fingerprints
from vgse.storage import join
from vgse.tuning.journal import Record
from vgse.tuning.space import Settings, Space

# What is kept of an epoch's figures.
_CURVE = ("epoch", "loss", "used_clusters", "val_T1", "val_H", "seconds")

# What a process keeps from one trial to the next: committed images, and the images that training looks at.
_frames: dict[str, pd.DataFrame] = {}
_looked_at: dict[tuple[str, str], Any] = {}


@dataclass(frozen=True)
class Shared:
    """What all trials share.

    Attributes:
        space: the campaign's.
        plans: the plan of each combination of crop and encode settings, by `data_key`.
        judges: references to their judges, likewise.
        problems: the choice problems that are scored.
        scored: number of scored settings.
        folder: where fits are kept.
        threads: CPUs of a trial.
        on_gpu: whether a trial has a share of a GPU.
        at_once: trials that may share this machine's memory.
    """

    space: Space
    plans: dict[str, Plan]
    judges: dict[str, Any]
    problems: tuple[Problem, ...]
    scored: int
    folder: str
    threads: int
    on_gpu: bool
    at_once: int


def data_key(space: Space, settings: Settings) -> str:
    """Which features a trial is trained on."""
    return fingerprint({path: settings[path] for path in space.data})


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """A trial as Ray Tune starts it. What it raises is a result like any other: it is recorded and not tried again."""
    trial = _Trial(config["number"], config["settings"], shared)
    try:
        record = trial.run()
    except Exception as error:
        # What a scoring task raised stands behind Ray's own error.
        error = getattr(error, "cause", None) or error
        reason = " ".join(str(error).split("\n  -> ")[0].split()) or type(error).__name__
        record = trial.record("failed", f"{type(error).__name__}: {reason}"[:500])
    tune.report({"record": asdict(record), "value": record.best(shared.space.base.tune.metric)})


class _Quiet:
    """Stands for the board of a run: a trial's news go through Ray Tune."""

    def pin(self, kind: str, content: Any) -> None:
        """Nothing."""

    def served(self) -> None:
        """Nothing."""

    def reporting(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


class _Trial:
    def __init__(self, number: int, settings: Settings, shared: Shared) -> None:
        self._number, self._settings, self._shared = number, settings, shared
        self._curve: list[dict[str, float]] = []
        self._looks: dict[str, float] = {}
        self._training_s = self._scoring_s = 0.0
        self._figures: list[dict[str, float]] = []
        self._epoch = 0

    def run(self) -> Record:
        """Trains and scores."""
        shared, key = self._shared, data_key(self._shared.space, self._settings)
        plan = self._plan(shared.plans[key])
        if plan.fingerprints["crop"] not in _frames:
            _frames[plan.fingerprints["crop"]] = committed_images(plan)
        frame = _frames[plan.fingerprints["crop"]]
        for place, problem in enumerate(dict.fromkeys(serving(plan, each) for each in shared.problems)):
            self._train(plan, frame, problem, first=place == 0)
        began = time.monotonic()
        phi_SK = self._embedded(plan, frame)
        self._figures = scored_in_parallel(shared.judges[key], shared.scored, phi_SK, shared.threads)
        self._scoring_s = round(time.monotonic() - began, 3)
        return self.record("done")

    def record(self, status: Any, reason: str = "") -> Record:
        """The trial as it stands."""
        training_s = max(self._training_s, sum(each["seconds"] for each in self._curve))
        return Record(
            self._number, self._settings, status, reason, len(self._curve), round(training_s, 3), self._scoring_s,
            self._figures, self._curve, self._looks,
        )  # fmt: skip

    def _plan(self, plan: Plan) -> Plan:
        """The plan of the features with this trial's settings."""
        config = self._shared.space.config(self._settings).model_copy(update={"run": plan.run})
        return replace(plan, config=config, fingerprints=stage_fingerprints(config, plan.inputs))

    def _folder(self, plan: Plan, problem: Problem) -> str:
        # Fits outlive their campaign: another one that needs the same network finds it. Threads decide its last digits.
        made_by = [plan.fingerprints["cluster"], self._shared.threads, self._shared.on_gpu]
        return join(self._shared.folder, fingerprint(made_by), problem.name)

    def _train(self, plan: Plan, frame: pd.DataFrame, problem: Problem, *, first: bool) -> None:
        """One fit. Only the first is looked at on the way, so that figures of all trials mean the same."""
        import torch

        shared, folder = self._shared, self._folder(plan, problem)
        asha = shared.space.base.tune.asha
        without = {"log_to": (), "keep_best": 0, **({"validate_every": int(first)} if asha else {})}
        cluster = plan.config.cluster.model_copy(update=without)
        plan = replace(plan, config=plan.config.model_copy(update={"cluster": cluster}))
        task = fit_task(plan, frame, problem, folder)
        due = asha_looks(shared.space, cluster.epochs) if asha else set()

        if first:
            self._curve = _journal(plan, folder)

        def report(figures: dict[str, Any]) -> None:
            if first:
                before = [each for each in self._curve if each["epoch"] < figures["epoch"]]
                self._curve = [*before, {name: figures[name] for name in _CURVE if name in figures}]
                self._report(due)

        def on_step(step: int, steps: int) -> None:
            self._epoch = step * cluster.epochs // steps

        def looked(validate: Any) -> Any:
            def look(network: Any) -> dict[str, float]:
                if asha and self._epoch not in due:
                    return {}
                validate.prepared = _looked_at.get(images)
                found = validate(network)
                _looked_at[images] = validate.prepared
                return found

            return look

        images = (plan.fingerprints["image_features"], problem.name)
        settings = {
            "storage": plan.storage, "run": plan.run, "board": _Quiet(), "cluster": cluster, "threads": shared.threads,
            "cutting_cpus": 0.0,
        }  # fmt: skip
        keep_freed_memory()
        limit_threads(shared.threads)
        place = Place(on_node=shared.at_once, device=torch.device("cuda" if shared.on_gpu else "cpu"))
        train_fit(task, settings, place, report, on_step, looked)
        whole = _journal(plan, folder)
        self._training_s += sum(each["seconds"] for each in whole)
        if first:
            self._curve = whole

    def _report(self, due: set[int]) -> None:
        last, training_s = self._curve[-1], sum(each["seconds"] for each in self._curve)
        epoch = int(last["epoch"])
        if epoch in due:
            # Embeddings that tell no classes apart have no figure.
            self._looks[str(epoch)] = last.get(self._shared.space.base.tune.metric, 0.0)
        look = {"look": self._looks[str(epoch)]} if epoch in due else {}
        tune.report({"epoch": epoch, "curve": self._curve, "looks": self._looks, "training_s": training_s, **look})

    def _embedded(self, plan: Plan, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Seen embeddings of every choice problem as `vgse embed` makes them, batch by batch."""
        import torch

        torch.set_float32_matmul_precision("highest")
        problems = list(self._shared.problems)
        tasks = [
            replace(embed_task(plan, problem, False), folder=self._folder(plan, serving(plan, problem)))
            for problem in problems
        ]
        threads = self._shared.threads if self._shared.on_gpu else 1
        worker = EmbedShard(plan.storage, plan.run, tasks, plan.config.encode.batch_size, threads, _Quiet())
        sums = {task.name: ClassEmbeddingSums(task.classes, task.recipe.num_clusters) for task in tasks}
        for block in shard_blocks(plan, frame, problems):
            for row in worker(block).to_pylist():
                add_shard(sums, row)
        seen = {problem.name: len(problem.seen) for problem in problems}
        return {name: total.sums_SK[: seen[name]] / total.counts_S[: seen[name], None] for name, total in sums.items()}


def asha_looks(space: Space, epochs: int) -> set[int]:
    """The epochs after which ASHA looks at a trial; never after the last."""
    tune_, found, milestone = space.base.tune, set(), float(space.base.tune.grace_epochs)
    while milestone < epochs:
        found.add(math.ceil(milestone))
        milestone *= tune_.reduction
    return {epoch for epoch in found if epoch < epochs}


def _journal(plan: Plan, folder: str) -> list[dict[str, float]]:
    """Every epoch's figures of a fit, as far as it has come."""
    uri = join(folder, "metrics.jsonl")
    if not plan.storage.exists(uri):
        return []
    lines = [json.loads(line) for line in plan.storage.read_bytes(uri).decode().splitlines()]
    return [{name: line[name] for name in _CURVE if name in line} for line in lines]
