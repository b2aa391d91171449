"""A run directory of ImageNet's size as crop, encode, cluster and embed would leave it, from made features.

The classes are known by real word vectors (one word of a vocabulary each). An image's feature is its class's direction,
half of which follows from the word, plus noise; so the later stages have something to find, and chance is far below.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vgse.config_loading import load_config
from vgse.data.units import cut_units
from vgse.data.words import load_vocabulary, name_tokens, prepare_words, spelling
from vgse.pipeline.accounts import shard_name
from vgse.pipeline.crop_shard import PATCH_SCHEMA
from vgse.pipeline.features import feature_name, pack
from vgse.pipeline.plan import Plan, make_plan, write_plan
from vgse.receipts import Receipt
from vgse.storage import Storage

FEATURES, CLUSTERS = 2048, 150
_ROWS_PER_FILE, _ROWS_PER_GROUP = 10_000, 1_000
# Size of a class's direction in one coordinate; noise has 1.
_SIGNAL = 0.12


@dataclass(frozen=True)
class Size:
    """How much of everything: training images are those of the seen classes."""

    images: int
    seen: int
    unseen: int
    test_per_class: int = 50
    per_unseen: int = 3


FULL = Size(1_281_167, 1000, 20_842)
QUICK = Size(64_000, 200, 4_200)


def write_inputs(folder: Path, size: Size, vocabulary_file: Path) -> Path:
    """Writes images (Parquet rows without pixels), classes, words and weights; returns the configuration file."""
    import torchvision
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    names = [f"n{number:08d}" for number in range(size.seen + size.unseen)]
    seen, unseen = names[: size.seen], names[size.seen :]
    val = max(2, size.seen // 10)
    split = {"train": seen[:-val], "val": seen[-val:], "unseen": unseen}
    (folder / "classes.yaml").write_text(yaml.safe_dump(split))
    words = _usable_words(vocabulary_file)
    drawn = np.random.default_rng(0).permutation(len(words))[: len(names)]
    aliases = dict(zip(names, (words[i] for i in drawn), strict=True))
    (folder / "aliases.yaml").write_text(yaml.safe_dump(aliases))
    counts = np.full(size.seen, size.images // size.seen) + (np.arange(size.seen) < size.images % size.seen)
    _write_listing(folder / "train", [*seen, *unseen], [*counts, *[size.per_unseen] * size.unseen])
    _write_listing(folder / "val", seen, [size.test_per_class] * size.seen)
    save_file(torchvision.models.resnet50().state_dict(), folder / "resnet50.safetensors")
    return _write_config(folder, vocabulary_file, size)


def prepare_run(config_file: Path) -> dict[str, int]:
    """Makes the run directory up to and with embed; returns counts of images, shards and feature bytes."""
    config = load_config(str(config_file))
    plan = make_plan(config)
    write_plan(plan)
    direction_CF = _directions(plan)
    row_of = {name: row for row, name in enumerate(plan.class_names)}
    units = [plan.manifest.iloc[rows] for rows in cut_units(plan.manifest, config.crop.rows_per_shard)]
    make = partial(_write_unit, storage=plan.storage, patches=plan.uri("patches"), images=plan.uri("features/images"))
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_hold, initargs=(direction_CF,)) as pool:
        labels = (unit.class_name.map(row_of).to_numpy() for unit in units)
        written = sum(pool.map(make, range(len(units)), units, labels))
    _write_embeddings(plan, direction_CF)
    rows = len(plan.manifest)
    for stage in ("crop", "encode", "cluster", "embed"):
        plan.receipts.finish(Receipt(stage, plan.fingerprints[stage], rows, rows, 0, 0.0, {"note": "made, not run"}))
    return {"images": rows, "shards": len(units), "feature_bytes": written}


def _usable_words(vocabulary_file: Path) -> list[str]:
    vocabulary = load_vocabulary(vocabulary_file)
    words = list(vocabulary.index_to_key)  # type: ignore[attr-defined]
    return [w for w in words if (t := name_tokens(w)) and all(spelling(token, vocabulary) for token in t)]


def _write_listing(folder: Path, names: Sequence[str], counts: Sequence[int]) -> None:
    folder.mkdir()
    class_of = np.repeat(np.array(names), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    order = np.random.default_rng(1).permutation(len(class_of))
    for start in range(0, len(order), _ROWS_PER_FILE):
        rows = order[start : start + _ROWS_PER_FILE]
        ids = [f"{class_of[row]}/{class_of[row]}_{number[row]}.JPEG" for row in rows]
        table = pa.table({"image_id": ids, "class_name": class_of[rows], "image": pa.array([b""] * len(rows))})
        pq.write_table(table, folder / f"part-{start // _ROWS_PER_FILE:05d}.parquet", row_group_size=_ROWS_PER_GROUP)


def _write_config(folder: Path, vocabulary_file: Path, size: Size) -> Path:
    values = {
        "run": str(folder / "run"),
        "data": {
            "images": str(folder / "train"),
            "test_images": str(folder / "val"),
            "classes": str(folder / "classes.yaml"),
            "aliases_file": str(folder / "aliases.yaml"),
            "word_vectors": str(vocabulary_file),
        },
        "crop": {"rows_per_shard": 3600},
        "encode": {
            "backbone": "resnet50",
            "weights": str(folder / "resnet50.safetensors"),
            "oracle_images": size.per_unseen,
        },
        "cluster": {"num_clusters": CLUSTERS},
        "evaluate": {"models": ["eszsl"], "features": "whole", "choice_images": 50},
    }
    path = folder / "imagenet.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def _directions(plan: Plan) -> np.ndarray:
    """Each class's direction in the space of features (C, F) float32, half of its variance from the class's word."""
    words_CW = prepare_words(plan.words_CW, np.ones(len(plan.class_names), bool), "centred")
    rng = np.random.default_rng(2)
    from_words_CF = words_CW @ rng.standard_normal((words_CW.shape[1], FEATURES))
    own_CF = rng.standard_normal(from_words_CF.shape, np.float32)
    return (_SIGNAL * np.sqrt(0.5) * (from_words_CF + own_CF)).astype(np.float32)


_held: dict[str, np.ndarray] = {}


def _hold(direction_CF: np.ndarray) -> None:
    _held["direction"] = direction_CF


def _write_unit(
    number: int, unit: pd.DataFrame, label_B: np.ndarray, *, storage: Storage, patches: str, images: str
) -> int:
    rows = len(unit)
    columns = {name: unit[name].tolist() for name in ("image_id", "class_name", "role", "rank")}
    columns |= {"image": [b""] * rows, "boxes": [[0] * 36] * rows, "sha256": [""] * rows}
    storage.write_table(
        f"{patches}/{shard_name(number)}",
        pa.table(columns, PATCH_SCHEMA),
        compression="none",
        row_group_size=64,
    )
    whole_BF = np.random.default_rng([3, number]).standard_normal((rows, FEATURES), np.float32)
    whole_BF += _held["direction"][label_B]
    data = pack({"whole": whole_BF.astype(np.float16)})
    storage.write_bytes(f"{images}/{feature_name(shard_name(number))}", data)
    return len(data)


def _write_embeddings(plan: Plan, direction_CF: np.ndarray) -> None:
    """What embed writes: cluster probabilities, here of the classes' directions under a random clustering layer."""
    layer_FK = np.random.default_rng(4).standard_normal((FEATURES, CLUSTERS), np.float32)
    logits_CK = direction_CF @ layer_FK
    logits_CK *= 0.5 / logits_CK.std()
    phi_CK = np.exp(logits_CK - logits_CK.max(axis=1, keepdims=True)).astype(np.float64)
    phi_CK /= phi_CK.sum(axis=1, keepdims=True)
    row_of = {name: row for row, name in enumerate(plan.class_names)}
    for problem in plan.problems():
        rows, seen = [row_of[name] for name in problem.classes], len(problem.seen)
        sink = io.BytesIO()
        np.savez(
            sink,
            class_names=np.array(problem.classes),
            phi_SK=phi_CK[rows[:seen]],
            oracle_UK=phi_CK[rows[seen:]],
            images=np.ones(len(rows), np.int64),
        )
        plan.storage.write_bytes(plan.uri("embeddings", f"{problem.name}.npz"), sink.getvalue())
