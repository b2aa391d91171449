"""The normal equations of an episode's training images: what the closed forms need of any number of images.

Small episodes are counted where they are prepared; beyond, Ray Data deals slices of the rows to workers, each adds up
its own, and the parts are merged. A part is two matrices (F, F) and (S, F), whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vgse.pipeline.image_features import ImageFeatures
from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.settings import ZslSettings

if TYPE_CHECKING:
    from vgse.pipeline.board import Board

# Multiply-adds from which a pipeline pays, which takes seconds to start: half a minute of one CPU.
_IN_PROCESS = 2**40


def accumulated(
    episode: Episode, settings: ZslSettings, in_process: int = _IN_PROCESS, board: Board | None = None
) -> EszslStatistics | None:
    """The statistics that `feature_statistics` gives, by Ray Data, or None where `PreparedEpisode` had better count.

    Args:
        episode: the problem; its training features must pickle as locations to be worth sending.
        settings: of the evaluation.
        in_process: multiply-adds of the product of features up to which one process does it.
        board: counts tasks by node.
    """
    if len(episode.train) * episode.feature_dim**2 <= in_process:
        return None
    (found,) = _counted(episode, np.zeros(len(episode.train), np.int64), settings, board).values()
    return found


def accumulated_together(
    episodes: Sequence[Episode], settings: ZslSettings, in_process: int = _IN_PROCESS, board: Board | None = None
) -> list[EszslStatistics | None]:
    """`accumulated` for the folds of a round and its final episode, which comes last.

    A fold trains on a part of what the final fit trains on, so images are sorted by the episodes they are in, each is
    counted once whatever the number of folds, and every episode gets the sum of its parts. Episodes of features of
    their own (fine-tuned backbones) are counted one by one.
    """
    final = episodes[-1]
    if len(final.train) * final.feature_dim**2 <= in_process:
        return [None] * len(episodes)
    shared = _shared_rows(episodes)
    if shared is None:
        return [accumulated(episode, settings, in_process, board) for episode in episodes]
    groups = _counted(final, shared @ (1 << np.arange(len(episodes))), settings, board)
    row_of = {name: row for row, name in enumerate(np.array(final.class_names)[final.seen_C])}
    found: list[EszslStatistics | None] = []
    for number, episode in enumerate(episodes):
        total = EszslStatistics(final.feature_dim, int(final.seen_C.sum()))
        for group, part in groups.items():
            if group >> number & 1:
                total.merge(part)
        seen = np.array(episode.class_names)[episode.seen_C]
        found.append(total.of_classes(np.array([row_of[name] for name in seen])))
    return found


def _shared_rows(episodes: Sequence[Episode]) -> np.ndarray | None:
    """Which training images of the last episode the others train on too, bool (N, E); None where one has others."""
    final = episodes[-1].train.features_NF
    seen = set(np.array(episodes[-1].class_names)[episodes[-1].seen_C])
    columns = []
    for episode in episodes:
        features = episode.train.features_NF
        if not (isinstance(features, ImageFeatures) and isinstance(final, ImageFeatures)):
            return None
        if features.source != final.source or not seen.issuperset(np.array(episode.class_names)[episode.seen_C]):
            return None
        columns.append(np.isin(final.numbers, features.numbers, assume_unique=True))
        if columns[-1].sum() != len(features):
            return None
    return np.stack(columns, axis=1)


def _counted(
    episode: Episode, group_N: np.ndarray, settings: ZslSettings, board: Board | None
) -> dict[int, EszslStatistics]:
    """The statistics of each group of an episode's training images."""
    import ray

    from vgse.pipeline.placement import counting_ask
    from vgse.pipeline.session import capacity, connect

    connect()
    ask = counting_ask(episode.feature_dim, capacity())
    order = np.argsort(group_N, kind="stable")
    groups, starts, counts = np.unique(group_N[order], return_index=True, return_counts=True)
    # Two slices per CPU: a slice's answer is as large as a whole one's, so few of them travel.
    size = max(settings.chunk, -(-len(order) // (2 * ask.count)))
    slices = [
        pa.table({"group": [int(group)], "start": [int(first) + part.start], "stop": [int(first) + part.stop]})
        for group, first, count in zip(groups, starts, counts, strict=True)
        for part in chunks(int(count), size)
    ]
    classes = int(episode.seen_C.sum())
    shared = ray.put((episode.train, order, episode.seen_positions(episode.train.labels_N)))
    counted = ray.data.from_arrow(slices).map_batches(
        partial(_count, shared=shared, classes=classes, settings=settings, board=board),
        batch_size=1,
        batch_format="pyarrow",
        **ask.remote(),
    )
    # Added up in their order, so that the sums are the same to the last bit whoever finishes first.
    counted.context.execution_options.preserve_order = True
    totals = {int(group): EszslStatistics(episode.feature_dim, classes) for group in groups}
    for row in counted.iter_rows():
        part = EszslStatistics(episode.feature_dim, classes)
        part.gram_FF = np.frombuffer(row["gram"]).reshape(part.gram_FF.shape)
        part.sums_SF = np.frombuffer(row["sums"]).reshape(part.sums_SF.shape)
        part.count_S = np.frombuffer(row["count"], np.int64)
        totals[row["group"]].merge(part)
    return totals


def _count(batch: pa.Table, *, shared: Any, classes: int, settings: ZslSettings, board: Board | None) -> pa.Table:
    import ray

    images: ImageSet
    images, order, labels_N = ray.get(shared)
    part, plain = EszslStatistics(images.features_NF.shape[1], classes), FeatureMap(settings.l2_features)
    (entry,) = batch.to_pylist()
    for rows in chunks(entry["stop"] - entry["start"], settings.chunk):
        here = order[entry["start"] + rows.start : entry["start"] + rows.stop]
        part.add(plain(images.features_NF[here]), labels_N[here])
    if board is not None:
        board.served()
    arrays = {"gram": part.gram_FF, "sums": part.sums_SF, "count": part.count_S}
    return pa.table({"group": [entry["group"]], **{name: [array.tobytes()] for name, array in arrays.items()}})
