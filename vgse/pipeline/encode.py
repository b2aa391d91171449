"""encode: pixels become features of the frozen backbone, computed once; every sweep lives on them.

In `finetune` mode the features come from the trained networks instead (see embed), and this stage has nothing to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from vgse.errors import StorageError, WeightsError
from vgse.pipeline.crop import committed_images
from vgse.pipeline.features import feature_name, pack, patches_wanted
from vgse.pipeline.pixels import pixel_chunks
from vgse.pipeline.plan import Plan
from vgse.pipeline.stage import Progress, StageOutcome
from vgse.storage import Storage, join, protocol


def outputs(plan: Plan) -> list[str]:
    """What this stage writes."""
    return [plan.uri("features")]


def run(plan: Plan, progress: Progress) -> StageOutcome:
    """Encodes every committed image: the whole image always, its patches where some problem trains on it."""
    frame = committed_images(plan)
    if plan.config.cluster.mode == "finetune":
        return StageOutcome(len(frame), 0, details={"note": "finetune: features come from the trained networks"})
    frame = frame.assign(wanted=patches_wanted(frame, plan))
    present = set(plan.storage.list_names(plan.uri("features")))
    missing = [name for name in frame.shard.unique() if feature_name(name) not in present]
    todo = frame[frame.shard.isin(missing)]
    progress.start(len(frame), "images", done=len(frame) - len(todo))
    if missing:
        _encode(plan, todo, progress)
    crops = int(len(frame) + frame.wanted.sum() * plan.config.crop.patches)
    return StageOutcome(len(frame), len(frame), details={"crops": crops, "with_patches": int(frame.wanted.sum())})


def _encode(plan: Plan, todo: pd.DataFrame, progress: Progress) -> None:
    import ray

    from vgse.pipeline import session
    from vgse.pipeline.board import Board

    encode = plan.config.encode
    on_gpu = session.gpus(plan.config.resources)
    # One forward pass per CPU beats one over all CPUs; on GPUs each worker cuts pixels with its share of the CPUs.
    workers, each, gpu = (
        session.worker_shape(plan.config.resources, reading=False) if on_gpu else (session.cpus(), 1.0, 0)
    )
    names = list(todo.shard.unique())
    wanted = [todo.wanted[todo.shard == name].tolist() for name in names]
    board = Board()
    dataset = ray.data.from_arrow([pa.table({"shard": [n], "wanted": [w]}) for n, w in zip(names, wanted, strict=True)])
    encoded = dataset.map_batches(
        EncodeShard,
        fn_constructor_kwargs={
            "storage": plan.storage,
            "run": plan.run,
            "backbone": encode.backbone,
            "weights": encode.weights,
            "input_size": encode.input_size,
            "batch_size": encode.batch_size,
            "threads": max(1, int(each)),
            "board": board,
        },
        batch_size=1,
        concurrency=min(workers, len(names)),
        num_cpus=each,
        num_gpus=gpu,
        batch_format="pyarrow",
    )
    for row in board.rows(encoded):
        progress.advance(row["rows"])


def weights_path(storage: Storage, weights: str) -> Path | None:
    """The local file of `encode.weights`, None for `pretrained` and `none`."""
    if weights in {"pretrained", "none"}:
        return None
    if protocol(weights) == "file":
        # Whether it is there is found where it is read, which knows how to get it.
        return Path(storage.absolute(weights))
    try:
        return storage.local_copy(weights)
    except StorageError as error:
        raise WeightsError(f"encode.weights: {error.message}", error.remedy) from None


def check_backbone(plan: Plan) -> str:
    """Builds the backbone once on this machine, so that weights that do not fit are found before any work starts.

    Returns:
        What it is, for `vgse check`.

    Raises:
        UserError: an unknown name, missing weights, or weights of another architecture.
    """
    from vgse.clustering.backbones import build_backbone

    encode = plan.config.encode
    spec = build_backbone(
        encode.backbone,
        weights=weights_path(plan.storage, encode.weights),
        pretrained=encode.weights == "pretrained",
        input_size=encode.input_size,
    ).spec
    return (
        f"{spec.name}: {spec.feature_dim} features at {spec.input_size} x {spec.input_size}, weights {encode.weights}"
    )


class EncodeShard:
    """A worker that holds the backbone and turns patch shards into feature shards."""

    def __init__(
        self,
        storage: Storage,
        run: str,
        backbone: str,
        weights: str,
        input_size: int | None,
        batch_size: int,
        threads: int,
        board: Any,
    ) -> None:
        import torch

        from vgse.clustering.backbones import build_backbone
        from vgse.pipeline.session import limit_threads

        limit_threads(threads)
        self._storage, self._run, self._batch, self._threads = storage, run, batch_size, threads
        self._board = board
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with board.reporting():
            network = build_backbone(
                backbone,
                weights=weights_path(storage, weights),
                pretrained=weights == "pretrained",
                input_size=input_size,
            )
        self._size = network.spec.input_size
        self._network = network.eval().to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Encodes the shards named in `batch`; a row says how many images each held."""
        with self._board.reporting():
            rows = [self._shard(entry["shard"], entry["wanted"]) for entry in batch.to_pylist()]
        return pa.table({"rows": rows})

    def _shard(self, name: str, wanted: list[bool]) -> int:
        shard = self._storage.read_table(join(self._run, "patches", name), ["image", "boxes"])
        patches = len(shard["boxes"][0]) // 4
        whole, parts, patch_rows = [], [], []
        images = max(1, self._batch // (patches + 1))
        chunks = pixel_chunks(
            shard, size=self._size, whole=[True] * shard.num_rows, patches=wanted, images=images, threads=self._threads
        )
        for chunk in chunks:
            features = encode_pixels(self._network, chunk.pixels, self._device)
            first = len(chunk.whole_rows)
            whole.append(features[:first])
            parts.append(features[first:].reshape(len(chunk.patch_rows), patches, -1))
            patch_rows.append(chunk.patch_rows)
        data = pack(
            {
                "whole": np.concatenate(whole),
                "patches": np.concatenate(parts),
                "patch_rows": np.concatenate(patch_rows),
            }
        )
        self._storage.write_bytes(join(self._run, "features", feature_name(name)), data)
        return shard.num_rows


def encode_pixels(network: Any, pixels_M: np.ndarray, device: Any) -> np.ndarray:
    """Features (M, F) float16 of uint8 pixels (M, size, size, 3), in bf16 where the device computes it natively."""
    import torch

    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        features = network(torch.from_numpy(pixels_M).to(device))
    return features.float().cpu().numpy().astype(np.float16)


def fast_bf16(device: Any) -> bool:
    """Whether bf16 is done in hardware there; emulated bf16 is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
