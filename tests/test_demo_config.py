"""The demo's configuration stands twice, inside the package and among the jobs: the two must say the same."""

from importlib.resources import files
from pathlib import Path

import yaml

from vgse.config_loading import parse_config


def test_the_two_demo_configurations_agree():
    packaged = yaml.safe_load(files("vgse.data").joinpath("demo.yaml").read_text())
    job = yaml.safe_load((Path(__file__).parents[1] / "jobs/configs/demo.yaml").read_text())
    assert packaged == job


def test_every_configuration_shipped_is_valid():
    paths = sorted((Path(__file__).parents[1] / "jobs/configs").glob("*.yaml"))
    assert {path.stem for path in paths} == {"demo", "cifar100", "cifar100_tune", "awa2", "cub", "sun", "imagenet"}
    for path in paths:
        parse_config(yaml.safe_load(path.read_text()), str(path))
