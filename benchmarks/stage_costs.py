"""What one image, patch or class costs a stage on one core, measured in this process without Ray.

Processor seconds, so that other work on the machine does not count; of the server too where bytes come from one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from vgse.data.words import prepare_words
from vgse.patches import cap_short_side, decode, propose_boxes
from vgse.relation import PreparedRelation, RelationSettings
from vgse.storage import Storage
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.features import FeatureMap


@dataclass(frozen=True)
class ImageCosts:
    """Of one image: processor seconds of crop and of encode, and bytes as found, as stored, and of all its features."""

    crop_s: float
    encode_s: float
    source_bytes: float
    stored_bytes: float
    feature_bytes: float


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process and its threads for `work`."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compile_costs() -> float:
    """Processor seconds that a process takes for its first image, where no earlier one left its compiled code."""
    code = """
import os, tempfile, time
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
import numpy as np
from vgse.patches import propose_boxes
begun = time.process_time()
propose_boxes(np.zeros((32, 32, 3), np.uint8), method="watershed", patches=9, side=64, compactness=0.01)
print(time.process_time() - begun)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(found.stdout)


def image_costs(files: Sequence[Path], backbone: str, weights: Path | None, size: int, encoded: int) -> ImageCosts:
    """Decoding, boxes and cutting, and the frozen backbone on nine patches and the whole image, one thread.

    Args:
        files: images.
        backbone, weights, size: as in the section `encode`.
        encoded: how many of the files are encoded; the rest is only cropped.
    """
    import cv2
    import torch

    from vgse.clustering.backbones import build_backbone
    from vgse.pipeline.backbone import encode_pixels
    from vgse.pipeline.pixels import pixel_chunks
    from vgse.pipeline.session import keep_freed_memory

    keep_freed_memory()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    data = [file.read_bytes() for file in files]
    rows: list[dict[str, Any]] = []

    def crop(several: Sequence[bytes]) -> None:
        for each in several:
            stored, image_HW3 = cap_short_side(each, decode(each, max_pixels=2**28, short_side=256), 256)
            boxes = propose_boxes(image_HW3, method="watershed", patches=9, side=64, compactness=0.01)
            rows.append({"image": stored, "boxes": np.asarray(boxes, np.int32).ravel()})

    # The first image compiles the watershed.
    crop(data[:1])
    rows.clear()
    crop_s = cpu_seconds(lambda: crop(data)) / len(files)
    network = build_backbone(backbone, weights=weights, input_size=size).eval()
    shard, every = pa.Table.from_pylist(rows[:encoded]), [True] * encoded

    def encode() -> None:
        for chunk in pixel_chunks(shard, size=size, whole=every, patches=every, images=6, threads=1):
            encode_pixels(network, chunk.pixels, torch.device("cpu"))

    encode_s = cpu_seconds(encode) / encoded
    features = 2 * network.spec.feature_dim * (9 + 2)
    source, stored = (float(np.mean([len(each) for each in kind])) for kind in (data, [row["image"] for row in rows]))
    return ImageCosts(crop_s, encode_s, source, stored, features)


def read_costs(storage: Storage, uris: Sequence[str], server: int) -> tuple[float, float]:
    """Processor seconds per small object read from a store: of this process, and of the server's (by process id)."""
    storage.read_many(uris[:8])
    before = _used_by(server)
    mine = cpu_seconds(lambda: storage.read_many(uris))
    return mine / len(uris), (_used_by(server) - before) / len(uris)


def start_costs(code: str) -> float:
    """Processor seconds of a fresh Python that runs `code` and ends."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def _heads(dim: int, clusters: int) -> Any:
    from vgse.pipeline.networks import NetworkRecipe

    return NetworkRecipe("resnet50", "none", None, clusters, 1000, 300, 0, False).build(Storage())


def training_costs(dim: int, clusters: int, bank: int) -> float:
    """Processor seconds per patch of training the heads, neighbours searched among `bank` rows.

    Taken from fits with two small banks, full in their second epoch: the search grows with the bank, the rest does not.
    """
    import tempfile

    import torch

    from vgse.clustering.batches import InMemoryBatches
    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.training import FitSettings, fit

    torch.set_num_threads(1)
    rows, batch = 8192, 1024
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, dim), np.float32).astype(np.float16)
    labels, words_SW = rng.integers(0, 1000, rows), torch.from_numpy(rng.standard_normal((1000, 300), np.float32))
    each = {}
    for small in (1024, 4096):
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            fit(
                _heads(dim, clusters),
                InMemoryBatches(features, labels, batch, 0, 1, 0),
                words_SW,
                FitSettings(epochs=2, global_batch=batch, bank_size=small, checkpoint_every=9),
                checkpoints=Checkpoints(Storage(), folder, 0),
                on_epoch=lambda figures, ends=ends: ends.append(time.process_time()),
            )
        each[small] = (ends[1] - ends[0]) / rows
    slope = (each[4096] - each[1024]) / (4096 - 1024)
    return each[1024] + slope * (bank - 1024)


def embed_costs(dim: int, clusters: int, images: int = 128) -> float:
    """Processor seconds per image to assign its nine patches to clusters from cached features."""
    import torch

    torch.set_num_threads(1)
    network = _heads(dim, clusters).eval()
    cached = np.random.default_rng(0).standard_normal((images, 9, dim), np.float32).astype(np.float16)

    def assign() -> None:
        with torch.inference_mode():
            flat = torch.from_numpy(np.asarray(cached, np.float32).reshape(-1, dim))
            network.heads(flat).a_BK.double().reshape(images, 9, -1).mean(dim=1).numpy()

    assign()
    return cpu_seconds(assign) / images


def class_costs(words_CW: np.ndarray, seen: int, unseen: int) -> float:
    """Processor seconds to relate one unseen class, after the solver has been compiled."""
    prepared = prepare_words(words_CW[: seen + unseen], np.arange(seen + unseen) < seen, "centred")
    relation = PreparedRelation(prepared[:seen], RelationSettings(ridge=0.5))
    relation(prepared[seen : seen + 16])
    # As Ray gives a task of one CPU; two threads that wait for each other would count double.
    with threadpool_limits(1):
        return cpu_seconds(lambda: relation(prepared[seen:])) / unseen


def normal_equation_costs(dim: int, classes: int, rows: int = 8192) -> tuple[float, float]:
    """Processor seconds per image of ESZSL's statistics, and of merging two parts of them."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, dim), np.float32).astype(np.float16)
    labels = rng.integers(0, classes, rows)
    part, plain = EszslStatistics(dim, classes), FeatureMap(True)
    part.add(plain(features[:64]), labels[:64])
    row_s = cpu_seconds(lambda: part.add(plain(features), labels)) / rows
    total = EszslStatistics(dim, classes)
    table = pa.table({"gram": [part.gram_FF.tobytes()], "sums": [part.sums_SF.tobytes()]})

    def merge() -> None:
        # As the driver does it: arrays out of one row of a table, then the sum.
        other = EszslStatistics(dim, classes)
        row = table.to_pylist()[0]
        other.gram_FF = np.frombuffer(row["gram"]).reshape(part.gram_FF.shape)
        other.sums_SF = np.frombuffer(row["sums"]).reshape(part.sums_SF.shape)
        total.merge(other)

    return row_s, cpu_seconds(merge)


def _used_by(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
