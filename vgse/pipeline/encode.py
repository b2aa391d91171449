"""encode: pixels become features of the frozen backbone, computed once; every sweep lives on them.

Two folders of feature shards: `features/patches` for training, `features/images` for the evaluation, whose input size
is a setting of its own. In `finetune` mode the features come from the trained networks instead (see embed), and this
stage has nothing to do.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from vgse.pipeline.accounts import committed_images
from vgse.pipeline.features import PARTS, feature_name, patches_wanted
from vgse.pipeline.plan import Plan
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.receipts import stage_fingerprints


def outputs(plan: Plan) -> list[str]:
    """What this stage writes anew: the folders that were made with other settings, or never."""
    return [plan.uri("features", part) for part in PARTS if not _up_to_date(plan, part)]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Encodes every committed image for the evaluation, and the patches of those that some problem trains on."""
    frame = committed_images(plan)
    if plan.config.cluster.mode == "finetune":
        return StageOutcome(len(frame), 0, details={"note": "finetune: features come from the trained networks"})
    frame = frame.assign(wanted=patches_wanted(frame, plan))
    present = [set(plan.storage.list_names(plan.uri("features", part))) for part in PARTS]
    missing = [name for name in frame.shard.unique() if not all(feature_name(name) in names for names in present)]
    todo = frame[frame.shard.isin(missing)]
    progress.start(len(frame), "images", done=len(frame) - len(todo))
    nodes: dict[str, int] = {}
    if missing:
        # What is added now is of these settings, so the folder no longer serves as more than they ask for.
        for part in PARTS:
            plan.storage.write_bytes(_marker(plan, part), plan.fingerprints[_FINGERPRINT[part]].encode())
        nodes = _encode(plan, todo, progress)
    return StageOutcome(len(frame), len(frame), details={"with_patches": int(frame.wanted.sum())}, nodes=nodes)


_FINGERPRINT = {"patches": "patch_features", "images": "image_features"}


def _sufficient(plan: Plan, part: str) -> set[bytes]:
    """Fingerprints of what serves as this part: shards with both kinds of image features also serve as either."""
    evaluate = plan.config.evaluate.model_copy(update={"features": "both"})
    both = stage_fingerprints(plan.config.model_copy(update={"evaluate": evaluate}), plan.inputs)
    return {known[_FINGERPRINT[part]].encode() for known in (plan.fingerprints, both)}


def _marker(plan: Plan, part: str) -> str:
    return plan.uri("features", part, "fingerprint")


def _up_to_date(plan: Plan, part: str) -> bool:
    marker = _marker(plan, part)
    return plan.storage.exists(marker) and plan.storage.read_bytes(marker) in _sufficient(plan, part)


def _encode(plan: Plan, todo: pd.DataFrame, progress: Progress) -> dict[str, int]:
    """Encodes the shards of `todo`; how many each node did."""
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.board import Board
    from vgse.pipeline.encode_shard import EncodeShard, EncodeTask

    (ask,) = session.asks("encode", plan.config)
    blocks = shard_blocks(todo)
    board = Board()
    encoded = ray.data.from_arrow(blocks).map_batches(
        EncodeShard,
        fn_constructor_kwargs={
            "storage": plan.storage,
            "run": plan.run,
            "task": EncodeTask.of(plan.config),
            "threads": max(1, int(ask.cpus)),
            "board": board,
        },
        batch_size=1,
        concurrency=min(ask.count, len(blocks)),
        batch_format="pyarrow",
        **ask.remote(),
    )
    for row in board.rows(encoded):
        progress.advance(row["rows"])
    return board.nodes()


def shard_blocks(todo: pd.DataFrame) -> list[pa.Table]:
    """One block per shard: its name and, for every image, whether its patches are wanted."""
    return [
        pa.table({"shard": [name], "wanted": [rows.wanted.tolist()]})
        for name, rows in todo.groupby("shard", sort=False)
    ]
