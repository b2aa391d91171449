"""A finetune that starts from the heads of a frozen run, and what is said where they do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from vgse.clustering.backbones import build_backbone
from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.config import Config
from vgse.config_loading import parse_config
from vgse.config_warnings import config_warnings
from vgse.errors import ConfigError
from vgse.pipeline.frozen_heads import frozen_heads, load_heads
from vgse.pipeline.problems import Problem
from vgse.receipts import Inputs, Receipts, stage_settings
from vgse.storage import Storage

INPUTS = Inputs(data="d", split="s", splits="ss", words="w", knowledge="k")
PROBLEM = Problem(0, "final", ("a", "b"), ("c",))


def config(run: Path, mode: str, **sections: dict[str, Any]) -> Config:
    values: dict[str, Any] = {
        "run": str(run),
        "data": {"images": "images", "classes": "classes.yaml", "word_vectors": "words.bin"},
        "encode": {"backbone": "tiny", "weights": "tiny.safetensors"},
        "cluster": {"mode": mode, "num_clusters": 20},
    }
    return parse_config({**values, **{n: {**values.get(n, {}), **s} for n, s in sections.items()}}, "test.yaml")


def heads(num_clusters: int = 20, words: int = 5) -> ClusterNetwork:
    return ClusterNetwork(128, num_clusters, 2, words, seed=9)


def frozen_run(folder: Path, *, finished: bool = True, inputs: Inputs = INPUTS, **sections: dict[str, Any]) -> str:
    """A run directory as `vgse run` leaves it, as far as it is read."""
    Path(folder).mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config(folder, "frozen", **sections).public_dict()))
    Receipts(Storage(), str(folder)).write_inputs(inputs, {})
    tensors = {f"model.{name}": value for name, value in heads().state_dict().items()}
    Checkpoints(Storage(), str(folder / "clustering" / PROBLEM.name)).save(3, tensors, {"finished": finished})
    return str(folder)


def plan(run: Path, heads_from: str) -> Any:
    mine = config(run, "finetune", cluster={"heads_from": heads_from})
    return SimpleNamespace(config=mine, storage=Storage(), inputs=INPUTS)


def test_the_heads_of_a_finished_frozen_run_are_loaded(tmp_path):
    folder = frozen_heads(plan(tmp_path / "run", frozen_run(tmp_path / "frozen")), PROBLEM)
    backbone = build_backbone("tiny")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    network = ClusterNetwork(128, 20, 2, 5, backbone, seed=0)
    load_heads(network, Storage(), folder)
    for name, value in heads().state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("made", "message", "remedy"),
    [
        ({"finished": False}, "has no finished fit split-0-final", "to its end"),
        ({"cluster": {"num_clusters": 30}}, "cluster.num_clusters is 20, there 30", "make these the same"),
        ({"encode": {"backbone": "resnet50"}}, "encode.backbone is tiny, there resnet50", "make these the same"),
        ({"cluster": {"mode": "finetune"}}, "was run with cluster.mode finetune", "cluster.mode frozen"),
        ({"inputs": Inputs("other", "s", "ss", "w", "k")}, "its images are others", "make these the same"),
        ({"inputs": Inputs("d", "s", "other", "w", "k")}, "its class splits are others", "make these the same"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(made, message, remedy, tmp_path):
    run = frozen_run(tmp_path / "frozen", **made)
    with pytest.raises(ConfigError, match=r"cluster\.heads_from") as caught:
        frozen_heads(plan(tmp_path / "run", run), PROBLEM)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run directory"):
        frozen_heads(plan(tmp_path / "run", str(tmp_path)), PROBLEM)


def test_heads_of_other_shapes_are_refused_by_name(tmp_path):
    folder = frozen_heads(plan(tmp_path / "run", frozen_run(tmp_path / "frozen")), PROBLEM)
    network = ClusterNetwork(128, 20, 2, 7, build_backbone("tiny"), seed=0)
    with pytest.raises(ConfigError, match=r"words\.weight is \(5, 20\), not \(7, 20\)") as caught:
        load_heads(network, Storage(), folder)
    assert "data.word_vectors" in caught.value.remedy


# ---- the settings around it
def test_settings_of_finetune_are_called_ignored_in_frozen_mode(tmp_path):
    mine = config(tmp_path, "frozen", cluster={"augment": 0.1, "heads_from": "x"})
    said = [sentence for sentence in config_warnings(mine) if sentence.startswith("cluster.")]
    assert said == [f"cluster.{name} is ignored: cluster.mode is frozen" for name in ("heads_from", "augment")]


def test_they_leave_a_frozen_run_alone_and_retrain_a_finetuned_one(tmp_path):
    for mode, same in (("frozen", True), ("finetune", False)):
        plain, other = config(tmp_path, mode), config(tmp_path, mode, cluster={"augment": 0.1})
        assert (stage_settings(plain, "cluster") == stage_settings(other, "cluster")) == same
        parts = config(tmp_path, mode, cluster={"accumulate": 4, "compile": True})
        assert stage_settings(plain, "cluster") == stage_settings(parts, "cluster")


@pytest.mark.parametrize(("given", "kept"), [(True, "true"), (False, "false"), ("auto", "auto"), ("true", "true")])
def test_mixed_precision_takes_truth_values(given, kept, tmp_path):
    assert config(tmp_path, "finetune", cluster={"mixed_precision": given}).cluster.mixed_precision == kept


def test_head_epochs_leave_some_for_the_backbone(tmp_path):
    with pytest.raises(ConfigError, match=r"cluster\.head_epochs is 4, but cluster\.epochs only 4"):
        config(tmp_path, "finetune", cluster={"epochs": 4, "head_epochs": 4})
