"""crop: the manifest's images become patch shards, one row per image, and a table of what could not be used.

A unit of the manifest is one Ray Data block and becomes one shard, written whole. So a task that dies is simply run
again, a killed stage goes on with the missing shards, and pixels never travel: a shard holds the encoded image (36 KB
at short side 256) and its T boxes, from which the consumer cuts.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vgse.config import CropConfig
from vgse.data.manifest import work_units
from vgse.data.readers import read_images
from vgse.errors import DataError, RunDirectoryError, StorageError
from vgse.patches import ImageError, cap_short_side, decode, propose_boxes
from vgse.pipeline.plan import Plan
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.storage import Storage, join

# Shards whose lists of images are read at once.
_CONCURRENT_SHARDS = 16
# Images per row group of a shard (2.3 MB at short side 256): fine-tuning reads a few images at a time, while those who
# list a shard's images make a request per group.
_ROWS_PER_GROUP = 64

PATCH_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("class_name", pa.string()),
        ("role", pa.string()),
        ("rank", pa.int64()),
        ("image", pa.binary()),
        ("boxes", pa.list_(pa.int32())),
        ("sha256", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "class_name", "uri", "reason", "detail")])


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("patches"), plan.uri("quarantine"), plan.uri("quarantine.parquet")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Crops every image of the manifest."""
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.board import Board

    units = list(work_units(plan.manifest, plan.config.crop.rows_per_shard))
    present = set(plan.storage.list_names(plan.uri("patches")))
    missing = [i for i in range(len(units)) if shard_name(i) not in present]
    progress.start(len(plan.manifest), "images", done=sum(len(units[i]) for i in set(range(len(units))) - set(missing)))
    if missing:
        blocks = [_block(units[i], i) for i in missing]
        board = Board()
        work = partial(_crop_unit, storage=plan.storage, run=plan.run, crop=plan.config.crop, board=board)
        (ask,) = session.asks("crop", plan.config)
        dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", **ask.remote())
        for row in board.rows(dataset):
            progress.advance(row["rows"])
    return _account(plan)


def shard_name(number: int) -> str:
    """The file name of a patch or feature shard."""
    return f"part-{number:05d}.parquet"


def _block(unit: pd.DataFrame, number: int) -> pa.Table:
    return pa.Table.from_pandas(unit.assign(unit=number), preserve_index=False)


def _crop_unit(block: pa.Table, *, storage: Storage, run: str, crop: CropConfig, board: Any) -> pa.Table:
    """One block of the manifest to shards (one, unless Ray Data joined blocks)."""
    with board.reporting():
        return _write_shards(block, storage, run, crop)


def _write_shards(block: pa.Table, storage: Storage, run: str, crop: CropConfig) -> pa.Table:
    import cv2

    cv2.setNumThreads(1)
    rows = block.to_pandas()
    sizes = []
    for number, unit in rows.groupby("unit"):
        kept: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        for row, data in read_images(storage, unit):
            result = _crop_image(row, data, crop)
            (refused if "reason" in result else kept).append(result)
        # The quarantine goes first: a shard's presence says that the unit is complete.
        name = shard_name(int(str(number)))
        if refused:
            storage.write_table(join(run, "quarantine", name), pa.Table.from_pylist(refused, QUARANTINE_SCHEMA))
        shard = pa.Table.from_pylist(kept, PATCH_SCHEMA)
        uri = join(run, "patches", name)
        storage.write_table(uri, shard, compression="none", row_group_size=_ROWS_PER_GROUP)
        sizes.append(len(unit))
    return pa.table({"rows": sizes})


def _crop_image(row: Any, data: bytes | Exception, crop: CropConfig) -> dict[str, Any]:
    """A row of the patch shard, or of the quarantine where the image cannot be used."""
    try:
        encoded = bytes_read(row, data)
        decoded = decode(encoded, max_pixels=crop.max_pixels, short_side=crop.short_side)
        stored, image_HW3 = cap_short_side(encoded, decoded, crop.short_side)
        boxes_T4 = propose_boxes(
            image_HW3, method=crop.method, patches=crop.patches, side=crop.segment_side, compactness=crop.compactness
        )
    except ImageError as error:
        named = {name: getattr(row, name) for name in ("image_id", "class_name", "uri")}
        return {**named, "reason": error.reason, "detail": error.detail}
    boxes = np.ascontiguousarray(boxes_T4, np.int32)
    return {
        "image_id": row.image_id,
        "class_name": row.class_name,
        "role": row.role,
        "rank": row.rank,
        "image": stored,
        "boxes": boxes.ravel(),
        "sha256": hashlib.sha256(stored + boxes.tobytes()).hexdigest(),
    }


def bytes_read(row: Any, data: bytes | Exception) -> bytes:
    """What `read_images` gave for a row, where that is bytes.

    Raises:
        ImageError: `missing`.
        StorageError: the file is there, but cannot be read.
    """
    if isinstance(data, FileNotFoundError):
        raise ImageError("missing", "the file has gone since it was listed")
    if isinstance(data, Exception):
        raise StorageError(f"{row.uri}: {type(data).__name__}: {data}", "check access to data.images, then run again")
    return data


def _account(plan: Plan) -> StageOutcome:
    """Joins the quarantine and proves that every image of the manifest is committed or quarantined, each once."""
    storage = plan.storage
    parts = [plan.uri("quarantine", name) for name in storage.list_names(plan.uri("quarantine"))]
    tables = [storage.read_table(uri) for uri in parts] or [QUARANTINE_SCHEMA.empty_table()]
    quarantine = pa.concat_tables(tables).sort_by("image_id")
    storage.write_table(plan.uri("quarantine.parquet"), quarantine)
    committed = committed_images(plan)
    ids = np.sort(np.concatenate([committed.image_id.to_numpy(object), quarantine["image_id"].to_numpy()]))
    if not np.array_equal(ids, np.sort(plan.manifest.image_id.to_numpy(object))):
        raise RunDirectoryError(
            f"{plan.uri('patches')} does not hold what was written there: its images do not account for the manifest",
            f"remove {plan.uri('receipts')} and run again",
        )
    usable = set(committed.class_name.unique())
    trained = set(committed[committed.role == "train"].class_name.unique())
    bare = sorted((plan.seen_somewhere - trained) | (set(plan.class_names) - usable))
    if bare:
        raise DataError(
            f"data.images: every image of {len(bare)} class(es) was quarantined: {', '.join(bare[:10])}",
            f"{plan.uri('quarantine.parquet')} has the reasons; mend the images or take the class out of data.classes",
        )
    reasons = quarantine["reason"].value_counts().to_pylist()
    return StageOutcome(
        rows_in=len(plan.manifest),
        rows_out=len(committed),
        quarantined=quarantine.num_rows,
        details={"reasons": {entry["values"]: entry["counts"] for entry in reasons}, "shards": _count(plan)},
    )


def committed_images(plan: Plan) -> pd.DataFrame:
    """image_id, class_name, role and rank of every committed image, in shard order, with its `shard` file name."""
    columns = ["image_id", "class_name", "role", "rank"]

    def read(name: str) -> pd.DataFrame:
        with plan.storage.open(plan.uri("patches", name)) as source:
            return pq.read_table(source, columns=columns).to_pandas().assign(shard=name)

    with ThreadPoolExecutor(_CONCURRENT_SHARDS) as pool:
        frame = pd.concat(pool.map(read, plan.storage.list_names(plan.uri("patches"))), ignore_index=True)
    # Ranked anew without the quarantined, so that "the first few of a class" are there for every class.
    frame["rank"] = frame.groupby(["role", "class_name"])["rank"].rank(method="first").astype(np.int64) - 1
    return frame


def _count(plan: Plan) -> int:
    return len(plan.storage.list_names(plan.uri("patches")))
