"""No unseen image and no test label reaches a choice: with all of them scrambled only the reported figures change."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vgse.config_loading import parse_config
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.plan import make_plan
from vgse.pipeline.stage import run_stages
from vgse.receipts import STAGES


@pytest.fixture
def values(shared, aws, tmp_path):
    """Twelve classes of real CIFAR-100 images, a real backbone, frozen, two folds."""
    bucket = "s3://vgse-test/cifar"
    return {
        "run": str(tmp_path / "first"),
        "data": {
            "images": f"{bucket}/images",
            "classes": f"{bucket}/split.yaml",
            "word_vectors": f"{bucket}/words.bin",
        },
        "knowledge": {"texts": str(shared / "data/cifar100/class_texts.jsonl")},
        "encode": {
            "backbone": "timm/tf_efficientnet_lite0",
            "weights": f"{bucket}/weights.safetensors",
            "input_size": 32,
        },
        "cluster": {"num_clusters": 20, "epochs": 2, "batch_size": 128, "bank_size": 256},
        "evaluate": {"folds": 2},
    }


def scramble(plan):
    """Noise in the place of every unseen class's and every test image's features."""
    frame, unseen = committed_images(plan), plan.splits[0].unseen
    rng = np.random.default_rng(0)
    touched = 0
    for shard, rows in frame.groupby("shard", sort=False):
        hidden = (rows.class_name.isin(unseen) | (rows.role == "test")).to_numpy()
        name = shard.replace(".parquet", ".safetensors")
        path = plan.run + "/features/images/" + name
        arrays = load_file(path)
        for array in arrays.values():
            array[hidden] = rng.standard_normal((int(hidden.sum()), array.shape[1])).astype(np.float16)
        save_file(arrays, path)
        path = plan.run + "/features/patches/" + name
        arrays = load_file(path)
        here = hidden[arrays["patch_rows"]]
        arrays["patches"][here] = rng.standard_normal(arrays["patches"][here].shape).astype(np.float16)
        save_file(arrays, path)
        touched += int(hidden.sum())
    assert touched > len(frame) // 4


@pytest.mark.usefixtures("ray_session")
def test_scrambled_unseen_and_test_images_change_nothing_but_the_figures(values, tmp_path):
    run_stages(make_plan(parse_config(values, "test.yaml")), STAGES, quiet=True)
    copy = tmp_path / "second"
    shutil.copytree(tmp_path / "first", copy)
    for stage in STAGES[2:]:
        (copy / f"receipts/{stage}.json").unlink()
    plan = make_plan(parse_config({**values, "run": str(copy)}, "test.yaml"))
    scramble(plan)
    run_stages(plan, STAGES, quiet=True)

    first, second = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("first", "second"))
    honest = [arm for arm in first["arms"] if arm != "oracle"]
    for arm in honest:
        assert second["protocol"]["chosen"][arm] == first["protocol"]["chosen"][arm], arm
    embeddings = []
    for name in ("first", "second"):
        with np.load(tmp_path / name / "class_embeddings.npz") as arrays:
            embeddings.append(arrays["class_embeddings"])
    np.testing.assert_array_equal(*embeddings)
    # The scrambling was no empty gesture: what is reported did change.
    assert [first["arms"][arm]["eszsl"] for arm in honest] != [second["arms"][arm]["eszsl"] for arm in honest]
