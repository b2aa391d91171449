"""The whole way on real Ray: local files to evaluation.json, the same command again, and from S3 to S3."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.io import loadmat

from benchmarks.s3_server import KEY, SECRET
from vgse.cli import main, run
from vgse.config_loading import parse_config
from vgse.data.demo_images import demo_classes
from vgse.receipts import STAGES
from vgse.storage import Storage
from vgse.zsl.controls import ARMS

SEEN = [*demo_classes()["train"], *demo_classes()["val"]]
UNSEEN = demo_classes()["unseen"]
CORRUPT = "images/lime_plain_star_sand/0003.jpg"


@dataclass(frozen=True)
class Finished:
    """A finished run, its configuration file and what it printed."""

    folder: Path
    config: Path
    printed: str

    def receipts(self, folder=None):
        return {stage: ((folder or self.folder) / "receipts" / f"{stage}.json").read_text() for stage in STAGES}


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory, demo_data, demo_values):
    """All stages in this process, one of the images being truncated; credentials stand in the configuration."""
    folder = tmp_path_factory.mktemp("whole-way")
    shutil.copytree(demo_data.images, folder / "images")
    spoilt = folder / CORRUPT
    spoilt.write_bytes(spoilt.read_bytes()[: spoilt.stat().st_size // 2])
    values = demo_values(
        folder / "run", data={"images": str(folder / "images")}, storage={"key": "key-of-mine", "secret": "my-secret"}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    printed = io.StringIO()
    with redirect_stdout(printed):
        run(parse_config(values, "test.yaml"), STAGES)
    return Finished(folder / "run", folder / "config.yaml", printed.getvalue())


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def status(target, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["status", str(target)])
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


# ---- what a run leaves
def test_evaluation_keeps_its_contract(finished):
    evaluation = json.loads((finished.folder / "evaluation.json").read_text())
    assert set(evaluation["arms"]) == set(ARMS) - {"texts"}
    for arm, models in evaluation["arms"].items():
        assert set(models) == {"eszsl", "sje", "prototype"}, arm
        for figures in models.values():
            assert set(figures) == {"T1", "u", "s", "H"}
            assert all(0 <= value <= 1 for value in figures.values())
            u, s = figures["u"], figures["s"]
            assert figures["H"] == pytest.approx(2 * u * s / (u + s) if u + s else 0)
    assert evaluation["protocol"]["class_splits"] == 1
    assert evaluation["protocol"]["mode"] == "honest"
    assert set(evaluation["similarity"]) == set(evaluation["arms"]) == set(evaluation["hubness"])
    accuracies = evaluation["per_class"]["vgse"]["prototype"]["T1"][0]
    assert list(accuracies) == UNSEEN
    assert np.mean(list(accuracies.values())) == pytest.approx(evaluation["arms"]["vgse"]["prototype"]["T1"], abs=1e-4)
    compared = {(c["against"], c["model"], c["figure"]) for c in evaluation["comparisons"]}
    assert {("one_hot", "eszsl", "T1"), ("oracle", "prototype", "H")} <= compared


def test_the_table_is_printed_with_all_arms(finished):
    for arm in set(ARMS) - {"texts"}:
        assert arm in finished.printed
    assert "VGSE in PROTOTYPE over" in finished.printed
    for stage in STAGES:
        assert f"\n{stage} " in finished.printed
    assert "evaluation.json" in finished.printed


def test_the_corrupt_image_and_nothing_else_is_quarantined(finished):
    rows = pq.read_table(finished.folder / "quarantine.parquet").to_pylist()
    assert [(row["image_id"], row["class_name"], row["reason"]) for row in rows] == [
        (CORRUPT, "lime_plain_star_sand", "truncated")
    ]
    assert rows[0]["uri"].endswith(CORRUPT)
    receipt = json.loads(finished.receipts()["crop"])
    assert (receipt["rows_in"], receipt["rows_out"], receipt["quarantined"]) == (192, 191, 1)
    assert receipt["details"]["reasons"] == {"truncated": 1}


def test_patch_shards_hold_every_other_image_once_with_nine_boxes(finished):
    shards = [pq.read_table(path) for path in sorted((finished.folder / "patches").glob("*.parquet"))]
    table = pa.concat_tables(shards)
    ids = table["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 191
    assert CORRUPT not in ids
    assert {len(boxes) for boxes in table["boxes"].to_pylist()} == {9 * 4}
    assert ids != sorted(ids), "rows are shuffled before writing"


def test_class_embeddings_load_without_pickle(finished):
    with np.load(finished.folder / "class_embeddings.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"class_names", "class_embeddings", "is_seen", "provenance"}
        names, embeddings, seen = arrays["class_names"], arrays["class_embeddings"], arrays["is_seen"]
        provenance = json.loads(str(arrays["provenance"]))
    assert (names.shape, embeddings.shape, seen.shape) == ((24,), (24, 20), (24,))
    assert (embeddings.dtype, seen.dtype) == (np.float32, np.bool_)
    assert names[seen].tolist() == SEEN
    assert names[~seen].tolist() == UNSEEN
    assert provenance["config"]["cluster"]["num_clusters"] == 20
    assert {"data", "split", "version"} <= set(provenance)
    # Mean assignments: probabilities for seen classes, and for unseen ones as r sums to 1 and alpha is 0.
    np.testing.assert_allclose(embeddings.sum(axis=1), 1, atol=1e-5)
    assert (embeddings >= 0).all()
    assert np.ptp(embeddings[seen], axis=0).max() > 1e-3, "classes differ"


def test_no_credentials_are_written(finished):
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert b"my-secret" not in content, path
        assert b"key-of-mine" not in content, path
    assert "my-secret" not in finished.printed


def test_relations_are_convex_and_proven(finished):
    table = pq.read_table(finished.folder / "relations.parquet")
    assert set(table.column_names) == {"class_name", "r", "objective", "gap", "method", "alpha"}
    assert table["class_name"].to_pylist() == UNSEEN
    r_US = np.stack(table["r"].to_numpy())
    assert r_US.shape == (len(UNSEEN), len(SEEN))
    np.testing.assert_allclose(r_US.sum(axis=1), 1, atol=1e-9)
    assert r_US.min() >= -1e-9
    assert r_US.max() <= 1 + 1e-9
    assert max(table["gap"].to_pylist()) <= 1e-6
    assert set(table["alpha"].to_pylist()) == {0.0}
    with np.load(finished.folder / "class_embeddings.npz") as arrays:
        phi = arrays["class_embeddings"]
    np.testing.assert_allclose(phi[len(SEEN) :], r_US @ phi[: len(SEEN)], atol=1e-5)


def test_a_program_for_the_published_files_reads_them(finished):
    """As the programs of the zero-shot benchmarks do it: transpose, squeeze, subtract 1."""
    features_mat, split_mat = (loadmat(finished.folder / f"{n}.mat") for n in ("features", "class_embeddings_splits"))
    features_NF = features_mat["features"].T
    label_N = features_mat["labels"].astype(int).squeeze() - 1
    files = [str(cell[0]) for cell in features_mat["image_files"].squeeze()]
    att_CK = split_mat["att"].T
    names = [str(cell[0]) for cell in split_mat["allclasses_names"].squeeze()]
    loc = {
        part: split_mat[f"{part}_loc"].squeeze() - 1
        for part in ("trainval", "train", "val", "test_seen", "test_unseen")
    }
    assert len(features_NF) == len(label_N) == len(files) == 191
    assert np.isfinite(features_NF).all()
    assert att_CK.shape == (24, 20)
    assert all(name in file.split("/") for name, file in zip(np.array(names)[label_N], files, strict=True))

    def classes(part):
        return {names[label] for label in label_N[loc[part]]}

    assert classes("trainval") == classes("test_seen") == set(SEEN)
    assert classes("train") == set(demo_classes()["train"])
    assert classes("val") == set(demo_classes()["val"])
    assert classes("test_unseen") == set(UNSEEN)
    assert sorted([*loc["train"], *loc["val"]]) == sorted(loc["trainval"])
    every = np.concatenate([loc["trainval"], loc["test_seen"], loc["test_unseen"]])
    assert sorted(every) == list(range(191))


def test_metrics_and_events_are_left_to_read(finished):
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["fit"], line["epoch"]) for line in lines] == [("split-0-choice", 1), ("split-0-final", 1)]
    assert all(np.isfinite(line["loss"]) and line["used_clusters"] >= 1 for line in lines)
    for fit in ("split-0-choice", "split-0-final"):
        assert list((finished.folder / "clustering" / fit / "tensorboard").glob("events.*"))


def test_receipts_say_how_many_tasks_each_node_did(finished):
    tasks = {stage: json.loads(text)["details"]["nodes"] for stage, text in finished.receipts().items()}
    shards = len(list((finished.folder / "patches").glob("*.parquet")))
    counted = {stage: list(nodes.values()) for stage, nodes in tasks.items()}
    assert {stage: counted[stage] for stage in ("crop", "embed", "cluster")} == {
        "crop": [shards], "embed": [shards], "cluster": [2]
    }  # fmt: skip
    assert len(tasks["evaluate"]) == 1
    assert counted["encode"] == counted["relate"] == [], "finetune encodes nothing, and few classes need no tasks"
    assert tasks["crop"].keys() == tasks["cluster"].keys() == tasks["evaluate"].keys()


# ---- status
def test_status_adds_up(finished, capsys):
    for target in (finished.folder, finished.config):
        code, said = status(target, capsys)
        assert code == 0
        assert "192 images = 191 committed + 1 quarantined: every image once" in said
        assert "not done" not in said
        assert "would run again" not in said


def test_status_is_about_the_directory_it_is_given(finished, copy, capsys):
    (copy / "receipts" / "evaluate.json").unlink()
    code, said = status(copy, capsys)
    assert code == 0
    assert f"run directory: {copy}" in said
    assert "evaluate  not done" in said


def test_status_notices_a_row_that_is_gone_and_its_remedy_works(copy, finished, capsys):
    shard = sorted((copy / "patches").glob("*.parquet"))[2]
    pq.write_table(pq.read_table(shard).slice(1), shard)
    code, said = status(copy, capsys)
    assert code == 1
    assert "191 images = " not in said
    assert "190 committed + 1 quarantined does not add up: 1 missing" in said
    assert "remove the run's receipts/crop.json and run again" in said
    (copy / "receipts" / "crop.json").unlink()
    main_returns(["crop", str(finished.config), "--run", str(copy)], 0)
    assert status(copy, capsys)[0] == 0


def main_returns(arguments, code):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_status_notices_a_row_twice_and_a_row_from_elsewhere(copy, capsys):
    first, second = sorted((copy / "patches").glob("*.parquet"))[:2]
    twice, elsewhere = pq.read_table(first).slice(0, 1), pq.read_table(first).slice(1, 1)
    elsewhere = elsewhere.set_column(0, "image_id", pa.array(["images/elsewhere.jpg"]))
    pq.write_table(pa.concat_tables([pq.read_table(second), twice, elsewhere]), second)
    code, said = status(copy, capsys)
    assert code == 1
    assert "does not add up: 0 missing, 1 twice, 1 not in the manifest" in said


# ---- the same again, and with a setting changed
def test_the_same_command_again_does_nothing(finished, capsys):
    before, evaluation = finished.receipts(), (finished.folder / "evaluation.json").stat()
    main_returns(["run", str(finished.config)], 0)
    said = capsys.readouterr().out
    assert said.count("[done before, nothing to do]") == len(STAGES)
    assert finished.receipts() == before
    assert (finished.folder / "evaluation.json").stat() == evaluation


def test_another_alpha_repeats_relate_and_evaluate_only(finished, copy, capsys):
    # The receipts of a run carry seconds, so a stage that ran again within one cannot be told by its time alone.
    for stage in STAGES:
        path = copy / "receipts" / f"{stage}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "finished_at": "before"}))
    main_returns(["run", str(finished.config), "--run", str(copy), "--relate.alpha", "-0.05"], 0)
    assert capsys.readouterr().out.count("[done before, nothing to do]") == 4
    again = [stage for stage, text in finished.receipts(copy).items() if json.loads(text)["finished_at"] != "before"]
    assert again == ["relate", "evaluate"]
    relations = pq.read_table(copy / "relations.parquet")
    assert set(relations["alpha"].to_pylist()) == {-0.05}
    assert min(map(min, relations["r"].to_pylist())) < 0
    assert json.loads((copy / "evaluation.json").read_text())["protocol"]["relation"]["alpha"] == -0.05


# ---- from S3 to S3
RUN_S3 = "s3://vgse-test/runs/cifar"


@pytest.fixture(scope="module")
def finished_s3(ray_session, shared, s3):
    """Real images and real weights in a bucket, the run in the same bucket, credentials from the environment only."""
    root = "s3://vgse-test/cifar"
    values = {
        "run": RUN_S3,
        "data": {
            "images": f"{root}/images", "classes": f"{root}/split.yaml", "word_vectors": f"{root}/words.bin"
        },
        "encode": {
            "backbone": "timm/tf_efficientnet_lite0", "weights": f"{root}/weights.safetensors", "input_size": 32
        },
        "cluster": {"mode": "frozen", "num_clusters": 20, "epochs": 2, "batch_size": 128},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        run(parse_config(values, "test.yaml"), STAGES)
        yield Storage(), printed.getvalue()


def test_s3_run_ends_in_the_bucket(finished_s3, s3):
    storage, _ = finished_s3
    evaluation = json.loads(storage.read_bytes(f"{RUN_S3}/evaluation.json"))
    assert set(evaluation["arms"]) == set(ARMS) - {"texts"}
    assert all(0 <= arm["eszsl"]["T1"] <= 1 for arm in evaluation["arms"].values())
    crop = json.loads(storage.read_bytes(f"{RUN_S3}/receipts/crop.json"))
    assert (crop["rows_in"], crop["rows_out"], crop["quarantined"]) == (120, 120, 0)
    with np.load(io.BytesIO(storage.read_bytes(f"{RUN_S3}/class_embeddings.npz")), allow_pickle=False) as arrays:
        assert arrays["class_embeddings"].shape == (12, 20)
    assert storage.exists(f"{RUN_S3}/features.mat")


def test_s3_run_writes_and_prints_no_credentials(finished_s3):
    storage, printed = finished_s3
    files = list(storage.find(RUN_S3))
    assert len(files) > 20
    for file in files:
        content = storage.read_bytes(file.uri)
        if file.uri.endswith(".parquet"):
            content += repr(pq.read_table(io.BytesIO(content)).to_pydict()).encode()
        assert SECRET.encode() not in content, file.uri
        assert KEY.encode() not in content, file.uri
    assert SECRET not in printed
    assert KEY not in printed


def test_s3_run_can_be_asked_for_its_status(finished_s3, s3, monkeypatch, capsys):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    code, said = status(RUN_S3, capsys)
    assert code == 0
    assert "120 images = 120 committed + 0 quarantined: every image once" in said
