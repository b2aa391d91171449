"""What all stages share: skipping what is done, progress, the receipt and the summary line."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from tqdm import tqdm

from vgse.pipeline.plan import Plan, write_plan
from vgse.receipts import STAGES, Receipt
from vgse.storage import protocol


@dataclass(frozen=True)
class StageOutcome:
    """What a stage's work came to; `nodes` says how many of its tasks each node of the cluster did."""

    rows_in: int
    rows_out: int
    quarantined: int = 0
    unit: str = "images"
    details: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)


class Progress:
    """A progress bar with a rate; `say` prints a line above it."""

    def __init__(self, stage: str, *, quiet: bool = False) -> None:
        self._stage, self._quiet = stage, quiet
        self._bar: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune writes down all that it is given. A bar is bound to this process's terminal, which may be no file.
        return {**self.__dict__, "_bar": None}

    def start(self, total: int, unit: str, *, done: int = 0) -> None:
        """Begins a bar over `total` units, `done` of which an earlier attempt finished."""
        self.close()
        self._bar = tqdm(
            total=total, initial=done, unit=f" {unit}", desc=f"{self._stage:9}", disable=self._quiet, leave=False,
            dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 15, smoothing=0.1,
        )  # fmt: skip
        if done:
            self.say(f"{self._stage}: continues, {done:,} of {total:,} {unit} were done before")

    def advance(self, count: int) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def note(self, text: str) -> None:
        """Shows a short text behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if not self._quiet:
            tqdm.write(text)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_stages(plan: Plan, stages: Sequence[str], *, quiet: bool = False) -> list[Receipt]:
    """Runs `stages` in order, skipping what is done, and prints one line for each.

    Raises:
        UserError: a stage's inputs are missing because an earlier stage was never run.
    """
    say: Callable[[str], None] = (lambda text: None) if quiet else partial(print, flush=True)
    pending = [stage for stage in stages if plan.receipts.done(stage, plan.fingerprints[stage]) is None]
    if {"encode", "cluster"} & set(pending):
        from vgse.pipeline.backbone import check_backbone

        check_backbone(plan)
    if "cluster" in pending:
        from vgse.pipeline.trackers import check_trackers

        check_trackers(plan.config.cluster.log_to)
    write_plan(plan)
    receipts = []
    for stage in stages:
        receipt = plan.receipts.done(stage, plan.fingerprints[stage])
        if receipt is None:
            _require_inputs(plan, stage, stages)
            receipt = _run_stage(plan, stage, quiet)
            plan = plan.with_mended() if stage == "crop" else plan
            say(summary_line(receipt))
        else:
            say(f"{summary_line(receipt)}  [done before, nothing to do]")
        receipts.append(receipt)
    return receipts


def summary_line(receipt: Receipt) -> str:
    """Rows in, rows out, quarantined, seconds and rate of one stage, and its nodes where they were several."""
    unit = receipt.details.get("unit", "images")
    line = (
        f"{receipt.stage:9} {receipt.rows_in:>9,} in {receipt.rows_out:>9,} out {receipt.quarantined:>6,} quarantined"
    )
    nodes = len(receipt.details.get("nodes", ()))
    spread = f" on {nodes} nodes" if nodes > 1 else ""
    return f"{line} {receipt.seconds:>8.1f} s {receipt.rate:>9,.1f} {unit}/s{spread}"


def _run_stage(plan: Plan, stage: str, quiet: bool) -> Receipt:
    from vgse.pipeline.session import connect, nodes

    connect(plan.config.resources)
    _require_room(plan, stage)
    if protocol(plan.run) == "file" and nodes() > 1:
        print(f"warning: {plan.run} must be on a file system that all {nodes()} nodes share, or `run` in a bucket")
    module = importlib.import_module(f"vgse.pipeline.{stage}")
    plan.receipts.begin(stage, plan.fingerprints[stage], module.outputs(plan))
    started = time.monotonic()
    with Progress(stage, quiet=quiet) as progress:
        outcome: StageOutcome = module.run(plan, progress)
    receipt = Receipt(
        stage=stage,
        fingerprint=plan.fingerprints[stage],
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        quarantined=outcome.quarantined,
        seconds=round(time.monotonic() - started, 3),
        details={"unit": outcome.unit, **outcome.details, "nodes": outcome.nodes},
    )
    plan.receipts.finish(receipt)
    return receipt


def _require_room(plan: Plan, stage: str) -> None:
    """An error where the cluster can never serve the stage, a line where it has to grow first."""
    from vgse.pipeline import placement, session

    capacity = session.capacity()
    asked = placement.asks(stage, plan.config, capacity)
    placement.require(asked, capacity, plan.config.resources)
    for sentence in placement.starving(asked):
        print(f"warning: {sentence}", flush=True)
    waiting = [ask.said() for ask in asked if not placement.fits_now(ask, capacity)]
    if waiting:
        print(f"{stage:9} waits for the cluster to grow: {', '.join(waiting)}", flush=True)


def _require_inputs(plan: Plan, stage: str, running: Sequence[str]) -> None:
    from vgse.errors import RunDirectoryError

    before = STAGES[: STAGES.index(stage)]
    missing = [name for name in before if name not in running and not plan.receipts.done(name, plan.fingerprints[name])]
    if missing:
        raise RunDirectoryError(
            f"{stage} needs the results of {', '.join(missing)}, which {plan.run} does not hold for this configuration",
            f"run `vgse {missing[0]}` first, or `vgse run` for all stages",
        )
