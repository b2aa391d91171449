"""Bad input: exit code 2 and a message that names the field or file and a remedy, before any work is done."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import save_file

from vgse.cli import guarded, main
from vgse.clustering.backbones import build_backbone
from vgse.config_loading import parse_config
from vgse.data.demo_images import demo_classes
from vgse.pipeline.encode import _encode
from vgse.pipeline.plan import make_plan, write_plan
from vgse.pipeline.stage import Progress, run_stages

QUICK = {"retries": 0, "timeout_s": 5}


@pytest.fixture
def refused(tmp_path, capsys):
    """A function (values, *overrides) -> what `vgse run` says; it must end with 2 and leave no run directory."""

    def ask(values, *overrides, command="run"):
        path = tmp_path / "config.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        before = sorted(Path(tmp_path / "run").rglob("*"))
        with pytest.raises(SystemExit) as ended:
            main([command, str(path), *overrides])
        said = capsys.readouterr()
        assert ended.value.code == 2, said
        assert "Traceback" not in said.err
        assert sorted(Path(tmp_path / "run").rglob("*")) == before, "work was begun"
        return said.out + said.err

    return ask


@pytest.fixture
def values(tmp_path, demo_values):
    """A function (**sections) -> a good configuration with these sections changed."""
    return lambda **sections: demo_values(tmp_path / "run", **sections)


@pytest.fixture
def images(tmp_path, demo_data):
    """A copy of the images that a test may spoil."""
    return Path(shutil.copytree(demo_data.images, tmp_path / "images"))


def classes_file(tmp_path, **changes):
    path = tmp_path / "classes.yaml"
    path.write_text(yaml.safe_dump({**demo_classes(), **changes}))
    return str(path)


# ---- the command line
@pytest.mark.parametrize("arguments", [["run"], ["check"], ["status"], ["cluster", "--relate.alpha", "0"]])
def test_no_configuration(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"vgse {arguments[0]}" in said
    assert "\n  -> " in said


@pytest.mark.parametrize("arguments", [["tarin", "config.yaml"], []])
def test_unknown_command(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "usage: vgse" in said
    assert "COMMAND" in said


def test_status_of_a_directory_without_a_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["status", str(tmp_path / "nothing")])
    assert ended.value.code == 2
    assert f"{tmp_path / 'nothing'} holds no run" in capsys.readouterr().err


# ---- the configuration
def test_unreadable_yaml(refused):
    said = refused("run: [unfinished\ndata: }")
    assert "config.yaml is not valid YAML" in said
    assert "line 2" in said


def test_wrong_key(refused, values):
    assert "relate.alhpa: unknown key; did you mean relate.alpha?" in refused(values(relate={"alhpa": 0}))


@pytest.mark.parametrize("overrides", [[], ["--relate.alpha", "0.1"]])
def test_alpha_above_zero(refused, values, overrides):
    said = refused(values(relate={} if overrides else {"alpha": 0.1}), *overrides)
    assert "relate" in said
    assert "alpha" in said
    assert "less than or equal to 0" in said


def test_fewer_than_two_clusters(refused, values):
    said = refused(values(cluster={"num_clusters": 1}))
    assert "cluster.num_clusters" in said
    assert "greater than or equal to 2" in said


# ---- classes
def test_class_both_seen_and_unseen(refused, values, tmp_path):
    twice = demo_classes()["train"][0]
    said = refused(values(data={"classes": classes_file(tmp_path, unseen=[*demo_classes()["unseen"], twice])}))
    assert "data.classes" in said
    assert f"{twice} in train and unseen" in said
    assert "-> keep each class in one list" in said


def test_class_without_images(refused, values, tmp_path):
    unseen = [*demo_classes()["unseen"], "amber_plain_cross_gras"]
    said = refused(values(data={"classes": classes_file(tmp_path, unseen=unseen)}))
    assert "amber_plain_cross_gras" in said
    assert "-> " in said


def test_classes_file_that_is_no_yaml(refused, values, tmp_path):
    (tmp_path / "broken.yaml").write_text("train: [a, b\nval: }")
    said = refused(values(data={"classes": str(tmp_path / "broken.yaml")}))
    assert "data.classes" in said
    assert "line 2" in said


def test_classes_file_missing(refused, values, tmp_path):
    assert "nothing.yaml does not exist" in refused(values(data={"classes": str(tmp_path / "nothing.yaml")}))


# ---- words
def test_words_missing_are_all_named(refused, values, tmp_path, demo_data):
    kept = [line for line in demo_data.words.read_text().splitlines() if line.split()[0] not in {"amber", "ring"}]
    (tmp_path / "words.txt").write_text("\n".join(kept) + "\n")
    said = refused(values(data={"word_vectors": str(tmp_path / "words.txt")}))
    concerned = [
        name for names in demo_classes().values() for name in names if {"amber", "ring"} & set(name.split("_"))
    ]
    assert "data.word_vectors" in said
    assert all(name in said for name in concerned)
    assert "data.aliases" in said


def test_word_vectors_file_missing(refused, values, tmp_path):
    assert "nothing.bin does not exist" in refused(values(data={"word_vectors": str(tmp_path / "nothing.bin")}))


# ---- images
def test_empty_class_folder(refused, values, images):
    (images / "teal_plain_ring_sand").mkdir()
    said = refused(values(data={"images": str(images)}))
    assert "hold no image: teal_plain_ring_sand" in said
    assert "-> add images or remove the folder(s)" in said


def test_empty_images_folder(refused, values, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused(values(data={"images": str(tmp_path / "empty")}))
    assert "data.images" in said
    assert "ROOT/CLASS/IMAGE" in said


def test_images_folder_missing(refused, values, tmp_path):
    assert "nowhere does not exist" in refused(values(data={"images": str(tmp_path / "nowhere")}))


def test_parquet_without_its_columns(refused, values, tmp_path):
    pq.write_table(pa.table({"label": ["a"], "png": [b"x"]}), tmp_path / "a.parquet")
    said = refused(values(data={"images": str(tmp_path / "a.parquet")}))
    assert "['label', 'png']" in said
    assert "`image` and `class_name`" in said


def test_a_file_that_is_no_parquet(refused, values, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not Parquet at all")
    assert "a.parquet is not readable Parquet" in refused(values(data={"images": str(tmp_path / "a.parquet")}))


# ---- storage
def test_missing_bucket(refused, values, aws):
    said = refused(values(data={"images": "s3://no-such-bucket/images"}, storage=QUICK))
    assert "s3://no-such-bucket/images" in said
    assert "-> check the" in said


def test_run_directory_in_a_missing_bucket(tmp_path, demo_values, aws, refused):
    said = refused(demo_values("s3://no-such-bucket/run", storage=QUICK))
    assert "no-such-bucket" in said
    assert "bucket" in said.split("no-such-bucket", 1)[1]
    assert "\n  -> " in said


@pytest.mark.parametrize("field", ["classes", "images", "word_vectors"])
def test_wrong_credentials(refused, values, aws, monkeypatch, field):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    uri = {"classes": "classes.yaml", "images": "images", "word_vectors": "words.txt"}[field]
    said = refused(values(data={field: f"s3://vgse-test/demo/{uri}"}, storage=QUICK))
    assert f"s3://vgse-test/demo/{uri}: access refused" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "not-the-secret" not in said


def test_wrong_credentials_for_the_run_directory(demo_values, aws, monkeypatch, refused):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    said = refused(demo_values("s3://vgse-test/refused-run", storage=QUICK))
    assert "access refused" in said
    assert "AWS_SECRET_ACCESS_KEY" in said


def test_no_credentials(refused, values, s3):
    said = refused(values(data={"classes": "s3://vgse-test/demo/classes.yaml"}, storage={"endpoint_url": s3.endpoint}))
    assert "no credentials found" in said
    assert "storage.anonymous" in said


def test_server_not_reachable(refused, values, aws):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = {**QUICK, "endpoint_url": f"http://127.0.0.1:{port}"}
    said = refused(values(data={"classes": "s3://vgse-test/demo/classes.yaml"}, storage=storage))
    assert "the server cannot be reached" in said
    assert "storage.endpoint_url" in said


# ---- the run directory
@pytest.fixture
def claimed(values, tmp_path):
    """A run directory that belongs to the demo's data and split."""
    write_plan(make_plan(parse_config(values(), "test.yaml")))
    return tmp_path / "run"


def test_run_directory_of_another_data_set(refused, values, claimed):
    said = refused(values(data={"images_per_class": 4}))
    assert f"{claimed} holds results of another data set\n" in said
    assert "-> give `run` another directory" in said


def test_run_directory_of_another_class_split(refused, values, claimed, tmp_path):
    swapped = classes_file(tmp_path, val=demo_classes()["unseen"], unseen=demo_classes()["val"])
    said = refused(values(data={"classes": swapped}))
    assert f"{claimed} holds results of another class split\n" in said


def test_other_settings_are_no_other_run(values, claimed, capsys):
    changed = parse_config(values(crop={"patches": 4}, relate={"alpha": -0.05}), "test.yaml")
    assert make_plan(changed).run == str(claimed)


# ---- weights
def weights_of_tiny(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in build_backbone("tiny").state_dict().items()}, path)
    return str(path)


@pytest.mark.parametrize("command", ["check", "run"])
def test_missing_weights_file(refused, values, tmp_path, command):
    encode = {"backbone": "resnet18", "weights": str(tmp_path / "nothing.safetensors")}
    said = refused(values(encode=encode, cluster={"mode": "frozen"}), command=command)
    assert "nothing.safetensors does not exist" in said
    assert "encode.weights" in said
    assert "\n  -> " in said


@pytest.mark.parametrize("command", ["check", "run"])
def test_weights_of_another_architecture(refused, values, tmp_path, command):
    encode = {"backbone": "resnet18", "weights": weights_of_tiny(tmp_path)}
    said = refused(values(encode=encode, cluster={"mode": "frozen"}), command=command)
    assert "tiny.safetensors does not fit encode.backbone resnet18" in said
    assert "-> set encode.backbone to the network the file was made for" in said


def test_weights_that_go_wrong_on_a_worker_say_the_same(ray_session, values, tmp_path, capsys):
    """As above, but raised where a worker starts: the checks before the work are passed by."""
    encode = {"backbone": "resnet18", "weights": weights_of_tiny(tmp_path)}
    plan = make_plan(parse_config(values(encode=encode, cluster={"mode": "frozen"}), "test.yaml"))
    todo = plan.manifest.assign(shard="part-00000.parquet", wanted=True)
    assert guarded(lambda: _encode(plan, todo, Progress("encode"))) == 2
    assert "does not fit encode.backbone resnet18" in capsys.readouterr().err


def test_images_that_go_out_of_reach_stop_the_stage_with_a_typed_error(ray_session, values, images, capsys):
    """Not the image's fault, so nothing is quarantined: what cannot be read now may be readable later."""
    plan = make_plan(parse_config(values(data={"images": str(images)}), "test.yaml"))
    blocked = Path(plan.manifest.uri[0])
    blocked.unlink()
    blocked.mkdir()
    assert guarded(lambda: run_stages(plan, ["crop"])) == 2
    said = capsys.readouterr().err
    assert str(blocked) in said
    assert "-> check access to data.images, then run again" in said
    assert plan.receipts.read("crop") is None


def test_unknown_backbone(refused, values):
    said = refused(values(encode={"backbone": "resnet5", "weights": "none"}, cluster={"mode": "finetune"}))
    assert "encode.backbone" in said
    assert "did you mean" in said
