"""`vgse check` and `vgse status`: everything read and verified, nothing run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from vgse.config import Config
from vgse.config_loading import load_config, parse_config
from vgse.config_warnings import config_warnings
from vgse.errors import RunDirectoryError, StorageError
from vgse.pipeline.accounts import QUARANTINE_SCHEMA, committed_table, prove, verify
from vgse.pipeline.backbone import check_backbone
from vgse.pipeline.fleet.report import ClusterQuestion, cluster_lines
from vgse.pipeline.fleet.workload import Counts
from vgse.pipeline.plan import Plan, make_plan
from vgse.pipeline.stage import summary_line
from vgse.pipeline.trackers import check_trackers
from vgse.receipts import STAGES
from vgse.storage import Storage, join
from vgse.tuning.space import read_space


def check(config: Config, question: ClusterQuestion | None = None) -> Iterator[str]:
    """Lists the images anew, reads splits, words and weights, and says what a run would do; and on which cluster, where
    that was asked. Where all counts are given with the question, nothing is read.

    Raises:
        UserError: the first thing that is wrong.
    """
    for sentence in config_warnings(config):
        yield f"warning: {sentence}"
    if question and question.counts:
        yield from cluster_lines(config, question, question.counts)
        return
    plan = make_plan(config, fresh=True)
    frame = plan.manifest
    roles = frame.role.value_counts()
    yield f"images    {len(frame):,}: {roles.get('train', 0):,} train, {roles.get('test', 0):,} test"
    first = plan.splits[0]
    sizes = f"{len(first.train)} train, {len(first.val)} val, {len(first.unseen)} unseen"
    yield f"classes   {sizes}; {len(plan.splits)} split(s)"
    yield f"words     {plan.words_CW.shape[1]}-d vectors for all {len(plan.class_names)} classes"
    yield f"known by  {', '.join(source.name for source in plan.sources)}"
    for sentence in plan.warnings():
        yield f"warning: {sentence}"
    check_trackers(config.cluster.log_to)
    yield f"backbone  {check_backbone(plan)}"
    if config.tune.space:
        space = read_space(config)
        yield f"campaign  {space.trials()} trials x {len(space.relations())} scored settings (vgse tune)"
    if question:
        seen, unseen = len(first.train) + len(first.val), len(first.unseen)
        counts = Counts(len(frame), int(roles.get("test", 0)), seen, unseen, question.bytes_per_image)
        yield from cluster_lines(config, question, counts)
    yield from _stages(plan)


def status(target: str, *, verify_shards: bool = False) -> Iterator[str]:
    """What a run directory holds, and the proof that committed and quarantined images partition the manifest.

    Args:
        target: the directory, or a configuration file that names it.
        verify_shards: also read every shard whole and compute its digests again.

    Raises:
        RunDirectoryError: there is no run.
        AccountingError: committed and quarantined images do not add up, or shards were changed.
    """
    config = load_config(target) if target.endswith((".yaml", ".yml")) and Path(target).is_file() else None
    storage = Storage(config.storage if config else None)
    run = storage.absolute(config.run if config else target)
    if not storage.exists(join(run, "config.yaml")):
        raise RunDirectoryError(f"{run} holds no run", "give the `run` directory of an earlier `vgse run`")
    config = config or parse_config(
        yaml.safe_load(storage.read_bytes(join(run, "config.yaml"))), join(run, "config.yaml")
    )
    # The directory given counts, also where it is a copy of the one it was written as.
    plan = make_plan(config.model_copy(update={"run": run}))
    yield f"run directory: {run}"
    yield from _stages(plan)
    if plan.receipts.read("crop") is not None:
        try:
            quarantine = storage.read_table(plan.uri("quarantine.parquet"))
        except StorageError:
            quarantine = QUARANTINE_SCHEMA.empty_table()
        yield prove(plan, committed_table(plan, ["image_id"]), quarantine)
        if verify_shards:
            yield verify(plan)


def _stages(plan: Plan) -> Iterator[str]:
    for stage in STAGES:
        receipt = plan.receipts.read(stage)
        if receipt is None:
            yield f"{stage:9} not done"
        elif receipt.fingerprint != plan.fingerprints[stage]:
            yield f"{summary_line(receipt)}  [of other settings: would run again]"
        else:
            yield summary_line(receipt)
