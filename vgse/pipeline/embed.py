"""embed: trained networks turn training images into seen-class embeddings phi(y).

Each shard is read by one task, which serves all problems at once and returns per-class float64 sums; the merged result
does not depend on the sharding. In `finetune` mode the same pass over the pixels also yields the features on which the
problem is evaluated.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.clustering.embedding import ClassEmbeddingSums
from vgse.pipeline.cluster import network_folder
from vgse.pipeline.crop import committed_images
from vgse.pipeline.export import write_features_mat
from vgse.pipeline.features import episode_rows, feature_name, open_arrays, pack, patches_wanted, training_rows
from vgse.pipeline.networks import NetworkRecipe
from vgse.pipeline.pixels import pixel_chunks
from vgse.pipeline.plan import Plan, Problem
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.storage import Storage, join


@dataclass(frozen=True)
class EmbedTask:
    """What a worker needs to serve one problem. Rows of the class sums follow `problem.classes`."""

    name: str
    classes: int
    recipe: NetworkRecipe
    folder: str
    features_folder: str | None


@dataclass(frozen=True)
class SeenEmbeddings:
    """The embeddings of one problem's classes from their own images.

    `phi_SK` of the seen classes is the method's; `oracle_UK` of the unseen ones (rows of NaN where no image was
    encoded for it) is only ever a control.
    """

    phi_SK: np.ndarray
    oracle_UK: np.ndarray


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("embeddings"), plan.uri("features.mat")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Embeds the classes of every problem."""
    frame = committed_images(plan)
    finetune = plan.config.cluster.mode == "finetune"
    problems = list(plan.problems())
    tasks = [_task(plan, problem, finetune) for problem in problems]
    sums = {task.name: ClassEmbeddingSums(task.classes, task.recipe.num_clusters) for task in tasks}
    shards = frame.shard.unique()
    progress.start(len(frame), "images")
    for row in _embedded(plan, tasks, _blocks(plan, frame, problems), len(shards)):
        for name, part in zip(row["problem"], row["sums"], strict=True):
            sums[name].sums_SK += np.frombuffer(part).reshape(sums[name].sums_SK.shape)
        for name, part in zip(row["problem"], row["counts"], strict=True):
            sums[name].counts_S += np.frombuffer(part, np.int64)
        progress.advance(row["rows"])
    used = 0
    for problem in problems:
        _write(plan, problem, sums[problem.name])
        used += int(sums[problem.name].counts_S[: len(problem.seen)].sum())
    details = {"features_mat": write_features_mat(plan, frame, problems[1], features_folder(plan, problems[1]))}
    return StageOutcome(len(frame), used, details=details)


def read_embeddings(plan: Plan, problem: Problem) -> SeenEmbeddings:
    """What this stage wrote for `problem`."""
    data = plan.storage.read_bytes(plan.uri("embeddings", f"{problem.name}.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return SeenEmbeddings(arrays["phi_SK"], arrays["oracle_UK"])


def features_folder(plan: Plan, problem: Problem) -> str:
    """Where the whole-image features lie on which `problem` is evaluated."""
    if plan.config.cluster.mode == "frozen":
        return plan.uri("features")
    phase = problem.phase if plan.config.cluster.validation_fit else "final"
    return plan.uri("embeddings", f"split-{problem.split}-{phase}")


def _task(plan: Plan, problem: Problem, finetune: bool) -> EmbedTask:
    own = problem.phase == "final" or plan.config.cluster.validation_fit
    # The network that serves a choice problem without a fit of its own was trained on all seen classes.
    fitted = problem if own else Problem(problem.split, "final", problem.classes, ())
    return EmbedTask(
        name=problem.name,
        classes=len(problem.classes),
        recipe=NetworkRecipe.of(plan.config, len(fitted.seen), plan.words_CW.shape[1]),
        folder=network_folder(plan, problem),
        features_folder=plan.uri("embeddings", problem.name) if finetune and own else None,
    )


def _blocks(plan: Plan, frame: pd.DataFrame, problems: list[Problem]) -> list[pa.Table]:
    """One block per shard: for each problem, every image's class row (-1: not used) and whether its features count."""
    patched = patches_wanted(frame, plan)
    oracle = (frame.role == "train").to_numpy() & (frame["rank"] < plan.config.encode.oracle_images).to_numpy()
    labels, needed = {}, {}
    for problem in problems:
        row_of = {name: i for i, name in enumerate(problem.classes)}
        label = frame.class_name.map(row_of).fillna(-1).to_numpy(np.int64)
        used = training_rows(frame, problem, plan) | (oracle & frame.class_name.isin(problem.unseen).to_numpy())
        labels[problem.name] = np.where(used & patched, label, -1)
        needed[problem.name] = np.logical_or.reduce(episode_rows(frame, problem, plan))
    number, names = pd.factorize(frame.shard)
    blocks = []
    for i, name in enumerate(names):
        here = number == i
        columns = {f"label {p.name}": [labels[p.name][here].tolist()] for p in problems}
        columns |= {f"needed {p.name}": [needed[p.name][here].tolist()] for p in problems}
        blocks.append(pa.table({"shard": [name], "patched": [patched[here].tolist()], **columns}))
    return blocks


def _embedded(plan: Plan, tasks: list[EmbedTask], blocks: list[pa.Table], shards: int) -> Iterator[dict[str, Any]]:
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.board import Board

    on_gpu = session.gpus(plan.config.resources)
    workers, each, gpu = (
        session.worker_shape(plan.config.resources, reading=False) if on_gpu else (session.cpus(), 1.0, 0)
    )
    board = Board()
    dataset = ray.data.from_arrow(blocks).map_batches(
        EmbedShard,
        fn_constructor_kwargs={
            "storage": plan.storage,
            "run": plan.run,
            "tasks": tasks,
            "batch_size": plan.config.encode.batch_size,
            "threads": max(1, int(each)),
            "board": board,
        },
        batch_size=1,
        batch_format="pyarrow",
        concurrency=min(workers, shards),
        num_cpus=each,
        num_gpus=gpu,
    )
    yield from board.rows(dataset)


class EmbedShard:
    """A worker that holds every problem's network and sums assignments per class."""

    def __init__(
        self, storage: Storage, run: str, tasks: list[EmbedTask], batch_size: int, threads: int, board: Any
    ) -> None:
        import torch

        from vgse.pipeline.session import limit_threads

        limit_threads(threads)
        self._storage, self._run, self._tasks = storage, run, tasks
        self._batch, self._threads, self._board = batch_size, threads, board
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with board.reporting():
            self._networks = {task.name: task.recipe.load(storage, task.folder).to(self._device) for task in tasks}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Sums the shards named in `batch`, per problem."""
        with self._board.reporting():
            return pa.Table.from_pylist([self._shard(entry) for entry in batch.to_pylist()])

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
        uri = join(self._run, "features", feature_name(entry["shard"]))
        arrays = open_arrays(self._storage.local_copy(uri))
        positions = np.flatnonzero(labels[arrays["patch_rows"]] >= 0)
        for start in range(0, len(positions), self._batch):
            part = positions[start : start + self._batch]
            features_MTF = np.asarray(arrays["patches"][part], np.float32)
            yield self._assign(task.name, features_MTF), arrays["patch_rows"][part]

    def _from_pixels(
        self, task: EmbedTask, entry: dict[str, Any], labels: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Assignments from pixels; the whole images' features are written on the way."""
        network: Any = self._networks[task.name]
        shard = self._storage.read_table(join(self._run, "patches", entry["shard"]), ["image", "boxes"])
        needed = np.array(entry[f"needed {task.name}"]) & (task.features_folder is not None)
        spec = network.backbone.spec
        whole = np.full((shard.num_rows, spec.feature_dim), np.nan, np.float16)
        chunks = pixel_chunks(
            shard,
            size=spec.input_size,
            whole=needed.tolist(),
            patches=(labels >= 0).tolist(),
            images=max(1, self._batch // 10),
            threads=self._threads,
        )
        for chunk in chunks:
            first = len(chunk.whole_rows)
            if first:
                whole[chunk.whole_rows] = self._features(network, chunk.pixels[:first])
            if len(chunk.patch_rows):
                pixels = chunk.pixels[first:]
                yield self._assign(task.name, pixels, len(chunk.patch_rows)), chunk.patch_rows
        if task.features_folder is not None:
            self._storage.write_bytes(join(task.features_folder, feature_name(entry["shard"])), pack({"whole": whole}))

    def _features(self, network: Any, pixels: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return network.backbone(torch.from_numpy(pixels).to(self._device)).float().cpu().numpy()

    def _assign(self, name: str, inputs: np.ndarray, images: int | None = None) -> np.ndarray:
        """a_MTK of M images, from features (M, T, F) or pixels (M * T, size, size, 3)."""
        import torch

        flat = inputs.reshape(-1, inputs.shape[-1]) if images is None else inputs
        a = self._networks[name].assign(torch.from_numpy(flat).to(self._device)).double().cpu().numpy()
        return a.reshape(images if images is not None else len(inputs), -1, a.shape[1])


def _write(plan: Plan, problem: Problem, sums: ClassEmbeddingSums) -> None:
    counts = sums.counts_S[:, None]
    phi_CK = np.where(counts > 0, sums.sums_SK / np.maximum(counts, 1), np.nan)
    seen = len(problem.seen)
    assert (counts[:seen] > 0).all(), "a seen class without training images"
    sink = io.BytesIO()
    np.savez(
        sink,
        class_names=np.array(problem.classes),
        phi_SK=phi_CK[:seen],
        oracle_UK=phi_CK[seen:],
        images=sums.counts_S,
    )
    plan.storage.write_bytes(plan.uri("embeddings", f"{problem.name}.npz"), sink.getvalue())
