"""Validation while training: the evaluation in small, the same on any number of ranks, from training images only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ddp_pool import run_ranks
from planted_zsl import FEATURES, TRAIN, VAL, Planted

from vgse.clustering.backbones import build_backbone
from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.clustering.network import ClusterNetwork
from vgse.pipeline.validation import Validation, ValidationTask, _first
from vgse.pipeline.validation_pixels import PixelImages, encoded_by_all
from vgse.storage import Storage
from vgse.zsl.protocol import evaluate_arm_as_published
from vgse.zsl.settings import ZslSettings

PATCHES, K, W = 3, 20, 6

pytestmark = pytest.mark.usefixtures("one_thread")


def _network(feature_dim: int = FEATURES, backbone=None) -> ClusterNetwork:
    network = ClusterNetwork(feature_dim, K, TRAIN, W, backbone, seed=3)
    with torch.no_grad():
        network.clusters.weight *= 20
    return network.eval()


def _task() -> ValidationTask:
    planted = Planted()
    episode = planted.episode(np.arange(TRAIN), np.arange(TRAIN, TRAIN + VAL))
    patches, labels = planted.images(np.arange(TRAIN), 7 * PATCHES)
    r_US = np.random.default_rng(0).dirichlet(np.full(TRAIN, 0.1), VAL)
    return ValidationTask(episode.class_names, r_US, patches, labels[::PATCHES], episode)


def _validated(rank: int, world_size: int) -> dict[str, float]:
    return Validation(_task(), Storage())(_network())


def test_frozen_figures_are_those_of_the_evaluation():
    task, network = _task(), _network()
    sums = ClassEmbeddingSums(TRAIN, K)
    a_BK = network.assign(torch.from_numpy(task.patches.astype(np.float32))).double().numpy()
    sums.add(a_BK.reshape(-1, PATCHES, K), task.labels_I)
    phi_SK, _ = sums.result()
    embeddings = np.concatenate([phi_SK, task.r_US @ phi_SK])
    expected = evaluate_arm_as_published(embeddings, task.episode, ZslSettings(models=("eszsl",)))["eszsl"].figures
    validate = Validation(task, Storage())
    assert validate(network) == pytest.approx({"val_T1": expected.T1, "val_H": expected.H})
    # The images' side is prepared once; another network is judged anew.
    with torch.no_grad():
        network.clusters.weight.mul_(-1)
    assert validate(network) != pytest.approx({"val_T1": expected.T1, "val_H": expected.H})


def test_all_ranks_share_the_work_and_agree():
    found = run_ranks(_validated, 2)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(_validated(0, 1), abs=1e-9)


def test_embeddings_that_tell_nothing_apart_give_no_figures():
    network = _network()
    with torch.no_grad():
        network.clusters.weight.zero_()
    assert Validation(_task(), Storage())(network) == {}


def test_the_first_images_of_a_class_by_rank_are_used():
    frame = pd.DataFrame({"class_name": ["a", "a", "b", "a", "b", "a"], "rank": [3, 0, 5, 1, 4, 2]})
    chosen = np.array([True, False, True, True, True, True])
    assert _first(frame, chosen, 2).tolist() == [False, False, True, True, True, True]
    assert _first(frame, chosen, 1).tolist() == [False, False, False, True, True, False]


# ---- finetune
def _write_shards(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(2):
        images = [cv2.imencode(".png", rng.integers(0, 255, (40, 40, 3), np.uint8))[1].tobytes() for _ in range(12)]
        boxes = [[0, 0, 20, 20, 10, 10, 40, 40]] * 12
        pq.write_table(pa.table({"image": images, "boxes": boxes}), folder / f"part-{number}.parquet")


def _images(folder: str) -> PixelImages:
    """Of two shards of twelve images each, of two seen classes and a val class; row 5 of each is used by nobody."""
    row_N = np.tile(np.delete(np.arange(12), 5), 2)
    labels_N = row_N % 3
    part_N = np.where(labels_N == 2, 2, row_N // 3 % 2)
    shards = ("part-0.parquet", "part-1.parquet")
    return PixelImages(folder, shards, np.repeat([0, 1], 11), row_N, labels_N, part_N, 2, 40)


def _encoded(rank: int, world_size: int, folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = _images(folder)
    torch.manual_seed(0)
    backbone = build_backbone("tiny", input_size=32)
    features, sums = encoded_by_all(images, _network(backbone.spec.feature_dim, backbone), Storage(), 1)
    return features, sums.sums_SK, sums.counts_S


def test_pixels_are_encoded_once_each_whatever_the_number_of_ranks(tmp_path: Path):
    _write_shards(tmp_path)
    alone, sums, counts = _encoded(0, 1, str(tmp_path))
    images = _images(str(tmp_path))
    assert len(alone) == len(images.labels_N) == 22
    assert counts.tolist() == np.bincount(images.labels_N[images.part_N == 0], minlength=2).tolist()
    np.testing.assert_allclose(sums.sum(axis=1), counts, rtol=1e-6)
    parts = run_ranks(_encoded, 2, str(tmp_path))
    for features, _, _ in parts:
        np.testing.assert_allclose(features.astype(np.float32), alone.astype(np.float32), atol=2e-2)
    np.testing.assert_allclose(sum(part[1] for part in parts), sums, atol=2e-2)
    assert sum(part[2] for part in parts).tolist() == counts.tolist()
