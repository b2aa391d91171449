"""`vgse check CONFIG --on cluster.yaml`: is the cluster's file right, can every stage be placed, what will it take."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from vgse.config import Config
from vgse.errors import ClusterError, UserError
from vgse.pipeline.capacity import GIB
from vgse.pipeline.fleet.checks import problems
from vgse.pipeline.fleet.cluster_file import read_fleet
from vgse.pipeline.fleet.costs import ASSUMED, UnitCosts, unit_costs
from vgse.pipeline.fleet.forecast import StagePlan, forecast, warnings
from vgse.pipeline.fleet.machines import Fleet, PriceList, price_list
from vgse.pipeline.fleet.workload import PHOTOGRAPH_BYTES, Counts
from vgse.pipeline.placement import asks, require, starving
from vgse.receipts import STAGES


@dataclass(frozen=True)
class ClusterQuestion:
    """What `vgse check` was asked about a cluster. Counts left None are taken from the data."""

    on: str
    images: int | None = None
    test_images: int | None = None
    seen: int | None = None
    unseen: int | None = None
    bytes_per_image: int = PHOTOGRAPH_BYTES
    prices: str | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> tuple[ClusterQuestion | None, list[str]]:
        """The question among the command line's arguments, and what is left of them.

        Raises:
            UserError: counts without a cluster, some of them missing, or below what is possible.
        """
        parser = argparse.ArgumentParser(prog="vgse check", add_help=False, allow_abbrev=False)
        parser.add_argument("--on")
        for name in ("images", "test-images", "seen", "unseen", "bytes-per-image"):
            parser.add_argument(f"--{name}", type=int)
        parser.add_argument("--prices")
        given, rest = parser.parse_known_args(list(arguments))
        values = {name: value for name, value in vars(given).items() if value is not None}
        if given.on is None:
            if values:
                raise UserError(f"vgse check: --{next(iter(values)).replace('_', '-')} needs --on", "--on cluster.yaml")
            return None, rest
        question = cls(**values)
        question._check()
        return question, rest

    def _check(self) -> None:
        needed = {"--images": self.images, "--seen": self.seen, "--unseen": self.unseen}
        missing = [name for name, value in needed.items() if value is None]
        if missing and len(missing) < len(needed):
            raise UserError(f"vgse check: {', '.join(missing)} must be given too", "give all three")
        if not missing:
            least = {**needed, "--bytes-per-image": self.bytes_per_image}
            wrong = [name for name, value in least.items() if value is not None and value < 1]
            if wrong or not 0 <= (self.test_images or 0) < (self.images or 0):
                raise UserError(
                    f"vgse check: {', '.join(wrong) or '--test-images'} is out of range",
                    "counts start at 1, and --test-images is part of --images",
                )

    @property
    def counts(self) -> Counts | None:
        """The counts that were given, or None where the data must be read."""
        if self.images is None or self.seen is None or self.unseen is None:
            return None
        return Counts(self.images, self.test_images or 0, self.seen, self.unseen, self.bytes_per_image)


def cluster_lines(config: Config, question: ClusterQuestion, counts: Counts) -> Iterator[str]:
    """The answer, line by line.

    Raises:
        ClusterError: the file is wrong (all that is wrong with it), or a stage can never be placed.
    """
    prices = price_list(question.prices)
    try:
        costs = unit_costs(prices.costs)
    except ValidationError as error:
        raise ClusterError(f"{question.prices}: costs: {error}", "use the names of fleet/costs.py") from None
    fleet = read_fleet(question.on)
    wrong = problems(fleet, prices)
    if wrong:
        raise ClusterError(f"{fleet.source}:\n  " + "\n  ".join(wrong), "mend what is named above")
    capacity = fleet.capacity()
    asked = [ask for stage in STAGES for ask in asks(stage, config, capacity)]
    require(asked, capacity, config.resources)
    yield f"cluster   {fleet.source}: {fleet.image}, up to {fleet.most_workers} workers: {_workers(fleet)}"
    total = counts.images * counts.bytes_per_image
    yield (
        f"planned   {counts.images:,} images ({counts.test_images:,} of them for testing only) of "
        f"{counts.bytes_per_image / 1e3:g} kB, {total / 1e9:,.1f} GB; {counts.seen:,} seen and "
        f"{counts.unseen:,} unseen classes"
    )
    plans = forecast(config, fleet, counts, costs, prices)
    yield from _table(plans, fleet, prices)
    for sentence in (*starving(asked), *warnings(plans, config, counts, prices)):
        yield f"warning: {sentence}"
    yield from _footnotes(fleet, costs, prices)


def _workers(fleet: Fleet) -> str:
    return ", ".join(f"{kind.most} {kind.name} ({kind.instance})" for kind in fleet.workers)


def _table(plans: list[StagePlan], fleet: Fleet, prices: PriceList) -> Iterator[str]:
    header = (
        "stage",
        "each asks Ray for",
        "on",
        "nodes",
        "tasks",
        "GB read",
        "written",
        "bound",
        "hours",
        "$",
        "no spot",
    )
    yield _row(*header)
    for plan in plans:
        ask, work = plan.ask, plan.work
        gpu = f", {ask.gpus} GPU" if ask.gpus else ""
        memory = f", {ask.memory / GIB:.1f} GiB" if ask.memory else ""
        yield _row(
            ask.stage, f"{ask.cpus:g} CPU{gpu}{memory}", plan.kind.name,
            plan.nodes, f"{work.tasks:,}", f"{work.reads / 1e9:,.1f}", f"{work.writes / 1e9:,.1f}", plan.bound,
            f"{plan.hours:.2f}", f"{plan.cost:,.2f}", f"{plan.on_demand:,.2f}",
        )  # fmt: skip
    hours = sum(plan.hours for plan in plans)
    head = hours * prices.instances[fleet.head.instance].on_demand
    spot, full = (sum(getattr(plan, name) for plan in plans) + head for name in ("cost", "on_demand"))
    nothing = ("",) * 4
    yield _row("head", "", fleet.head.name, 1, *nothing, f"{hours:.2f}", f"{head:,.2f}", f"{head:,.2f}")
    yield _row("all", "", "", "", *nothing, f"{hours:.2f}", f"{spot:,.2f}", f"{full:,.2f}")


def _row(*cells: object) -> str:
    widths = (-9, -23, -13, 5, 6, 8, 8, 8, 6, 8, 8)
    return " ".join(f"{cell!s:{'<' if w < 0 else '>'}{abs(w)}}" for cell, w in zip(cells, widths, strict=True)).rstrip()


def _footnotes(fleet: Fleet, costs: UnitCosts, prices: PriceList) -> Iterator[str]:
    yield (
        "measured on one core: "
        + ", ".join(f"{name} {1e3 * getattr(costs, name):.3g} ms" for name in _MEASURED)
        + " (benchmarks/results/unit_costs.md)"
    )
    rates = {"gpu_forward_row", "gpu_train_row"}
    assumed = [
        f"{name} {1e3 * value:.3g} ms" if name in rates else f"{name} {value:g}"
        for name, value in costs.model_dump().items()
        if name in ASSUMED
    ]
    yield f"ASSUMED, not measured: {', '.join(assumed)}"
    yield f"prices of {prices.region}, {prices.date}: {prices.note}; yours by --prices FILE"


_MEASURED = [name for name in UnitCosts.model_fields if name not in ASSUMED and name != "idle_s"]
