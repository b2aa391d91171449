"""Accounts of a crop: the manifest M is the committed images P and the quarantined images Q, each image once.

Everything here reads the run directory alone, so that the end of the stage, `vgse status` and its `--verify` judge by
the same rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vgse.errors import VgseError
from vgse.patches import REASONS
from vgse.storage import Storage, join

if TYPE_CHECKING:  # Workers import this module too, and nothing of what a plan needs.
    from vgse.pipeline.plan import Plan

QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "class_name", "uri", "reason", "detail")])

# Shards that are read at once.
_CONCURRENT_SHARDS = 16
# Rows whose ids and digests are Python objects at the same time.
_ROWS_PER_DIGEST = 8192
# Images that an error names of each kind.
_NAMED = 5
T = TypeVar("T")


class AccountingError(VgseError):
    """A run directory whose shards and quarantine do not add up to its manifest, or were changed afterwards."""


def shard_name(number: int) -> str:
    """The file name of a patch or feature shard."""
    return f"part-{number:05d}.parquet"


def committed_images(plan: Plan) -> pd.DataFrame:
    """image_id, class_name, role and rank of every committed image, in shard order, with its `shard` file name."""
    columns = ["image_id", "class_name", "role", "rank"]
    frame = committed_table(plan, columns).to_pandas()
    # Ranked anew without the quarantined, so that "the first few of a class" are there for every class.
    frame["rank"] = frame.groupby(["role", "class_name"])["rank"].rank(method="first").astype(np.int64) - 1
    return frame


def committed_table(plan: Plan, columns: Sequence[str]) -> pa.Table:
    """Columns of all patch shards, in shard order, and the file name of each row's `shard`."""

    def read(name: str) -> pa.Table:
        with plan.storage.open(plan.uri("patches", name)) as source:
            table = pq.read_table(source, columns=list(columns))
        return table.append_column("shard", pa.array([name] * table.num_rows, pa.string()))

    table = pa.concat_tables(_of_shards(plan, read))
    # What the readers' threads used stays with Arrow otherwise, as much again as the table.
    pa.default_memory_pool().release_unused()
    return table


def digest(committed: pa.Table) -> str:
    """SHA-256 over the pairs (image_id, sha256 of stored bytes and boxes) sorted by image_id: the same however images
    were dealt to shards."""
    total = hashlib.sha256()
    order = pc.sort_indices(committed["image_id"])
    # In one piece, from which a few rows at a time can be taken; a sorted table would be another copy of it.
    pairs = committed.select(["image_id", "sha256"]).combine_chunks()
    for start in range(0, len(order), _ROWS_PER_DIGEST):
        rows = pairs.take(order.slice(start, _ROWS_PER_DIGEST))
        names, values = (rows[name].to_pylist() for name in ("image_id", "sha256"))
        total.update("".join(f"{name}\0{value}\n" for name, value in zip(names, values, strict=True)).encode())
    return total.hexdigest()


def quarantined_images(storage: Storage, run: str, committed: pa.Array | pa.ChunkedArray) -> pa.Table:
    """What could not be used, by image_id, from the quarantine of every unit: of an image that was tried again the
    latest attempt, unless that one was committed."""
    folder = join(run, "quarantine")
    names = storage.list_names(folder)
    parts = [storage.read_table(join(folder, name)) for name in names]
    table = pa.concat_tables(parts or [QUARANTINE_SCHEMA.empty_table()])
    # The few are looked for among the many: a table of the many's hashes would be the largest thing the driver holds.
    mended = committed.filter(pc.is_in(committed, value_set=table["image_id"].unique()))
    table = table.filter(pc.invert(pc.is_in(table["image_id"], value_set=mended)))
    # Parts are in the order of their units, and an attempt's units come after those before it.
    last = pd.Series(np.arange(table.num_rows)).groupby(table["image_id"].to_numpy()).max().to_numpy()
    return table.take(pa.array(np.sort(last), pa.int64())).sort_by("image_id")


def prove(plan: Plan, committed: pa.Table, quarantine: pa.Table) -> str:
    """Proves that committed and quarantined images partition the manifest, and that every quarantined one has a reason.

    Args:
        plan: of the run directory.
        committed: image_id and `shard`.
        quarantine: the quarantine table.

    Returns:
        A line that says so.

    Raises:
        AccountingError: names the images and the shards that do not add up.
    """
    known = pc.is_in(quarantine["reason"], value_set=pa.array(REASONS))
    unexplained = quarantine.filter(pc.invert(known))["image_id"].to_pylist()
    counts = f"{len(plan.manifest):,} images = {committed.num_rows:,} committed + {quarantine.num_rows:,} quarantined"
    if not unexplained and _each_once(plan, committed, quarantine):
        return f"accounting {counts}: every image once"
    kinds = {**_not_once(plan, committed, quarantine), "quarantined without a reason": unexplained}
    raise AccountingError(
        f"{plan.run}: {counts} does not add up: "
        + ", ".join(f"{len(found):,} {kind}" for kind, found in kinds.items())
        + "".join(f"\n  {kind}: {_some(found)}" for kind, found in kinds.items() if found)
        + "\n  -> remove the run's receipts/crop.json and run again"
    )


def verify(plan: Plan) -> str:
    """Computes the sha256 of every row of every shard again, and the digest of all.

    Raises:
        AccountingError: names shards and images whose bytes or boxes are not those that were written.
    """
    wrong = [place for found in _of_shards(plan, lambda name: _changed_rows(plan, name)) for place in found]
    if wrong:
        raise AccountingError(
            f"{plan.uri('patches')}: {len(wrong):,} image(s) are not what was written: {_some(wrong)}\n"
            "  -> remove the run's receipts/crop.json and run again"
        )
    found, receipt = digest(committed_table(plan, ["image_id", "sha256"])), plan.receipts.read("crop")
    written = receipt.details.get("digest") if receipt else None
    if written and found != written:
        raise AccountingError(
            f"{plan.uri('patches')}: the digest of its images is {found}, but the crop's receipt says {written}\n"
            "  -> remove the run's receipts/crop.json and run again"
        )
    return f"verified  every byte of {len(plan.storage.list_names(plan.uri('patches'))):,} shards, digest {found[:16]}"


def row_digest(image: bytes, boxes: np.ndarray) -> str:
    """The sha256 of a row of a patch shard: of its stored bytes and its int32 boxes."""
    return hashlib.sha256(image + np.ascontiguousarray(boxes, "<i4").tobytes()).hexdigest()


def _changed_rows(plan: Plan, name: str) -> list[str]:
    wrong = []
    with plan.storage.open(plan.uri("patches", name)) as source:
        for batch in pq.ParquetFile(source).iter_batches(64, columns=["image_id", "image", "boxes", "sha256"]):
            columns = (batch[column].to_pylist() for column in ("image_id", "image", "boxes", "sha256"))
            for image_id, image, boxes, written in zip(*columns, strict=True):
                if row_digest(image, np.array(boxes, np.int32)) != written:
                    wrong.append(f"{image_id} ({name})")
    return wrong


def _of_shards(plan: Plan, read: Callable[[str], T]) -> Iterator[T]:
    """What `read` gives for every shard, in order; one that is no Parquet any more is named."""

    def explained(name: str) -> T:
        try:
            return read(name)
        except (pa.ArrowInvalid, OSError, EOFError) as error:
            raise AccountingError(
                f"{plan.uri('patches', name)} cannot be read: {error}\n"
                "  -> remove the run's receipts/crop.json and run again"
            ) from None

    with ThreadPoolExecutor(_CONCURRENT_SHARDS) as pool:
        yield from pool.map(explained, plan.storage.list_names(plan.uri("patches")))


def _each_once(plan: Plan, committed: pa.Table, quarantine: pa.Table) -> bool:
    """Whether the ids of both tables are those of the manifest, by sorting: a column and its order are all that this
    holds, where tables of hashes would be several times as large."""
    manifest = pa.Table.from_pandas(plan.manifest[["image_id"]], preserve_index=False)
    return _sorted_ids(committed, quarantine).equals(_sorted_ids(manifest))


def _sorted_ids(*tables: pa.Table) -> pa.ChunkedArray:
    parts = [part.cast(pa.large_string()) for table in tables for part in table["image_id"].chunks]
    ids = pa.chunked_array(parts, pa.large_string())
    return ids.take(pc.sort_indices(ids))


def _not_once(plan: Plan, committed: pa.Table, quarantine: pa.Table) -> dict[str, list[str]]:
    """The images that are missing, twice or not of this run, each with its place."""
    manifest = pd.Index(plan.manifest.image_id)
    refused = quarantine.select(["image_id"]).to_pandas().assign(shard="quarantine.parquet")
    places = pd.concat([committed.select(["image_id", "shard"]).to_pandas(), refused], ignore_index=True)
    twice = places[places.image_id.duplicated(keep=False)].sort_values("image_id", kind="stable")
    foreign = places[~places.image_id.isin(manifest)]
    return {
        "missing": _missing_places(plan, manifest[~manifest.isin(places.image_id)]),
        "twice": [f"{name} ({' and '.join(rows.shard)})" for name, rows in twice.groupby("image_id")],
        "not in the manifest": [f"{row.image_id} ({row.shard})" for row in foreign.itertuples()],
    }


def _missing_places(plan: Plan, missing: pd.Index) -> list[str]:
    """The missing images with the shard that should hold each, where the units of work are still there to say."""
    shard_of: dict[str, str] = {}
    for name in plan.storage.list_names(plan.uri("units")) if len(missing) else []:
        units = plan.storage.read_table(plan.uri("units", name), columns=["image_id", "unit"]).to_pandas()
        units = units[units.image_id.isin(missing)]
        shard_of |= {image_id: shard_name(unit) for image_id, unit in zip(units.image_id, units.unit, strict=True)}
    return [f"{name} (of {shard_of[name]})" if name in shard_of else name for name in missing]


def _some(found: Iterable[str]) -> str:
    every = list(found)
    return ", ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED:,} more" if len(every) > _NAMED else "")
