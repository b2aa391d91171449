"""What one image, patch or class costs each stage on one core, at ImageNet's sizes: what `vgse check --on` plans by.

    uv run python benchmarks/bench_unit_costs.py --source FOLDER

FOLDER holds `data/imagenet_samples` (photographs). Everything runs in this process on one thread, without Ray and
without an object store: what these add is measured elsewhere. Processor time per unit, the best of three passes, at two
sizes each, which should agree. Writes `vgse/pipeline/fleet/measured_costs.yaml` and `results/unit_costs.md`; the last
line is one JSON object.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

ROOT = Path(__file__).parents[1]
COSTS, RESULTS = ROOT / "vgse/pipeline/fleet/measured_costs.yaml", ROOT / "benchmarks/results/unit_costs.md"
F, K, SEEN, UNSEEN, WORDS, SIDE, PATCHES = 2048, 500, 1000, 20_842, 300, 224, 9
# What the figures are of, and the units that they count.
SAID = {
    "crop_image": "decode a photograph, propose 9 boxes by watershed, store it at short side 256",
    "cut_image": "decode a stored image and cut it into 9 patches and the whole at 224 px",
    "forward_row": "one 224 px input through ResNet-50",
    "train_row": "one patch through a training step of the heads on cached features (F 2048, K 500, 1,000 classes)",
    "embed_row": "one patch feature through the trained heads",
    "relate_class": "one unseen class related to 1,000 seen ones (300-d, alpha 0, ridge 0.5)",
    "count_row": "one image of F 4096 added to the normal equations",
    "score_row": "one image of F 4096 scored against 21,842 classes",
}


def best(work: Callable[[], int], passes: int = 3) -> float:
    """Processor seconds per unit; `work` returns how many units it did."""
    figures = []
    for _ in range(passes):
        started = time.process_time()
        units = work()
        figures.append((time.process_time() - started) / units)
    return min(figures)


def photographs(source: Path, count: int) -> list[bytes]:
    """The first `count` photographs."""
    return [path.read_bytes() for path in sorted((source / "data/imagenet_samples").glob("*.JPEG"))[:count]]


def crop_image(source: Path, size: int) -> float:
    """Seconds per photograph."""
    data = photographs(source, size)
    return best(lambda: len(stored(data)))


def stored(data: list[bytes]) -> list[tuple[bytes, np.ndarray]]:
    """What crop keeps of photographs: its rows' images and boxes."""
    from vgse.config import CropConfig
    from vgse.pipeline.crop_shard import crop_image as crop_one

    row = SimpleNamespace(image_id="", class_name="", uri="", role="train", rank=0)
    rows = [crop_one(row, each, CropConfig()) for each in data]
    return [(each["image"], each["boxes"]) for each in rows]


def cut_image(source: Path, size: int) -> float:
    """Seconds per stored image."""
    from vgse.pipeline.pixels import pixel_chunks

    kept = stored(photographs(source, size))
    shard = pa.table({"image": [image for image, _ in kept], "boxes": [boxes for _, boxes in kept]})
    every = [True] * len(kept)

    def work() -> int:
        for _ in pixel_chunks(shard, size=SIDE, whole=every, patches=every, images=16, threads=1):
            pass
        return len(kept)

    return best(work)


def forward_row(source: Path, size: int) -> float:
    """Seconds per input."""
    from vgse.clustering.backbones import build_backbone
    from vgse.pipeline.backbone import encode_pixels
    from vgse.pipeline.session import keep_freed_memory

    keep_freed_memory()
    network = build_backbone("resnet50", weights=None, pretrained=False, input_size=SIDE).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (size, SIDE, SIDE, 3), np.uint8)
    return best(lambda: len(encode_pixels(network, pixels, torch.device("cpu"))))


def heads() -> object:
    """The clustering network on cached features."""
    from vgse.clustering.network import ClusterNetwork

    return ClusterNetwork(F, K, SEEN, WORDS)


def train_row(source: Path, size: int) -> float:
    """Seconds per patch: an epoch of the training loop with its checkpoint."""
    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.training import FitSettings, InMemoryBatches, fit
    from vgse.storage import Storage

    random = np.random.default_rng(0)
    features, labels = random.standard_normal((size, F)).astype(np.float16), random.integers(0, SEEN, size)
    words = torch.from_numpy(random.standard_normal((SEEN, WORDS)).astype(np.float32))
    # The bank is full from the third of these epochs on, which is the one that counts.
    settings = FitSettings(epochs=3, global_batch=8192, bank_size=16384)
    marks = [time.process_time()]
    with tempfile.TemporaryDirectory() as folder:
        fit(
            heads(), InMemoryBatches(features, labels, 8192, 0, 1, 0), words, settings,
            checkpoints=Checkpoints(Storage(), folder), on_epoch=lambda _: marks.append(time.process_time()),
        )  # fmt: skip
    return (marks[-1] - marks[-2]) / size


def embed_row(source: Path, size: int) -> float:
    """Seconds per patch feature."""
    network, rows = heads(), torch.randn(size, F)

    def work() -> int:
        with torch.inference_mode():
            return len(network.assign(rows))

    return best(work)


def relate_class(source: Path, size: int) -> float:
    """Seconds per unseen class."""
    from vgse.relation import PreparedRelation, RelationSettings

    random = np.random.default_rng(0)
    vectors = random.standard_normal((SEEN + size, WORDS))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prepared = PreparedRelation(vectors[:SEEN], RelationSettings("simplex", 0.0, 0.5))
    prepared(vectors[SEEN : SEEN + 8])
    return best(lambda: len(prepared(vectors[SEEN:]).method_U))


def count_row(source: Path, size: int) -> float:
    """Seconds per image."""
    from vgse.zsl.eszsl import EszslStatistics

    random, statistics = np.random.default_rng(0), EszslStatistics(2 * F, SEEN)
    rows, labels = random.standard_normal((size, 2 * F)).astype(np.float32), random.integers(0, SEEN, size)

    def work() -> int:
        statistics.add(rows, labels)
        return size

    return best(work)


def score_row(source: Path, size: int) -> float:
    """Seconds per image: its features times V, then against all classes."""
    from vgse.zsl.scores import top_of_queries

    random = np.random.default_rng(0)
    v_FK, rows = (random.standard_normal((n, m)).astype(np.float32) for n, m in ((2 * F, K), (size, 2 * F)))
    embeddings = random.standard_normal((SEEN + UNSEEN, K)).astype(np.float32)
    seen = np.arange(SEEN + UNSEEN) < SEEN

    def work() -> int:
        top_of_queries(rows @ v_FK, embeddings, seen)
        return size

    return best(work)


# The two sizes of each.
MEASURED = {
    crop_image: (60, 240), cut_image: (60, 240), forward_row: (16, 32), train_row: (8_192, 16_384),
    embed_row: (8_192, 32_768), relate_class: (1_000, 4_000), count_row: (128, 512), score_row: (256, 1_024),
}  # fmt: skip


def report(found: dict[str, list[float]]) -> str:
    """The results page."""
    sizes = {work.__name__: sizes for work, sizes in MEASURED.items()}
    rows = "\n".join(
        f"| {name} | {SAID[name]} | {sizes[name][0]:,} | {1e3 * small:.3g} | {sizes[name][1]:,} | {1e3 * large:.3g} |"
        for name, (small, large) in found.items()
    )
    return f"""# What a unit costs each stage on one core

Processor time on one thread, milliseconds per unit, the best of three passes (train_row: the third epoch), at two
sizes. No Ray, no object store. `vgse check CONFIG --on cluster.yaml` plans by the larger size's figures.

Measured {date.today()} on one of {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU, with
`uv run python benchmarks/bench_unit_costs.py`.

| unit | what | units | ms each | units | ms each |
|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    """Measures, writes both files, prints the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    found = {work.__name__: [work(options.source, size) for size in sizes] for work, sizes in MEASURED.items()}
    costs = {name: float(f"{large:.4g}") for name, (_, large) in found.items()}
    head = "# Seconds of one core per unit, written by benchmarks/bench_unit_costs.py (see its page of results).\n"
    COSTS.write_text(head + yaml.safe_dump(costs, sort_keys=False))
    RESULTS.write_text(report(found))
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
