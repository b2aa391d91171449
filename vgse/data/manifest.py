"""The manifest: which images there are, each with a unique id, its class, its role and where its bytes lie.

One row per image: image_id, class_name, role (`train` or `test`), uri, row and row_group
(within a Parquet file, else -1), rank.
`rank` orders the images of a class and role by a digest of their id: an order that is random to the eye, the same on
every machine, and untouched by the listing. All subsets (held-out images, `images_per_class`, the images an oracle
sees) are cut by rank, so they nest and never change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vgse.config import DataConfig
from vgse.data.splits import ClassSplit
from vgse.errors import DataError
from vgse.storage import FileInfo, Storage

COLUMNS = ("image_id", "class_name", "role", "uri", "row", "row_group", "rank")


def build_manifest(storage: Storage, data: DataConfig, splits: Sequence[ClassSplit]) -> pd.DataFrame:
    """Lists every image of the splits' classes.

    Returns:
        A frame with `COLUMNS`, sorted by image_id.

    Raises:
        DataError: an empty class folder, Parquet without the needed columns, two images of one id, or a class without
            enough images to hold some out.
    """
    wanted = {name for split in splits for name in split.all}
    parts = [(uri, "train") for uri in data.images] + [(uri, "test") for uri in data.test_images]
    prefixes = _prefixes([uri for uri, _ in parts])
    listed = [
        _list_images(storage, uri, data.format).assign(role=role).assign(image_id=lambda f, p=prefix: p + f.image_id)
        for (uri, role), prefix in zip(parts, prefixes, strict=True)
    ]
    frame = pd.concat(listed, ignore_index=True)
    frame = frame[frame.class_name.isin(wanted)]
    twice = frame.image_id[frame.image_id.duplicated()]
    if len(twice):
        raise DataError(
            f"data.images: {len(twice)} image id(s) occur twice, e.g. {twice.iloc[0]}", "give each location once"
        )
    frame = _rank(frame)
    if data.images_per_class is not None:
        frame = frame[frame["rank"] < data.images_per_class]
    if not data.test_images:
        frame = _hold_out(frame, data.held_out_fraction)
    return frame.sort_values("image_id", ignore_index=True)[list(COLUMNS)]


def manifest_digest(frame: pd.DataFrame) -> str:
    """A digest of which images, classes and roles there are; where the bytes lie does not enter."""
    digest = hashlib.sha256()
    for column in ("image_id", "class_name", "role"):
        digest.update("\n".join(frame[column]).encode())
    return digest.hexdigest()[:16]


def manifest_table(frame: pd.DataFrame) -> pa.Table:
    """The manifest as it is stored."""
    return pa.Table.from_pandas(frame, preserve_index=False)


def _prefixes(uris: Sequence[str]) -> list[str]:
    """A prefix per location that makes ids unique: its last path component, numbered where two share it."""
    names = [uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".parquet") for uri in uris]
    return [f"{name}/" if names.count(name) == 1 else f"{name}-{i}/" for i, name in enumerate(names)]


def _list_images(storage: Storage, uri: str, layout: str) -> pd.DataFrame:
    root = storage.absolute(uri)
    files = [f for f in storage.find(root) if not f.uri.rsplit("/", 1)[-1].startswith((".", "_"))]
    parquet = [f for f in files if f.uri.endswith(".parquet")]
    if layout == "parquet" or (layout == "auto" and parquet):
        if not parquet:
            raise DataError(f"data.images: no .parquet file at {uri}", "check the location or data.format")
        return pd.concat([_list_parquet(storage, file) for file in parquet], ignore_index=True)
    return _list_folder(storage, root, files)


def _list_folder(storage: Storage, root: str, files: Sequence[FileInfo]) -> pd.DataFrame:
    """A folder tree: the first folder below the root is the class."""
    start = len(root.rstrip("/")) + 1
    relative = [file.uri[start:] for file in files]
    inside = [(name, file.uri) for name, file in zip(relative, files, strict=True) if "/" in name]
    classes = {name.split("/", 1)[0] for name, _ in inside}
    empty = [name for name in storage.list_folders(root) if name not in classes and not name.startswith((".", "_"))]
    if empty:
        raise DataError(
            f"data.images: {len(empty)} class folder(s) below {root} hold no image: {', '.join(empty[:10])}",
            "add images or remove the folder(s)",
        )
    if not inside:
        raise DataError(f"data.images: {root} holds no class folders with images", "expected ROOT/CLASS/IMAGE")
    names, uris = zip(*inside, strict=True)
    return pd.DataFrame(
        {"image_id": names, "class_name": [n.split("/", 1)[0] for n in names], "uri": uris, "row": -1, "row_group": -1}
    )


def _list_parquet(storage: Storage, file: FileInfo) -> pd.DataFrame:
    """A Parquet file: `image` bytes and `class_name`; ids from `image_id` or `path`, else file name and row."""
    with storage.open(file.uri) as source:
        try:
            reader = pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise DataError(f"data.images: {file.uri} is not readable Parquet: {error}", "replace the file") from None
        present = set(reader.schema_arrow.names)
        if not {"image", "class_name"} <= present:
            raise DataError(
                f"data.images: {file.uri} has columns {sorted(present)}", "it needs `image` and `class_name`"
            )
        id_column = next((name for name in ("image_id", "path") if name in present), None)
        table = reader.read(columns=["class_name", *([id_column] if id_column else [])])
        groups = [reader.metadata.row_group(g).num_rows for g in range(reader.metadata.num_row_groups)]
    count = table.num_rows
    stem = file.uri.rsplit("/", 1)[-1]
    ids = table[id_column].to_pylist() if id_column else [f"{stem}#{row}" for row in range(count)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "class_name": table["class_name"].to_pylist(),
            "uri": file.uri,
            "row": np.arange(count),
            "row_group": np.repeat(np.arange(len(groups)), groups),
        }
    )


def _rank(frame: pd.DataFrame) -> pd.DataFrame:
    keys = [hashlib.blake2b(name.encode(), digest_size=8).hexdigest() for name in frame.image_id]
    ordered = frame.assign(_key=keys).sort_values("_key")
    rank = ordered.groupby(["role", "class_name"], sort=False).cumcount()
    return frame.assign(rank=rank.astype(np.int64))


def _hold_out(frame: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Makes the last `fraction` of every class (by rank, at least one image) its test images."""
    count = frame.groupby("class_name")["rank"].transform("size")
    lonely = sorted(frame.class_name[count < 2].unique())
    if lonely:
        raise DataError(
            f"data.images: {len(lonely)} class(es) have a single image, none can be held out: {', '.join(lonely[:10])}",
            "add images, or give data.test_images",
        )
    held = frame["rank"] >= count - np.maximum(1, np.round(count * fraction))
    first_held = frame[held].groupby("class_name")["rank"].transform("min")
    rank = frame["rank"].copy()
    rank[held] -= first_held
    return frame.assign(role=np.where(held, "test", "train"), rank=rank)


def work_units(frame: pd.DataFrame, rows_per_shard: int, fewest: int = 16) -> Iterator[pd.DataFrame]:
    """Cuts the manifest into units of work, each of which becomes one patch shard.

    Single files are shuffled globally. The rows of a Parquet row group stay together, so that its bytes are read once,
    and whole row groups are dealt out in random order; within a unit the reader shuffles the rows. The order depends on
    the manifest only, not on the run's seed: a crop that is continued must find its images in the same shards.
    """
    rng = np.random.default_rng(len(frame))
    size = max(1, min(rows_per_shard, -(-len(frame) // fewest)))
    single = frame["row"].to_numpy() < 0
    block = np.where(single, np.arange(len(frame)), frame["row_group"])
    group, _ = pd.factorize(pd.MultiIndex.from_arrays([frame["uri"], block]))
    order = rng.permutation(group.max() + 1)
    rows_in_order = np.bincount(order[group])
    unit_of = (np.cumsum(rows_in_order) - rows_in_order) // size
    unit = unit_of[order[group]]
    position = np.lexsort((rng.permutation(len(frame)), unit))
    for rows in np.split(position, np.flatnonzero(np.diff(unit[position])) + 1):
        yield frame.iloc[rows]
