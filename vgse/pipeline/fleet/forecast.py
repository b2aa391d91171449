"""The plan of a run on a cluster: where each stage is placed, how long it takes and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vgse.config import Config
from vgse.pipeline.capacity import GIB
from vgse.pipeline.fleet.checks import twin
from vgse.pipeline.fleet.costs import UnitCosts
from vgse.pipeline.fleet.machines import Fleet, Instance, NodeType, PriceList
from vgse.pipeline.fleet.workload import Counts, Work, patch_feature_bytes, workload
from vgse.pipeline.placement import Ask, asks, slots
from vgse.receipts import STAGES

# Of a disk, what the image and the system take.
_SYSTEM_GB = 40


@dataclass(frozen=True)
class StagePlan:
    """One stage on its nodes: how many, for how many hours of work, and what they cost with start and idle minutes in
    US dollars, on spot where there is spot and on demand."""

    ask: Ask
    kind: NodeType
    work: Work
    nodes: int
    hours: float
    cost: float
    on_demand: float
    bound: str


def forecast(config: Config, fleet: Fleet, counts: Counts, costs: UnitCosts, prices: PriceList) -> list[StagePlan]:
    """The stages in order; those without work are left out. Placement must have been checked before (`require`)."""
    capacity = fleet.capacity()
    gpu = any(ask.gpus for ask in asks("encode", config, capacity))
    work = workload(config, counts, costs, gpu=gpu)
    plans: list[StagePlan] = []
    for stage in STAGES:
        if work[stage].tasks:
            ask = asks(stage, config, capacity)[0]
            kind = _kind(ask, fleet)
            before = plans[-1].kind if plans else None
            plans.append(_planned(ask, kind, work[stage], fleet, costs, prices, started=kind == before))
    return plans


def _kind(ask: Ask, fleet: Fleet) -> NodeType:
    """The type of node that the autoscaler takes: without GPUs where none are asked for, spot first."""
    able = [kind for kind in fleet.workers if slots(ask, kind.node()) and kind.most]
    return min(able, key=lambda kind: (bool(kind.resources.get("GPU")) != bool(ask.gpus), not kind.spot))


def _planned(
    ask: Ask, kind: NodeType, work: Work, fleet: Fleet, costs: UnitCosts, prices: PriceList, *, started: bool
) -> StagePlan:
    instance, on_each = prices.instances[kind.instance], slots(ask, kind.node())
    at_once = ask.count if ask.together else min(work.tasks, kind.most * on_each)
    nodes = min(kind.most, -(-at_once // on_each))
    limits = _limits(ask, work, min(at_once, nodes * on_each), nodes, instance, costs)
    limits["start"] = costs.stage_start_s
    bound = max(limits, key=lambda name: limits[name])
    seconds = max(limits["CPU"], limits["GPU"], limits["network"]) + costs.stage_start_s
    paid = seconds + (0 if started else costs.node_start_s + costs.idle_s)
    hours = (seconds + (0 if started else costs.node_start_s)) / 3600
    second = twin(kind, fleet) if kind.spot else kind
    full = prices.instances[second.instance].on_demand if second else instance.on_demand
    price = instance.spot if kind.spot else instance.on_demand
    return StagePlan(ask, kind, work, nodes, hours, nodes * paid / 3600 * price, nodes * paid / 3600 * full, bound)


def _limits(ask: Ask, work: Work, at_once: int, nodes: int, instance: Instance, costs: UnitCosts) -> dict[str, float]:
    """Seconds that each resource alone would take."""
    cores = at_once * max(ask.cpus, 1e-9) * costs.vcpu_share
    network = nodes * instance.network_gbit / 8 * 1e9 * costs.network_share
    # What every node keeps a copy of, each of them reads.
    moved = work.reads + work.writes + work.kept * (nodes - 1)
    return {
        "CPU": work.cpu_seconds / cores,
        "GPU": work.gpu_seconds / (at_once * ask.gpus) if ask.gpus else 0.0,
        "network": moved / network,
    }


def warnings(plans: list[StagePlan], config: Config, counts: Counts, prices: PriceList) -> Iterator[str]:
    """What fits nowhere but on paper."""
    for plan in plans:
        room = (plan.kind.disk_gb or 0) - _SYSTEM_GB
        if plan.kind.disk_gb and plan.work.kept / 1e9 > room:
            yield (
                f"{plan.ask.stage}: a node keeps a copy of {plan.work.kept / 1e9:.0f} GB of features, {plan.kind.name} "
                f"has {room} GB of disk for it; give it a larger disk"
            )
        if plan.ask.stage == "cluster" and plan.work.kept:
            # What a training worker holds its features in, see `fit_worker`: half of what is free, shared on a node.
            half = _free_memory(plan.kind, prices) / 2 / min(plan.ask.count, slots(plan.ask, plan.kind.node()))
            need = patch_feature_bytes(config, counts)
            if need > half:
                yield (
                    f"cluster: {need / GIB:.0f} GiB of patch features do not fit into the {half / GIB:.0f} GiB that a "
                    f"worker on {plan.kind.name} holds them in; rows are read from its disk one by one, and the hours "
                    "above are too few"
                )


def _free_memory(kind: NodeType, prices: PriceList) -> float:
    """Bytes that a training worker finds free: of a pod its limit, of a machine nine tenths."""
    pod = kind.memory_share > 0.9
    return kind.resources["memory"] if pod else 0.9 * prices.instances[kind.instance].memory_gib * GIB
