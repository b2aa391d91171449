"""crop: the manifest's images become patch shards, one row per image, and a table of what could not be used.

The manifest is shuffled once and cut into units, which lie in the run directory; Ray Data hands their numbers to
workers, which read a unit's rows and images and write its shard. So the driver holds no blocks, a task that dies is
run again, a killed stage goes on with the missing shards, and pixels never travel: a shard holds the encoded image
(36 KB at short side 256) and its T boxes, from which the consumer cuts.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vgse.data.readers import read_images
from vgse.data.units import cut_units
from vgse.errors import DataError
from vgse.pipeline.accounts import (
    committed_table,
    digest,
    prove,
    quarantined_images,
    shard_name,
)
from vgse.pipeline.crop_shard import crop_image, crop_units
from vgse.pipeline.plan import Plan
from vgse.pipeline.stage import Progress, StageOutcome

# Images that are cropped beforehand to learn how many make a shard.
_SAMPLE = 24
# Bytes of a row beside its image and boxes, and of a whole row where none of the sample can be used.
_ROW, _UNKNOWN = 200, 36_000


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri(name) for name in ("patches", "quarantine", "quarantine.parquet", "units")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Crops every image of the manifest.

    Raises:
        DataError: more than crop.max_quarantined of the images cannot be used, or no image of some class.
    """
    units = _units(plan)
    present = set(plan.storage.list_names(plan.uri("patches")))
    missing = [unit for unit in units if shard_name(unit.number) not in present]
    total = sum(unit.rows for unit in units)
    progress.start(total, "images", done=total - sum(unit.rows for unit in missing))
    tally = _Tally(plan, _refused_before(plan, missing))
    tally.check()
    nodes = _crop(plan, missing, tally, progress) if missing else {}
    return _account(plan, nodes)


def retry_quarantined(plan: Plan) -> int:
    """Makes the next crop try the quarantined images again, in shards of their own; how many there are.

    The shards that are there stay as they are. Nothing happens where crop has yet to begin, or would begin anew with
    other settings.
    """
    expected = plan.fingerprints["crop"]
    if not plan.receipts.begun("crop", expected):
        return 0
    units = _units(plan)
    present = set(plan.storage.list_names(plan.uri("patches")))
    pending = [unit for unit in units if unit.retry and shard_name(unit.number) not in present]
    ids = _refused_before(plan, pending)["image_id"]
    rows = plan.manifest[plan.manifest.image_id.isin(ids.to_pylist())]
    if len(rows):
        number = max(unit.number for unit in units) + 1
        cut = cut_units(rows, _rows_per_shard(plan), fewest=1)
        _write_units(plan, f"retry-{number:05d}.parquet", rows, cut, number)
    if len(rows) or pending:
        plan.receipts.reopen("crop", expected)
    return len(rows) + sum(unit.rows for unit in pending)


@dataclass(frozen=True)
class _Unit:
    """A unit of work: the row group of a file of units, and the number of the shard it becomes."""

    uri: str
    group: int
    number: int
    rows: int
    retry: bool


@dataclass
class _Tally:
    """Counts what could not be used, and stops the stage when it is too much."""

    plan: Plan
    before: pa.Table
    reasons: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.reasons.update(self.before["reason"].to_pylist())

    def add(self, reasons: dict[str, int]) -> None:
        self.reasons.update(reasons)
        self.check()

    def check(self) -> None:
        refused, total, limit = self.reasons.total(), len(self.plan.manifest), self.plan.config.crop.max_quarantined
        if refused > limit * total:
            self.plan.storage.write_table(self.plan.uri("quarantine.parquet"), _quarantine(self.plan))
            counts = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
            raise DataError(
                f"data.images: {refused:,} of {total:,} images cannot be used, more than crop.max_quarantined = "
                f"{limit:g} of them: {counts}",
                f"{self.plan.uri('quarantine.parquet')} names them; mend them and run `vgse crop CONFIG "
                "--retry-quarantined`, or raise crop.max_quarantined and run again; finished shards are kept",
            )


def _units(plan: Plan) -> list[_Unit]:
    """All units of this crop, cut and written at its first start."""
    names = plan.storage.list_names(plan.uri("units"))
    if not names:
        _write_units(plan, "main.parquet", plan.manifest, cut_units(plan.manifest, _rows_per_shard(plan)), 0)
        names = ["main.parquet"]
    units = []
    for name in names:
        with plan.storage.open(plan.uri("units", name)) as source:
            metadata = pq.ParquetFile(source).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            first = int(name.removesuffix(".parquet").rpartition("-")[2]) if name.startswith("retry-") else 0
            units.append(_Unit(plan.uri("units", name), group, first + group, rows, name.startswith("retry-")))
    return units


def _write_units(plan: Plan, name: str, frame: pd.DataFrame, units: list[np.ndarray], first: int) -> None:
    """One row group per unit, so that a worker reads its rows alone and the driver holds one unit at a time."""
    writer = None
    with plan.storage.writing(plan.uri("units", name)) as sink:
        for number, rows in enumerate(units, first):
            table = pa.Table.from_pandas(frame.iloc[rows].assign(unit=number), preserve_index=False)
            writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=len(rows))
        if writer is not None:
            writer.close()


def _rows_per_shard(plan: Plan) -> int:
    """Images that make a shard of crop.shard_mb, from a sample of them, and crop.rows_per_shard at most."""
    crop, frame = plan.config.crop, plan.manifest
    single = np.flatnonzero(frame["row"] < 0)
    if len(single):
        chosen = frame.iloc[np.random.default_rng(len(frame)).permutation(single)[:_SAMPLE]]
    else:
        first = frame.iloc[0]
        chosen = frame[(frame.uri == first.uri) & (frame.row_group == first.row_group)].iloc[:_SAMPLE]
    cropped = [crop_image(row, data, crop) for row, data in read_images(plan.storage, chosen)]
    sizes = [len(row["image"]) + row["boxes"].nbytes + _ROW for row in cropped if "image" in row]
    return crop.images_per_shard(float(np.mean(sizes)) if sizes else _UNKNOWN)


def _crop(plan: Plan, units: list[_Unit], tally: _Tally, progress: Progress) -> dict[str, int]:
    """Crops the units; how many each node did."""
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.board import Board

    blocks = [pa.table({"uri": [unit.uri], "group": [unit.group], "unit": [unit.number]}) for unit in units]
    board = Board()
    work = partial(crop_units, storage=plan.storage, run=plan.run, crop=plan.config.crop, board=board)
    (ask,) = session.asks("crop", plan.config)
    # Ray Data runs the task of a worker that died again, without limit; crop_units sets one.
    dataset = ray.data.from_arrow(blocks).map_batches(work, batch_size=None, batch_format="pyarrow", **ask.remote())
    for row in board.rows(dataset):
        progress.advance(row["rows"])
        tally.add(json.loads(row["reasons"]))
    return board.nodes()


def _refused_before(plan: Plan, pending: list[_Unit]) -> pa.Table:
    """What earlier attempts refused, without the images that pending units try again."""
    quarantine = _quarantine(plan)
    for unit in pending:
        if unit.retry:
            with plan.storage.open(unit.uri) as source:
                again = pq.ParquetFile(source).read_row_group(unit.group, columns=["image_id"])["image_id"]
            again = again.cast(pa.string()).unique()
            quarantine = quarantine.filter(pc.invert(pc.is_in(quarantine["image_id"], value_set=again)))
    return quarantine


def _quarantine(plan: Plan) -> pa.Table:
    if not plan.storage.list_names(plan.uri("quarantine")):
        return quarantined_images(plan.storage, plan.run, pa.array([], pa.string()))
    return quarantined_images(plan.storage, plan.run, committed_table(plan, ["image_id"])["image_id"])


def _account(plan: Plan, nodes: dict[str, int]) -> StageOutcome:
    """Joins the quarantine and proves that every image of the manifest is committed or quarantined, each once."""
    committed = committed_table(plan, ["image_id", "class_name", "role", "sha256"])
    quarantine = quarantined_images(plan.storage, plan.run, committed["image_id"])
    plan.storage.write_table(plan.uri("quarantine.parquet"), quarantine)
    prove(plan, committed, quarantine)
    training = committed.filter(pc.equal(committed["role"], "train"))
    usable, trained = (set(table["class_name"].unique().to_pylist()) for table in (committed, training))
    bare = sorted((plan.seen_somewhere - trained) | (set(plan.class_names) - usable))
    if bare:
        raise DataError(
            f"data.images: every image of {len(bare)} class(es) was quarantined: {', '.join(bare[:10])}",
            f"{plan.uri('quarantine.parquet')} has the reasons; mend the images and run `vgse crop CONFIG "
            "--retry-quarantined`, or take the class out of data.classes",
        )
    units = _units(plan)
    retried = [shard_name(unit.number) for unit in units if unit.retry]
    mended = committed.filter(pc.is_in(committed["shard"], value_set=pa.array(retried, pa.string())))
    return StageOutcome(
        rows_in=len(plan.manifest),
        rows_out=committed.num_rows,
        quarantined=quarantine.num_rows,
        details={
            "reasons": dict(Counter(quarantine["reason"].to_pylist()).most_common()),
            "shards": len(units),
            "digest": digest(committed),
            "mended": digest(mended)[:16] if mended.num_rows else "",
        },
        nodes=nodes,
    )
