"""Cluster files: accepted by Ray, and right in what Ray does not look at; the plan that is made on them."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import yaml

from vgse.config_loading import load_config, parse_config
from vgse.errors import ClusterError, UserError
from vgse.pipeline.capacity import GIB
from vgse.pipeline.fleet.checks import pinned_ray, problems
from vgse.pipeline.fleet.cluster_file import read_fleet
from vgse.pipeline.fleet.costs import unit_costs
from vgse.pipeline.fleet.forecast import forecast
from vgse.pipeline.fleet.machines import price_list
from vgse.pipeline.fleet.report import ClusterQuestion, cluster_lines
from vgse.pipeline.fleet.workload import Counts, patch_feature_bytes
from vgse.pipeline.placement import Ask, room

ROOT = Path(__file__).parents[1]
FILES = ["cluster.yaml", "jobs/rayjob.yaml"]
IMAGENET = Counts(1_281_167, 0, 1000, 20_842)


@pytest.fixture(scope="module")
def imagenet():
    return load_config(ROOT / "jobs/configs/imagenet.yaml")


def changed(tmp_path, file, path, value):
    """A copy of a cluster file with one field changed (None: taken out), as a path."""
    values = copy.deepcopy(yaml.safe_load((ROOT / file).read_text()))
    at = values
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    written = tmp_path / Path(file).name
    written.write_text(yaml.safe_dump(values))
    return str(written)


@pytest.mark.parametrize("file", FILES)
def test_the_files_are_right(file, imagenet):
    fleet = read_fleet(str(ROOT / file))
    assert problems(fleet, price_list()) == []
    assert (fleet.capacity().gpus, fleet.head.resources["CPU"]) == (4, 0)
    lines = list(cluster_lines(imagenet, ClusterQuestion(str(ROOT / file)), IMAGENET))
    assert not [line for line in lines if line.startswith("warning")]


def test_ray_is_the_same_everywhere():
    pin = pinned_ray()
    assert pin == ray.__version__
    for file in (*FILES, "jobs/Dockerfile"):
        assert set(re.findall(r":(\d+\.\d+\.\d+)-py", (ROOT / file).read_text())) == {pin}, file


def test_nodes_install_the_pins_of_the_package_and_no_others():
    """The pins are written down once: every node installs the package itself, from the files that it is sent."""
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    (target,) = values["file_mounts"]
    commands = " ".join(values["setup_commands"])
    assert f'"{target}[timm,wordnet]"' in commands
    assert "==" not in commands
    assert 'uv pip install --system --compile-bytecode ".[timm,wordnet]"' in (ROOT / "jobs/Dockerfile").read_text()


TYPES = ("available_node_types",)
GROUPS = ("spec", "rayClusterSpec", "workerGroupSpecs")


@pytest.mark.parametrize(
    ("file", "path", "value", "told"),
    [
        # What Ray's own schema says, or KubeRay's models.
        ("cluster.yaml", ("provider",), None, "provider"),
        ("cluster.yaml", ("max_workers",), "many", "max_workers"),
        ("cluster.yaml", ("no_such_field",), 1, "no_such_field"),
        ("cluster.yaml", TYPES, None, "available_node_types"),
        ("cluster.yaml", ("head_node_type",), "nobody", "head_node_type"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "resources"), {"CPU": -1}, "CPU"),
        ("jobs/rayjob.yaml", ("spec", "entrypoint"), None, "entrypoint"),
        ("jobs/rayjob.yaml", ("spec", "entrypont"), "python", "entrypont"),
        ("jobs/rayjob.yaml", ("spec", "submissionMode"), "Fax", "submissionMode"),
        ("jobs/rayjob.yaml", (*GROUPS, 0, "minReplicas"), 20, "minReplicas 20"),
        ("jobs/rayjob.yaml", ("apiVersion",), "ray.io/v1alpha1", "apiVersion"),
    ],
)
def test_what_ray_or_kuberay_would_refuse(tmp_path, file, path, value, told):
    with pytest.raises(ClusterError, match=re.escape(told)):
        read_fleet(changed(tmp_path, file, path, value))


@pytest.mark.parametrize(
    ("file", "path", "value", "told"),
    [
        ("cluster.yaml", (*TYPES, "cpu_spot", "min_workers"), 17, "min_workers 17 is above max_workers 16"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "max_workers"), 0, "none of it will ever start"),
        ("cluster.yaml", ("docker", "image"), "rayproject/ray:2.59.1-py311-gpu", "holds Ray 2.59.1"),
        ("cluster.yaml", ("docker", "image"), "rayproject/ray:2.60.0-py310-gpu", "not Python 3.11"),
        ("cluster.yaml", ("docker", "image"), "rayproject/ray:2.60.0-py311", "brings no CUDA"),
        ("cluster.yaml", ("docker", "image"), "rayproject/ray:latest", "no tag"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "resources", "CPU"), 64, "c6i.8xlarge has 32"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "resources", "GPU"), 1, "c6i.8xlarge has 0"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "resources", "memory"), 60 * GIB, "at most 44.8"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "resources"), {"CPU": 32}, "memory is not written out"),
        (
            "cluster.yaml",
            (*TYPES, "cpu_spot", "node_config", "InstanceType"),
            "c99.big",
            "unknown InstanceType c99.big",
        ),
        ("cluster.yaml", (*TYPES, "cpu_spot", "node_config", "IamInstanceProfile"), None, "no role"),
        ("cluster.yaml", (*TYPES, "cpu_spot", "node_config", "BlockDeviceMappings"), None, "no disk size"),
        ("cluster.yaml", (*TYPES, "cpu_on_demand"), None, "cpu_spot: spot without an on-demand type"),
        ("cluster.yaml", (*TYPES, "head", "resources", "CPU"), 8, "must be 0"),
        ("jobs/rayjob.yaml", ("spec", "rayClusterSpec", "rayVersion"), "2.9.0", "rayVersion is 2.9.0"),
        ("jobs/rayjob.yaml", (*GROUPS, 1, "template", "spec", "serviceAccountName"), "", "no role"),
    ],
)
def test_what_ray_does_not_look_at(tmp_path, file, path, value, told):
    found = problems(read_fleet(changed(tmp_path, file, path, value)), price_list())
    assert any(told in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("kinds", "resources", "told"),
    [
        (["gpu_spot", "gpu_on_demand"], {"use_gpu": True}, "0 GPU"),
        ([], {"cpus_per_worker": 64}, "encode asks for 4 workers of 64 CPU(.|\n)*lower resources.cpus_per_worker"),
    ],
)
def test_a_stage_that_no_node_type_serves_is_an_error(tmp_path, imagenet, kinds, resources, told):
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for kind in kinds:
        del values["available_node_types"][kind]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    config = imagenet.model_copy(update={"resources": imagenet.resources.model_copy(update=resources)})
    with pytest.raises(ClusterError, match=told):
        list(cluster_lines(config, ClusterQuestion(str(path)), IMAGENET))


def test_features_that_do_not_fit_are_told(tmp_path, imagenet):
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for kind in ("gpu_spot", "gpu_on_demand"):
        entry = values["available_node_types"][kind]
        entry["resources"] = {"CPU": 16, "GPU": 1, "memory": 40 * GIB}
        entry["node_config"] = {**entry["node_config"], "InstanceType": "g5.4xlarge",
                                "BlockDeviceMappings": [{"Ebs": {"VolumeSize": 80}}]}  # fmt: skip
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    lines = list(cluster_lines(imagenet, ClusterQuestion(str(path)), IMAGENET))
    said = [line for line in lines if line.startswith("warning")]
    assert len(said) == 2
    assert "larger disk" in said[0]
    assert "44 GiB of patch features do not fit into the 29 GiB" in said[1]


def test_the_plan_adds_up(imagenet):
    fleet, prices = read_fleet(str(ROOT / "cluster.yaml")), price_list()
    plans = {plan.ask.stage: plan for plan in forecast(imagenet, fleet, IMAGENET, unit_costs(), prices)}
    assert patch_feature_bytes(imagenet, IMAGENET) == 2 * 1_281_167 * 9 * 2048
    assert plans["crop"].work.tasks == -(-1_281_167 // 3555)  # 128 MB at 36 kB an image
    assert {name: plan.kind.name for name, plan in plans.items()} == {
        "crop": "cpu_spot", "encode": "gpu_spot", "cluster": "gpu_spot", "embed": "gpu_spot", "relate": "cpu_spot",
        "evaluate": "cpu_spot",
    }  # fmt: skip
    for plan in plans.values():
        assert 0 < plan.cost < plan.on_demand
        assert plan.nodes * prices.instances[plan.kind.instance].spot * plan.hours <= plan.cost * (1 + 1e-9)
    # Twice the images: twice the work, and more hours where the work is what takes them.
    twice = forecast(imagenet, fleet, Counts(2 * 1_281_167, 0, 1000, 20_842), unit_costs(), prices)
    grown = {plan.ask.stage: plan for plan in twice}
    assert grown["encode"].work.gpu_seconds == pytest.approx(2 * plans["encode"].work.gpu_seconds)
    assert grown["encode"].hours > 1.5 * plans["encode"].hours
    assert grown["relate"].hours == plans["relate"].hours


def test_prices_and_costs_are_the_users(tmp_path, imagenet):
    own = tmp_path / "prices.yaml"
    own.write_text("region: here\ndate: today\ninstances: {}\ncosts: {gpu_forward_row: 1.0}\n")
    question = ClusterQuestion(str(ROOT / "cluster.yaml"), prices=str(own))
    lines = list(cluster_lines(imagenet, question, IMAGENET))
    hours = float(next(line for line in lines if line.startswith("encode")).split()[-3])
    assert hours > 1_281_167 * 10 / 4 / 3600
    own.write_text("region: here\ndate: today\ncosts: {no_such: 1.0}\n")
    with pytest.raises(ClusterError, match="no_such"):
        list(cluster_lines(imagenet, question, IMAGENET))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["c.yaml", "--images", "5"], "--images needs --on"),
        (["c.yaml", "--on", "x.yaml", "--images", "5"], "--seen, --unseen"),
        (["c.yaml", "--on", "x.yaml", "--images", "0", "--seen", "1", "--unseen", "1"], "--images is out of range"),
        (
            ["c.yaml", "--on", "x", "--images", "9", "--test-images", "9", "--seen", "1", "--unseen", "1"],
            "--test-images",
        ),
    ],
)
def test_wrong_questions_are_told(arguments, told):
    with pytest.raises(UserError, match=told):
        ClusterQuestion.parse(arguments)


def test_check_plans_from_counts_without_reading_anything(tmp_path):
    """The command as the README has it: the bucket of that configuration does not exist."""
    command = [sys.executable, "-m", "vgse.cli", "check", "jobs/configs/imagenet.yaml", "--on", "cluster.yaml"]
    counts = ["--images", "1281167", "--seen", "1000", "--unseen", "20842", "--resources.workers", "2"]
    done = subprocess.run([*command, *counts], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[3:9]] == [
        "crop", "encode", "cluster", "embed", "relate", "evaluate",
    ]  # fmt: skip
    wrong = subprocess.run([*command[:-1], "no.yaml", *counts], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "no.yaml does not exist" in wrong.stderr


def test_a_small_config_needs_no_gpu_cluster(tmp_path):
    values = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for kind in ("gpu_spot", "gpu_on_demand"):
        del values["available_node_types"][kind]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(values))
    config = parse_config({"run": "r", "data": {"images": "i", "classes": "c", "word_vectors": "w"}}, "test")
    lines = list(cluster_lines(config, ClusterQuestion(str(path)), Counts(50_000, 10_000, 80, 20, 2000)))
    assert next(line for line in lines if line.startswith("encode")).split()[1:3] == ["1", "CPU,"]
    assert room(Ask("", "", 1, 0, GIB, 1), read_fleet(str(path)).capacity()) == 20 * 32
