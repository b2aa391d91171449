"""What a unit of work costs: measured figures, and assumptions where nothing was measured."""

from __future__ import annotations

from importlib.resources import files

import yaml
from pydantic import BaseModel, ConfigDict, Field


class UnitCosts(BaseModel):
    """Seconds per unit. Those of one CPU core were measured (`benchmarks/bench_unit_costs.py`, at F = 2048, K = 500,
    224 px); everything about GPUs, networks and machines is an assumption, to be overridden under `costs` in the file
    given by `--prices`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    crop_image: float = Field(gt=0)
    """A photograph to boxes and a stored image, one core."""
    cut_image: float = Field(gt=0)
    """A stored image to 9 patches and the whole, one core."""
    forward_row: float = Field(gt=0)
    """One input through ResNet-50, one core."""
    train_row: float = Field(gt=0)
    """One patch through a training step on cached features, one core."""
    embed_row: float = Field(gt=0)
    """One patch feature through the heads, one core."""
    relate_class: float = Field(gt=0)
    """One unseen class related to 1,000 seen ones, one core."""
    count_row: float = Field(gt=0)
    """One image of F 4096 added to the normal equations, one core."""
    score_row: float = Field(gt=0)
    """One image of F 4096 scored against 21,842 classes, one core."""
    gpu_forward_row: float = Field(gt=0)
    """ASSUMED: one input through ResNet-50 in bfloat16 on a GPU of the A10G's class."""
    gpu_train_row: float = Field(gt=0)
    """ASSUMED: one patch through a training step on features held in memory, bound by gathering and copying them."""
    vcpu_share: float = Field(gt=0, le=1)
    """ASSUMED: what a vCPU (a hyper-thread) does of a core's work when all are busy."""
    network_share: float = Field(gt=0, le=1)
    """ASSUMED: what S3 gives of an instance's network."""
    node_start_s: float = Field(ge=0)
    """ASSUMED: from asking for a node to its first task (machine, image, packages)."""
    idle_s: float = Field(ge=0)
    """A node's idle minutes before it goes, paid for."""
    stage_start_s: float = Field(ge=0)
    """ASSUMED: what Ray, listing and receipts take of a stage whatever its size."""


_ASSUMED = {
    "gpu_forward_row": 1 / 1200, "gpu_train_row": 1 / 200_000, "vcpu_share": 0.65, "network_share": 0.5,
    "node_start_s": 420.0, "idle_s": 300.0, "stage_start_s": 60.0,
}  # fmt: skip
ASSUMED = frozenset(_ASSUMED) - {"idle_s"}


def unit_costs(overrides: dict[str, float] | None = None) -> UnitCosts:
    """Measured figures and assumptions, `overrides` over both (pydantic's ValidationError for unknown names)."""
    measured = yaml.safe_load((files("vgse.pipeline.fleet") / "measured_costs.yaml").read_text(encoding="utf-8"))
    return UnitCosts.model_validate({**_ASSUMED, **measured, **(overrides or {})})
