"""Which number formats a device is fast in."""

import torch


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is done in hardware there; emulated it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
