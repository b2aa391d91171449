"""encode's forward passes on one CPU core against the plain call: all images of a batch at once.

    uv run python benchmarks/bench_encode.py

Both get the same pixels, weights, precision and one thread, each in a process of its own, in turns; the best round
counts, by processor time. What differs is what vgse does on CPUs: CPU_IMAGES at a time, and memory that is kept. Writes
benchmarks/results/encode.md; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results/encode.md"
CASES = {"resnet50": ("resnet50", 224), "efficientnet_lite0": ("timm/tf_efficientnet_lite0", 96), "tiny": ("tiny", 64)}
SIZES, ROUNDS = (64, 256), 3


def measured(how: str, name: str, images: int) -> tuple[float, float]:
    """Milliseconds of processor time per image, and the peak of memory in MB, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_encode, how, name, images).result()


def _encode(how: str, name: str, images: int) -> tuple[float, float]:
    import torch

    from vgse.clustering.backbones import build_backbone
    from vgse.clustering.precision import fast_bf16
    from vgse.pipeline.backbone import encode_pixels
    from vgse.pipeline.session import keep_freed_memory

    backbone, side = CASES[name]
    device = torch.device("cpu")
    torch.set_num_threads(1)
    network = build_backbone(backbone, weights=None, pretrained=False, input_size=side).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (images, side, side, 3)).astype(np.uint8)

    def plain() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16(device)):
            return network(torch.from_numpy(pixels)).float().numpy().astype(np.float16)

    if how == "ours":
        keep_freed_memory()
    times = []
    for _ in range(1 + ROUNDS):
        started = time.process_time()
        plain() if how == "plain" else encode_pixels(network, pixels, device)
        times.append(time.process_time() - started)
    return 1000 * min(times[1:]) / images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(found: dict[str, dict[int, dict[str, tuple[float, float]]]]) -> str:
    """The results page."""
    rows = "\n".join(
        f"| {name} at {CASES[name][1]} px | {images} | {of['plain'][0]:.2f} | {of['ours'][0]:.2f} "
        f"| **{of['plain'][0] / of['ours'][0]:.2f}** | {of['plain'][1]:,.0f} | {of['ours'][1]:,.0f} |"
        for name, sizes in found.items()
        for images, of in sizes.items()
    )
    return f"""# encode's forward passes on a CPU

One core, processor time per image, the best of {ROUNDS} rounds; the same pixels, weights, precision (bfloat16 where the
CPU computes it natively) and thread. *Plain* passes the whole batch at once. vgse passes 32 images at a time, whose
activations stay near the cache, and has the C library keep what is freed: by default glibc gives every piece of more
than 32 MB back to the system, which fills it with zeros before it hands it out again.

Measured {date.today()} on one of {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_encode.py`.

| backbone | batch | plain, ms | vgse, ms | plain / vgse | plain, peak MB | vgse, peak MB |
|---|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    """Measures all, writes the page, prints the JSON line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found: dict[str, dict[int, dict[str, tuple[float, float]]]] = {}
    for name in CASES:
        for images in SIZES:
            of = {}
            for _ in range(2):
                for how in ("plain", "ours"):
                    of[how] = min(of.get(how, (1e9, 0.0)), measured(how, name, images))
            found.setdefault(name, {})[images] = of
            print(name, images, of, flush=True)
    RESULTS.write_text(report(found))
    ratios = {
        f"{name}_{n}": round(of["plain"][0] / of["ours"][0], 2) for name, s in found.items() for n, of in s.items()
    }
    print(json.dumps({"plain_over_ours": ratios}))


if __name__ == "__main__":
    main()
