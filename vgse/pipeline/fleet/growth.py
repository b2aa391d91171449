"""The nodes of a running cluster, and what it may grow to as far as anyone says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vgse.pipeline.capacity import Capacity, Node
from vgse.pipeline.fleet.cluster_file import fleet_of, read_fleet
from vgse.pipeline.fleet.machines import Fleet

# `ray up` leaves the configuration of the autoscaler on the head, where jobs run.
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"
_NODE_GROUP = "ray.io/node-group"


def growth(grows_to: str | None) -> Fleet | None:
    """What the cluster may grow to: what the user says, else what `ray up` left on this machine, else nothing.

    Raises:
        ClusterError: the user's file is missing or wrong.
    """
    if grows_to is not None:
        return read_fleet(grows_to)
    left = Path(_BOOTSTRAP).expanduser()
    if not left.is_file():
        return None
    return fleet_of(yaml.safe_load(left.read_text(encoding="utf-8")), str(left))


def cluster_capacity(nodes: Iterable[Mapping[str, Any]], grows: Fleet | None) -> Capacity:
    """The living nodes by shape and, where more may come, how many of which.

    Args:
        nodes: as `ray.nodes()` lists them.
        grows: what the cluster may grow to.
    """
    living = [node for node in nodes if node["Alive"]]
    kinds = {worker.name: worker for worker in grows.workers} if grows else {}
    found: Counter[Node] = Counter(_shape(node, kinds) for node in living)
    shapes = [
        Node(shape.name, shape.cpus, shape.gpus, shape.memory, count, max(count, _most(shape.name, grows)))
        for shape, count in found.items()
    ]
    coming = [kind.node() for name, kind in kinds.items() if name not in {shape.name for shape in shapes} and kind.most]
    return Capacity((*shapes, *coming), max(len(living), grows.most_workers + 1) if grows else None)


def _shape(node: Mapping[str, Any], kinds: Mapping[str, Any]) -> Node:
    """A living node without its count; nodes differ by a little in the memory they find, so that is rounded."""
    resources = node["Resources"]
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    name = (node.get("Labels") or {}).get(_NODE_GROUP, "")
    if name not in kinds:
        head = "node:__internal_head__" in resources
        alike = [
            k for k, kind in kinds.items() if (kind.resources.get("CPU"), kind.resources.get("GPU", 0)) == (cpus, gpus)
        ]
        name = "head" if head else next(iter(alike), "node")
    memory = int(resources.get("memory", 0))
    return Node(name, cpus, gpus, memory - memory % 2**28 if memory > 2**29 else memory)


def _most(name: str, grows: Fleet | None) -> int:
    return next((worker.most for worker in grows.workers if worker.name == name), 0) if grows else 0
