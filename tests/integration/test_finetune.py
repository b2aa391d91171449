"""Fine-tuning on real Ray: every patch once an epoch, and the same losses on one worker and on two."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from vgse.cli import run
from vgse.config_loading import parse_config
from vgse.errors import StorageError
from vgse.patches import cut_patches, decode_stored
from vgse.storage import Storage

SIZE, PATCHES = 32, 9


@pytest.fixture(scope="module")
def cropped(ray_session, tmp_path_factory, demo_values):
    """A run that was cropped and its configuration's values."""
    folder = tmp_path_factory.mktemp("finetune") / "run"
    values = demo_values(
        folder,
        cluster={"epochs": 2, "batch_size": 200, "mixed_precision": False, "validation_fit": False},
        resources={"workers": 1},
    )
    with redirect_stdout(StringIO()):
        run(parse_config(values, "test.yaml"), ["crop"])
    return folder, values


def _layout(folder):
    """Layout of all images of the shards, and the patches as they should come: a digest of pixels and label each."""
    from vgse.pipeline.patch_windows import patch_layout

    tables = {path.name: pq.read_table(path) for path in sorted((folder / "patches").iterdir())}
    frame = pd.concat([table.select(["class_name"]).to_pandas().assign(shard=n) for n, table in tables.items()])
    frame = frame.reset_index(drop=True)
    chosen = np.arange(len(frame)) % 5 != 0
    labels = pd.factorize(frame.class_name)[0][chosen]
    expected, row = [], 0
    for table in tables.values():
        for image, boxes in zip(table["image"], table["boxes"], strict=True):
            if chosen[row]:
                boxes_T4 = np.array(boxes.as_py(), np.int32).reshape(-1, 4)
                label = labels[chosen[:row].sum()]
                expected += [
                    _digest(patch, label) for patch in cut_patches(decode_stored(image.as_py()), boxes_T4, SIZE)
                ]
            row += 1
    return patch_layout(frame, chosen, labels), expected


def _digest(pixels: np.ndarray, label: int) -> str:
    return hashlib.sha1(np.ascontiguousarray(pixels).tobytes() + bytes([int(label)])).hexdigest()


def _epoch(cropped, layout, augment: float, world_size: int, first_step: int = 0, cpus: float = 1.0) -> list[list[str]]:
    """Every global batch of epoch 1 as digests, streamed by Ray Data for each rank in turn."""
    from vgse.pipeline.board import Board
    from vgse.pipeline.patch_stream import streamed_batches

    folder, values = cropped
    cluster = parse_config({**values, "cluster": {**values["cluster"], "augment": augment}}, "test.yaml").cluster
    board = Board()
    steps: list[list[str]] = []
    for rank in range(world_size):
        source = streamed_batches(
            Storage(), str(folder), board, cluster, layout=layout, patches=PATCHES, size=SIZE, seed=0, rank=rank,
            world_size=world_size, cpus=cpus,
        )  # fmt: skip
        for number, batch in enumerate(source.epoch(1, first_step)):
            if rank == 0:
                steps.append([])
            pairs = zip(batch.inputs.numpy(), batch.labels_B.numpy(), strict=True)
            steps[number] += [_digest(pixels, label) for pixels, label in pairs]
    return steps


def test_two_ranks_get_every_patch_once_in_the_batches_of_one(cropped):
    layout, expected = _layout(cropped[0])
    alone, both = _epoch(cropped, layout, 0.0, 1), _epoch(cropped, layout, 0.0, 2)
    assert Counter(digest for step in both for digest in step) == Counter(expected)
    assert both == alone
    # Augmented, they are others, and again the same wherever they were cut and wherever the epoch was entered.
    varied = _epoch(cropped, layout, 0.5, 2)
    assert _epoch(cropped, layout, 0.5, 1, first_step=3, cpus=0.0) == varied[3:]
    assert not set(expected) & {digest for step in varied for digest in step}


def test_a_shard_that_has_gone_leaves_its_error_for_the_driver(cropped):
    from vgse.pipeline.board import Board
    from vgse.pipeline.patch_stream import streamed_batches

    folder, values = cropped
    layout = replace(_layout(folder)[0], shards=tuple(f"gone-{name}" for name in _layout(folder)[0].shards))
    board = Board()
    source = streamed_batches(
        Storage(), str(folder), board, parse_config(values, "test.yaml").cluster, layout=layout, patches=PATCHES,
        size=SIZE, seed=0, rank=0, world_size=1, cpus=1.0,
    )  # fmt: skip
    with pytest.raises(Exception, match="gone-part"):
        next(source.epoch(0))
    assert isinstance(board.error(), StorageError)
    assert "does not exist" in board.error().message


def test_the_losses_of_an_epoch_are_the_same_on_one_and_two_workers(cropped):
    from vgse.pipeline.session import cpus

    folder, values = cropped
    found = []
    # Two workers that hold every CPU leave none to the tasks that cut for them.
    for resources in ({"workers": 1}, {"workers": 2, "cpus_per_worker": max(1, cpus() // 2)}):
        with redirect_stdout(StringIO()):
            config = parse_config({**values, "resources": resources}, "test.yaml")
            run(config, ["encode", "cluster"])
        found.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
        # Another number of workers is no reason to train again, so all that was trained is taken away.
        (folder / "receipts" / "cluster.json").unlink()
        shutil.rmtree(folder / "clustering")
    alone, both = found
    assert [(line["fit"], line["epoch"]) for line in alone] == [("split-0-final", epoch) for epoch in (1, 2)]
    for one, two in zip(alone, both, strict=True):
        assert one["seconds"] != two["seconds"], "the second fit was not trained anew"
        assert (one["fit"], one["epoch"], one["rows"]) == (two["fit"], two["epoch"], two["rows"])
        for term in ("loss", "loss_clu", "loss_pel", "loss_cls", "loss_sem"):
            assert one[term] == pytest.approx(two[term], abs=1e-4)
