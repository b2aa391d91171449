"""The frozen backbone in this pipeline: where its weights lie, whether they fit, and running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vgse.errors import StorageError, WeightsError
from vgse.pipeline.plan import Plan
from vgse.storage import Storage, protocol

# Images of one forward pass on a CPU: more took more memory and were not notably faster on one core, with ResNet-50 at
# 224 px and EfficientNet-Lite0 at 96 px (benchmarks/bench_encode.py has this number against the whole batch).
CPU_IMAGES = 32


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


def features_of(network: Any, pixels_M: np.ndarray, device: Any) -> np.ndarray:
    """Features (M, F) float32 of uint8 pixels (M, size, size, 3); on CPUs CPU_IMAGES at a time."""
    import torch

    parts = torch.from_numpy(pixels_M).split(CPU_IMAGES if device.type == "cpu" else max(1, len(pixels_M)))
    with torch.inference_mode():
        return torch.cat([network(part.to(device)).float() for part in parts]).cpu().numpy()


def encode_pixels(network: Any, pixels_M: np.ndarray, device: Any) -> np.ndarray:
    """Features (M, F) float16 of uint8 pixels (M, size, size, 3), in bf16 where the device computes it natively."""
    import torch

    from vgse.clustering.precision import fast_bf16

    with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
        return features_of(network, pixels_M, device).astype(np.float16)
