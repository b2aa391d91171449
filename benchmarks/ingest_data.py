"""The data of bench_ingest.py: photographs under distinct ids as files, Parquet, tars, LitData chunks and MDS shards.

    python benchmarks/ingest_data.py KIND PHOTOGRAPHS FOLDER IMAGES

writes FOLDER/KIND once (a marker says that it is whole). Files are hard links where the file system allows; shards
hold 250 images each, so that two workers have equal shares of them.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

PER_SHARD = 250


def samples(photographs: Path, images: int) -> Iterator[tuple[str, str, Path]]:
    """(id, class name, path) of the photographs, over and over, by class and number."""
    paths = sorted(photographs.glob("*.JPEG"))
    for number in range(images):
        path = paths[number % len(paths)]
        yield f"{number:06d}", path.stem.split("_", 1)[1], path


def shards(photographs: Path, images: int) -> Iterator[tuple[int, list[tuple[str, str, Path]]]]:
    """Numbered shards of samples."""
    rows = list(samples(photographs, images))
    for number, start in enumerate(range(0, images, PER_SHARD)):
        yield number, rows[start : start + PER_SHARD]


def write_files(photographs: Path, folder: Path, images: int) -> None:
    """folder/CLASS/ID.JPEG."""
    for name, class_name, path in samples(photographs, images):
        target = folder / class_name / f"{name}.JPEG"
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def write_parquet(photographs: Path, folder: Path, images: int) -> None:
    """Uncompressed, 50 images (5 MB) a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, rows in shards(photographs, images):
        names, classes, paths = zip(*rows, strict=True)
        columns = {"image_id": names, "class_name": classes, "image": [path.read_bytes() for path in paths]}
        pq.write_table(pa.table(columns), folder / f"{number:04d}.parquet", compression="none", row_group_size=50)


def write_tar(photographs: Path, folder: Path, images: int) -> None:
    """ID.jpg and ID.cls (the class name), as WebDataset has them."""
    for number, rows in shards(photographs, images):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as tar:
            for name, class_name, path in rows:
                for suffix, data in (("jpg", path.read_bytes()), ("cls", class_name.encode())):
                    info = tarfile.TarInfo(f"{name}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def _litdata_sample(row: tuple[str, str, Path]) -> dict[str, str | bytes]:
    return {"id": row[0], "class_name": row[1], "image": row[2].read_bytes()}


def write_litdata(photographs: Path, folder: Path, images: int) -> None:
    """Chunks by LitData itself."""
    from litdata import optimize

    optimize(
        fn=_litdata_sample, inputs=list(samples(photographs, images)), output_dir=str(folder), num_workers=2,
        chunk_size=PER_SHARD, keep_data_ordered=True, verbose=False,
    )  # fmt: skip


def write_mds(photographs: Path, folder: Path, images: int) -> None:
    """MDS shards by MosaicML Streaming itself, of about as many images as the others'."""
    from streaming import MDSWriter

    columns = {"id": "str", "class_name": "str", "image": "bytes"}
    size = PER_SHARD * sum(path.stat().st_size for _, _, path in samples(photographs, PER_SHARD)) // PER_SHARD
    with MDSWriter(out=str(folder), columns=columns, size_limit=size + 2**20) as writer:
        for name, class_name, path in samples(photographs, images):
            writer.write({"id": name, "class_name": class_name, "image": path.read_bytes()})


WRITERS = {
    "files": write_files,
    "parquet": write_parquet,
    "tar": write_tar,
    "litdata": write_litdata,
    "mds": write_mds,
}


def main() -> None:
    """Writes one kind, unless it is there."""
    kind, photographs, folder, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    done = folder / f"{kind}.done"
    if done.exists():
        return
    shutil.rmtree(folder / kind, ignore_errors=True)
    (folder / kind).mkdir(parents=True)
    WRITERS[kind](photographs, folder / kind, images)
    done.touch()


if __name__ == "__main__":
    main()
