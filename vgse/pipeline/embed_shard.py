"""One worker of embed: per-class sums of assignments, and in finetune mode the features that are judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.pipeline.backbone import features_of
from vgse.pipeline.features import feature_name, open_arrays, pack
from vgse.pipeline.networks import NetworkRecipe
from vgse.pipeline.pixels import pixel_chunks
from vgse.storage import Storage, join


@dataclass(frozen=True)
class EmbedTask:
    """What a worker needs to serve one problem. Rows of the class sums follow `problem.classes`.

    `features_folder` is where this problem's image features go in finetune mode, `features` which of them are wanted.
    `best` serves the checkpoint that validation found best.
    """

    name: str
    classes: int
    recipe: NetworkRecipe
    folder: str
    features_folder: str | None
    features: str
    best: bool = False


class EmbedShard:
    """A worker that holds every problem's network and sums assignments per class."""

    def __init__(
        self, storage: Storage, run: str, tasks: list[EmbedTask], batch_size: int, threads: int, board: Any
    ) -> None:
        import torch

        from vgse.pipeline.session import keep_freed_memory, limit_threads

        keep_freed_memory()
        limit_threads(threads)
        self._storage, self._run, self._tasks = storage, run, tasks
        self._batch, self._threads, self._board = batch_size, threads, board
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with board.reporting():
            self._networks = {
                task.name: task.recipe.load(storage, task.folder, best=task.best).to(self._device) for task in tasks
            }

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Sums the shards named in `batch`, per problem."""
        with self._board.reporting():
            sums = pa.Table.from_pylist([self._shard(entry) for entry in batch.to_pylist()])
        self._board.served()
        return sums

    def _shard(self, entry: dict[str, Any]) -> dict[str, Any]:
        sums, counts = [], []
        for task in self._tasks:
            labels = np.array(entry[f"label {task.name}"], np.int64)
            total = ClassEmbeddingSums(task.classes, task.recipe.num_clusters)
            pairs = (
                self._from_pixels(task, entry, labels) if task.recipe.finetune else self._cached(task, entry, labels)
            )
            for a_MTK, rows in pairs:
                total.add(a_MTK, labels[rows])
            sums.append(total.sums_SK.tobytes())
            counts.append(total.counts_S.tobytes())
        names = [task.name for task in self._tasks]
        return {"problem": names, "sums": sums, "counts": counts, "rows": len(entry["patched"])}

    def _cached(
        self, task: EmbedTask, entry: dict[str, Any], labels: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Assignments from cached patch features."""
        uri = join(self._run, "features", "patches", feature_name(entry["shard"]))
        arrays = open_arrays(self._storage.local_copy(uri))
        positions = np.flatnonzero(labels[arrays["patch_rows"]] >= 0)
        for start in range(0, len(positions), self._batch):
            part = positions[start : start + self._batch]
            features_MTF = np.asarray(arrays["patches"][part], np.float32)
            yield self._assign(task.name, features_MTF), arrays["patch_rows"][part]

    def _from_pixels(
        self, task: EmbedTask, entry: dict[str, Any], labels: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Assignments from pixels; the images' features for the evaluation are written on the way."""
        network: Any = self._networks[task.name]
        shard = self._storage.read_table(join(self._run, "patches", entry["shard"]), ["image", "boxes"])
        judged = np.array(entry[f"needed {task.name}"]) & (task.features_folder is not None)
        spec = network.backbone.spec
        arrays = {
            name: np.full((shard.num_rows, spec.feature_dim), np.nan, np.float16)
            for name, kinds in (("whole", ("whole", "both")), ("patch_mean", ("patches", "both")))
            if task.features in kinds
        }
        patched = (labels >= 0) | (judged & ("patch_mean" in arrays))
        chunks = pixel_chunks(
            shard,
            size=spec.input_size,
            whole=(judged & ("whole" in arrays)).tolist(),
            patches=patched.tolist(),
            images=max(1, self._batch // 10),
            threads=self._threads,
        )
        for chunk in chunks:
            features = features_of(network.backbone, chunk.pixels, self._device)
            first, rows = len(chunk.whole_rows), chunk.patch_rows
            if first:
                arrays["whole"][chunk.whole_rows] = features[:first]
            if not len(rows):
                continue
            features_MTF = features[first:].reshape(len(rows), -1, features.shape[1])
            if "patch_mean" in arrays:
                arrays["patch_mean"][rows] = features_MTF.mean(axis=1)
            used = labels[rows] >= 0
            if used.any():
                yield self._assign(task.name, features_MTF[used]), rows[used]
        if task.features_folder is not None:
            self._storage.write_bytes(join(task.features_folder, feature_name(entry["shard"])), pack(arrays))

    def _assign(self, name: str, features_MTF: np.ndarray) -> np.ndarray:
        """a_MTK of M images from their patch features."""
        import torch

        flat = torch.from_numpy(features_MTF.reshape(-1, features_MTF.shape[-1])).to(self._device)
        with torch.inference_mode():
            a_BK = self._networks[name].heads(flat).a_BK.double().cpu().numpy()
        return a_BK.reshape(*features_MTF.shape[:2], a_BK.shape[1])
