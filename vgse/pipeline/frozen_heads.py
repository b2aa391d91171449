"""Starting a finetune from the heads of a finished frozen run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from vgse.clustering.checkpoints import Checkpoints
from vgse.config import Config
from vgse.config_loading import parse_config
from vgse.errors import ConfigError
from vgse.pipeline.plan import Plan, Problem
from vgse.receipts import Receipts
from vgse.storage import Storage, join

if TYPE_CHECKING:
    from vgse.clustering.network import ClusterNetwork

_HEADS = ("clusters", "classes", "words")
# Heads are worth something on the features they were trained on, and problems of one name are the same problem only
# under the same choices of images and classes.
_SAME = (
    "encode.backbone",
    "encode.weights",
    "cluster.num_clusters",
    "evaluate.choice_held_out",
    "evaluate.choice_images",
    "evaluate.folds",
    "seed",
)


def frozen_heads(plan: Plan, problem: Problem) -> str:
    """The folder of the frozen fit whose heads `problem` starts from.

    Raises:
        ConfigError: cluster.heads_from is no finished frozen run of these images, classes and settings.
    """
    storage, run = plan.storage, plan.storage.absolute(str(plan.config.cluster.heads_from))
    _check_run(plan, run)
    folder = join(run, "clustering", problem.name)
    saved = Checkpoints(storage, folder).latest()
    if saved is None or not saved.state.get("finished"):
        raise ConfigError(
            f"cluster.heads_from: {run} has no finished fit {problem.name}",
            f"run `vgse cluster` on {run} to its end, with cluster.validation_fit, data.class_splits and seeds as here",
        )
    return folder


def _check_run(plan: Plan, run: str) -> None:
    config_uri = join(run, "config.yaml")
    if not plan.storage.exists(config_uri):
        raise ConfigError(
            f"cluster.heads_from: {run} is no run directory", "give that of a finished run in frozen mode"
        )
    other = parse_config(yaml.safe_load(plan.storage.read_bytes(config_uri)), config_uri)
    if other.cluster.mode != "frozen":
        raise ConfigError(
            f"cluster.heads_from: {run} was run with cluster.mode {other.cluster.mode}",
            "give the directory of a run with cluster.mode frozen",
        )
    differing = [
        f"{path} is {mine}, there {theirs}"
        for path in _SAME
        if (mine := _value(plan.config, path)) != (theirs := _value(other, path))
    ]
    inputs = Receipts(plan.storage, run).inputs() or {}
    differing += [
        f"its {what} are others"
        for what, name in (("images", "data"), ("class splits", "splits"))
        if inputs.get(name) != getattr(plan.inputs, name)
    ]
    if differing:
        raise ConfigError(
            f"cluster.heads_from: {run} does not fit: {'; '.join(differing)}",
            "make these the same, or leave cluster.heads_from out to start from fresh heads",
        )


def load_heads(network: ClusterNetwork, storage: Storage, folder: str) -> None:
    """Puts the heads of the latest checkpoint in `folder` into `network`; its backbone stays as it is.

    Raises:
        ConfigError: the heads have other shapes.
    """
    from vgse.clustering.training_state import network_tensors

    saved = Checkpoints(storage, folder).latest()
    assert saved is not None, "checked before training started"
    heads = {name: value for name, value in network_tensors(saved).items() if name.split(".")[0] in _HEADS}
    expected = {name: value for name, value in network.state_dict().items() if name.split(".")[0] in _HEADS}
    differing = [
        f"{name} is {tuple(heads[name].shape) if name in heads else 'missing'}, not {tuple(value.shape)}"
        for name, value in expected.items()
        if name not in heads or heads[name].shape != value.shape
    ]
    if differing:
        raise ConfigError(
            f"cluster.heads_from: the heads in {folder} do not fit: {'; '.join(differing)}",
            "use the same cluster.num_clusters, data.word_vectors and encode.backbone, or leave cluster.heads_from out",
        )
    network.load_state_dict(heads, strict=False)


def _value(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value
