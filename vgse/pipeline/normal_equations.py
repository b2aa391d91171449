"""The normal equations of an episode's training images: what the closed forms need of any number of images.

Small episodes are counted where they are prepared; beyond, Ray Data deals slices of the rows to workers, each adds up
its own, and the parts are merged. A part is two matrices (F, F) and (S, F), whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.eszsl import EszslStatistics
from vgse.zsl.features import FeatureMap, chunks
from vgse.zsl.settings import ZslSettings

# Multiply-adds from which a pipeline pays, which takes seconds to start: half a minute of one CPU.
_IN_PROCESS = 2**40


def accumulated(episode: Episode, settings: ZslSettings, in_process: int = _IN_PROCESS) -> EszslStatistics | None:
    """The statistics that `feature_statistics` gives, by Ray Data, or None where `PreparedEpisode` had better count.

    Args:
        episode: the problem; its training features must pickle as locations to be worth sending.
        settings: of the evaluation.
        in_process: multiply-adds of the product of features up to which one process does it.
    """
    if len(episode.train) * episode.feature_dim**2 <= in_process:
        return None
    total = EszslStatistics(episode.feature_dim, int(episode.seen_C.sum()))
    for part in _parts(episode, settings):
        total.merge(part)
    return total


def _parts(episode: Episode, settings: ZslSettings) -> Iterator[EszslStatistics]:
    import ray

    from vgse.pipeline.placement import counting_ask
    from vgse.pipeline.session import capacity, connect

    connect()
    ask = counting_ask(episode.feature_dim, capacity())
    rows, workers = len(episode.train), ask.count
    # Two slices per CPU: a slice's answer is as large as a whole one's, so few of them travel.
    size = max(settings.chunk, -(-rows // (2 * workers)))
    slices = [pa.table({"start": [part.start], "stop": [part.stop]}) for part in chunks(rows, size)]
    shared = ray.put((episode.train, episode.seen_positions(episode.train.labels_N)))
    count = partial(_count, shared=shared, classes=int(episode.seen_C.sum()), settings=settings)
    counted = ray.data.from_arrow(slices).map_batches(
        count,
        batch_size=1,
        batch_format="pyarrow",
        **ask.remote(),
    )
    for row in counted.iter_rows():
        part = EszslStatistics(episode.feature_dim, int(episode.seen_C.sum()))
        part.gram_FF = np.frombuffer(row["gram"]).reshape(part.gram_FF.shape).copy()
        part.sums_SF = np.frombuffer(row["sums"]).reshape(part.sums_SF.shape).copy()
        part.count_S = np.frombuffer(row["count"], np.int64).copy()
        yield part


def _count(batch: pa.Table, *, shared: Any, classes: int, settings: ZslSettings) -> pa.Table:
    import ray

    from vgse.pipeline.session import limit_threads

    limit_threads(1)
    images: ImageSet
    images, labels_N = ray.get(shared)
    part, plain = EszslStatistics(images.features_NF.shape[1], classes), FeatureMap(settings.l2_features)
    for entry in batch.to_pylist():
        for rows in chunks(entry["stop"] - entry["start"], settings.chunk):
            here = slice(entry["start"] + rows.start, entry["start"] + rows.stop)
            part.add(plain(images.features_NF[here]), labels_N[here])
    return pa.table(
        {"gram": [part.gram_FF.tobytes()], "sums": [part.sums_SF.tobytes()], "count": [part.count_S.tobytes()]}
    )
