"""Which number formats a device is fast in, and which one a backbone runs in."""

from contextlib import AbstractContextManager

import torch


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is done in hardware there; emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def backbone_precision(device: torch.device, mixed: str) -> AbstractContextManager:
    """A context in which a backbone runs in bfloat16 or in float32; what it gives out is float32 either way.

    Args:
        device: that it runs on.
        mixed: `auto` (bfloat16 where it is done in hardware), `true` or `false`.
    """
    wanted = mixed == "true" or (mixed == "auto" and fast_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)
