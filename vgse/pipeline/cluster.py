"""cluster: trains the patch-clustering network of every problem on Ray Train.

One group of workers trains all problems one after the other, since starting a group costs as much as training on
cached features. Each problem keeps its own checkpoints in the run directory; a group that lost a worker is started
again and goes on from the last committed one. Whether a fit is finished is decided there and nowhere else, so Ray
Train's own snapshots live in a scratch folder.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pandas as pd

from vgse.data.words import prepare_words
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.features import patch_features, training_rows
from vgse.pipeline.fit_task import FitTask
from vgse.pipeline.fit_worker import train_problems
from vgse.pipeline.frozen_heads import frozen_heads
from vgse.pipeline.networks import NetworkRecipe
from vgse.pipeline.patch_windows import patch_layout
from vgse.pipeline.placement import cutting_cpus
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.pipeline.validation import validation_task
from vgse.storage import join


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("clustering"), plan.uri("metrics.jsonl")]


def fitted_problems(plan: Plan) -> list[Problem]:
    """The problems that get a network of their own."""
    return [p for p in plan.problems() if p.phase == "final" or plan.config.cluster.validation_fit]


def network_folder(plan: Plan, problem: Problem) -> str:
    """Where the network that serves `problem` is kept: its own, or the final one's without `validation_fit`."""
    return plan.uri("clustering", serving(plan, problem).name)


def serving(plan: Plan, problem: Problem) -> Problem:
    """The problem whose network serves `problem`."""
    if problem.phase == "final" or plan.config.cluster.validation_fit:
        return problem
    return next(each.final for each in plan.rounds() if problem in each.choices)


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Trains every problem's network."""
    frame = committed_images(plan)
    tasks = [fit_task(plan, frame, problem, network_folder(plan, problem)) for problem in fitted_problems(plan)]
    rows = sum(len(task.labels_I) for task in tasks) * plan.config.crop.patches
    steps = rows * plan.config.cluster.epochs
    progress.start(steps, "patches")
    nodes = _train(plan, tasks, progress)
    return StageOutcome(rows, steps, unit="patches", details={"fits": _finish(plan, tasks)}, nodes=nodes)


def fit_task(plan: Plan, frame: pd.DataFrame, problem: Problem, folder: str) -> FitTask:
    """What trains the network of `problem`, one of `fitted_problems`.

    Args:
        plan: the run.
        frame: its committed images in shard order.
        problem: whose network.
        folder: where its checkpoints and journal go.
    """
    finetune = plan.config.cluster.mode == "finetune"
    chosen = training_rows(frame, problem, plan)
    label = {name: i for i, name in enumerate(problem.seen)}
    labels = frame.class_name[chosen].map(label).to_numpy(np.int64)
    words = prepare_words(plan.words(problem.seen), np.ones(len(problem.seen), bool), "centred")
    return FitTask(
        name=problem.name,
        folder=folder,
        recipe=NetworkRecipe.of(plan.config, len(problem.seen), words.shape[1], problem.draw),
        words_SW=words,
        features=None if finetune else patch_features(plan, frame, chosen),
        layout=patch_layout(frame, chosen, labels) if finetune else None,
        labels_I=labels,
        patches=plan.config.crop.patches,
        heads=frozen_heads(plan, problem) if plan.config.cluster.heads_from else None,
        validation=validation_task(plan, frame, problem),
    )


def _train(plan: Plan, tasks: list[FitTask], progress: Progress) -> dict[str, int]:
    """Fits every task; how many fits (each worker's part of one) each node took part in."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from vgse.pipeline import session
    from vgse.pipeline.board import Board
    from vgse.pipeline.trackers import Trackers

    cluster = plan.config.cluster
    trackers = Trackers(cluster.log_to, plan.run, cluster.model_dump(mode="json", exclude={"log_to"}), progress.say)
    ask = session.asks("cluster", plan.config)[0]
    board, scratch = Board(), session.scratch_folder()
    trainer = TorchTrainer(
        train_problems,
        train_loop_config={
            "tasks": tasks,
            "cluster": plan.config.cluster,
            "storage": plan.storage,
            "run": plan.run,
            "board": board,
            "threads": max(1, int(ask.cpus)),
            "cutting_cpus": cutting_cpus(session.capacity(), ask.count, ask.cpus),
        },
        scaling_config=ScalingConfig(num_workers=ask.count, use_gpu=ask.gpus > 0, resources_per_worker=ask.bundle()),
        run_config=RunConfig(
            name="cluster",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=plan.config.cluster.max_failures),
        ),
    )
    done: dict[str, int] = {}

    def show(kind: str, content: Any) -> None:
        if kind == "step":
            name, patches = content
            progress.advance(patches - done.get(name, 0))
            done[name] = patches
        elif kind == "epoch":
            trackers.epoch(content)
        elif kind == "figures":
            progress.note(content)
        else:
            progress.say(content)

    try:
        with board.watched(show), session.own_interrupts():
            trainer.fit()
    except Exception as error:
        raise board.error() or error from error
    finally:
        trackers.close()
        shutil.rmtree(scratch, ignore_errors=True)
    failed = board.error()
    if failed is not None:
        raise failed
    return board.nodes()


def _finish(plan: Plan, tasks: list[FitTask]) -> dict[str, Any]:
    """Joins the fits' journals into the run's metrics.jsonl; the last figures of each go into the receipt."""
    lines, last = [], {}
    for task in tasks:
        journal = plan.storage.read_bytes(join(task.folder, "metrics.jsonl")).decode().splitlines()
        lines += journal
        last[task.name] = json.loads(journal[-1])
    plan.storage.write_bytes(plan.uri("metrics.jsonl"), ("\n".join(lines) + "\n").encode())
    return last
