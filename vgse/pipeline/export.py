"""The published (xlsa17) files of the class splits, for existing zero-shot programs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vgse.pipeline.features import episode_rows
from vgse.pipeline.image_features import image_features
from vgse.pipeline.plan import Plan, Problem

# A MATLAB 5 variable ends at 2 GiB.
_MAT_LIMIT = 2**31 - 1


def write_features_mat(plan: Plan, frame: pd.DataFrame, problem: Problem, folder: str) -> bool:
    """Writes features.mat of the first class split: every committed image, sorted by id.

    Args:
        plan: the run.
        frame: committed images in shard order.
        problem: the problem whose labels and features are written.
        folder: where its feature shards lie.

    Returns:
        False where the features do not fit the format; the Parquet and safetensors files hold them all the same.
    """
    from vgse.zsl.xlsa17 import features_mat

    features = image_features(plan, frame, folder, np.ones(len(frame), bool))
    if features.size * 4 > _MAT_LIMIT:
        return False
    order = _order(frame)
    data = features_mat(features[order], _labels(frame, problem)[order], frame.image_id.to_numpy()[order].tolist())
    plan.storage.write_bytes(plan.uri("features.mat"), data)
    return True


def write_class_embeddings_mat(plan: Plan, problem: Problem, frame: pd.DataFrame, embeddings_CK: np.ndarray) -> None:
    """Writes class_embeddings_splits.mat: `att` (K, C) and the image numbers of every part, matching features.mat.

    Classes stand in the main problem's order for every problem, since that is what the labels of features.mat count.
    """
    from vgse.zsl.xlsa17 import class_embeddings_mat

    order = _order(frame)
    train, test_seen, test_unseen = (rows[order] for rows in episode_rows(frame, problem, plan))
    split = plan.splits[problem.split]
    in_val = frame.class_name.isin(split.val).to_numpy()[order]
    main = next(each for each in plan.problems() if each.main)
    row_of = {name: row for row, name in enumerate(problem.classes)}
    data = class_embeddings_mat(
        embeddings_CK[[row_of[name] for name in main.classes]],
        list(main.classes),
        trainval=np.flatnonzero(train),
        train=np.flatnonzero(train & ~in_val),
        val=np.flatnonzero(train & in_val),
        test_seen=np.flatnonzero(test_seen),
        test_unseen=np.flatnonzero(test_unseen),
    )
    plan.storage.write_bytes(plan.problem_uri(problem, "class_embeddings_splits.mat"), data)


def _order(frame: pd.DataFrame) -> np.ndarray:
    return np.argsort(frame.image_id.to_numpy(object), kind="stable")


def _labels(frame: pd.DataFrame, problem: Problem) -> np.ndarray:
    row_of = {name: i for i, name in enumerate(problem.classes)}
    return frame.class_name.map(row_of).to_numpy(np.int64)
