"""A cluster as its file describes it, and what the instances it is made of have and cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vgse.errors import ClusterError
from vgse.pipeline.capacity import GIB, Capacity, Node


class Instance(BaseModel):
    """An instance type: what it has, and what an hour of it costs in US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vcpus: int = Field(ge=1)
    gpus: int = Field(default=0, ge=0)
    gpu: str = ""
    memory_gib: float = Field(gt=0)
    network_gbit: float = Field(gt=0)
    """What it sustains, without credits for bursts."""
    on_demand: float = Field(gt=0)
    spot: float = Field(gt=0)


class PriceList(BaseModel):
    """The instance types known, with the region and date of their prices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str
    date: str
    note: str = ""
    instances: dict[str, Instance] = {}
    costs: dict[str, float] = {}
    """Of units of work, over the measured and assumed ones (see `costs`)."""


@dataclass(frozen=True)
class NodeType:
    """A type of node in a cluster's file.

    `resources` are Ray's (memory in bytes), `disk_gb` is None where not said, `role` says whether its nodes have a role
    that opens the bucket, `memory_share` how much of an instance's memory Ray can hand out: it keeps 30 % for its
    object store, while in Kubernetes all of the container's limit counts.
    """

    name: str
    resources: dict[str, float]
    least: int
    most: int
    instance: str = ""
    spot: bool = False
    disk_gb: int | None = None
    image: str = ""
    role: bool = False
    memory_share: float = 0.7

    def node(self) -> Node:
        """The same for placement, none of them there yet."""
        of = self.resources
        return Node(self.name, of.get("CPU", 0), of.get("GPU", 0), int(of.get("memory", 0)), 0, self.most)


@dataclass(frozen=True)
class Fleet:
    """A cluster's file: a head, types of workers, at most `most_workers` of all of them together."""

    source: str
    image: str
    head: NodeType
    workers: tuple[NodeType, ...]
    most_workers: int
    ray_version: str = ""

    def capacity(self) -> Capacity:
        """What the cluster may grow to, its head included."""
        head = replace(self.head.node(), now=1, most=1)
        return Capacity((head, *(worker.node() for worker in self.workers)), self.most_workers + 1)


@cache
def _shipped() -> PriceList:
    text = (files("vgse.pipeline.fleet") / "instances.yaml").read_text(encoding="utf-8")
    return PriceList.model_validate(yaml.safe_load(text))


def price_list(path: str | None = None) -> PriceList:
    """The instance types that come with the package, or those plus and over by those of a YAML file of the same shape.

    Raises:
        ClusterError: the file is missing or of another shape.
    """
    shipped = _shipped()
    if path is None:
        return shipped
    try:
        own = PriceList.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ClusterError(f"{path} is no list of instance prices: {error}",
                           "give region, date and instances as fleet/instances.yaml does") from None  # fmt: skip
    return own.model_copy(update={"instances": {**shipped.instances, **own.instances}})


def instance_problems(kind: NodeType, known: PriceList) -> list[str]:
    """What a node type says of itself that its instance does not have."""
    instance = known.instances.get(kind.instance)
    if instance is None:
        return [f"{kind.name}: unknown InstanceType {kind.instance or '(none)'}; give it by --prices FILE (known: "
                f"{', '.join(sorted(known.instances))})"]  # fmt: skip
    said = []
    for name, has in (("CPU", instance.vcpus), ("GPU", instance.gpus)):
        if kind.resources.get(name, 0) > has:
            said.append(f"{kind.name}: resources.{name} is {kind.resources[name]:g}, {kind.instance} has {has}")
    largest = kind.memory_share * instance.memory_gib
    if kind.resources.get("memory", 0) > largest * GIB:
        said.append(
            f"{kind.name}: resources.memory is {kind.resources['memory'] / GIB:.1f} GiB; of the "
            f"{instance.memory_gib:g} GiB of {kind.instance} at most {largest:.1f} can be handed out"
        )
    return said
