"""Which checkpoint serves: the last one, or the one that validation found best."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vgse.clustering.checkpoints import Checkpoints
from vgse.config_loading import parse_config
from vgse.errors import ConfigError, RunDirectoryError
from vgse.pipeline.networks import NetworkRecipe
from vgse.storage import Storage

MINIMAL = {"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}


def _config(**cluster: object):
    return parse_config({**MINIMAL, "encode": {"backbone": "resnet18"}, "cluster": cluster}, "test.yaml")


def test_the_best_or_the_last_network_is_loaded(tmp_path: Path):
    recipe = NetworkRecipe.of(_config(num_clusters=20), num_classes=5, word_dim=4)
    checkpoints = Checkpoints(Storage(), str(tmp_path))
    for step, value in ((10, 0.4), (20, 0.3), (30, None)):
        network = recipe.build(Storage())
        with torch.no_grad():
            network.words.bias.fill_(step)
        tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
        checkpoints.save(step, tensors, {}, value)
    assert float(recipe.load(Storage(), str(tmp_path)).words.bias.detach()[0]) == 30
    assert float(recipe.load(Storage(), str(tmp_path), best=True).words.bias.detach()[0]) == 10


def test_a_fit_that_was_never_validated_has_no_best(tmp_path: Path):
    recipe = NetworkRecipe.of(_config(num_clusters=20), num_classes=5, word_dim=4)
    Checkpoints(Storage(), str(tmp_path)).save(10, {}, {})
    with pytest.raises(RunDirectoryError, match=r"no validated checkpoint(.|\n)*cluster\.validate_every"):
        recipe.load(Storage(), str(tmp_path), best=True)


@pytest.mark.parametrize("cluster", [{"validate_every": 0}, {"keep_best": 0}, {"validation_fit": False}])
def test_serving_the_best_needs_validation(cluster: dict):
    assert _config(serve="best").cluster.serve == "best"
    with pytest.raises(ConfigError, match=r"cluster\.serve best needs validation"):
        _config(serve="best", **cluster)
