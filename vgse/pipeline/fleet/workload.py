"""How much work a run is, from its configuration and counts of images and classes: nothing is listed or read."""

from __future__ import annotations

from dataclasses import dataclass

from vgse.config import Config
from vgse.pipeline.fleet.costs import UnitCosts
from vgse.pipeline.placement import feature_dim

# Bytes of a stored image with its boxes (short side 256, measured on photographs), and of one that is to be cropped.
STORED_BYTES, PHOTOGRAPH_BYTES = 36_000, 110_000
# At which the measured figures hold.
_DIM, _CLUSTERS, _SEEN, _CLASSES, _PATCHES, _SIDE = 2048, 500, 1000, 21_842, 9, 224


@dataclass(frozen=True)
class Counts:
    """Images in all, those of them that only test, classes, bytes per image as it lies in the bucket."""

    images: int
    test_images: int
    seen: int
    unseen: int
    bytes_per_image: int = PHOTOGRAPH_BYTES

    @property
    def train_images(self) -> int:
        """Images that are trained on, at most."""
        return self.images - self.test_images


@dataclass(frozen=True)
class Work:
    """What a stage has to do: seconds of one core, or of one GPU with `cpu_seconds` beside it; what it reads and
    writes in bytes; what each of its nodes keeps a copy of."""

    stage: str
    tasks: int
    cpu_seconds: float
    gpu_seconds: float
    reads: float
    writes: float
    kept: float = 0.0


def workload(config: Config, counts: Counts, costs: UnitCosts, *, gpu: bool) -> dict[str, Work]:
    """Every stage's work.

    Args:
        config: the run's.
        counts: of its data.
        costs: of a unit.
        gpu: whether backbones and training run on GPUs.
    """
    work = [make(config, counts, costs, gpu) for make in (_encode, _cluster, _embed)]
    work += [make(config, counts, costs) for make in (_crop, _relate, _evaluate)]
    return {each.stage: each for each in work}


def patch_feature_bytes(config: Config, counts: Counts) -> float:
    """Bytes of the patch features of all training images, float16."""
    oracle = min(counts.images, config.encode.oracle_images * counts.unseen)
    images = min(counts.images, counts.train_images + (oracle if counts.test_images else 0))
    return 2.0 * images * config.crop.patches * feature_dim(config)


def image_feature_bytes(config: Config, counts: Counts) -> float:
    """Bytes of the evaluation's features of all images, float16."""
    return 2.0 * counts.images * _image_dim(config)


def _image_dim(config: Config) -> int:
    return feature_dim(config) * (2 if config.evaluate.features == "both" else 1)


def fits(config: Config) -> int:
    """Networks that are trained: the final ones and, with validation_fit, one per fold for the choices."""
    return _rounds(config) * (1 + (config.evaluate.folds if config.cluster.validation_fit else 0))


def _rounds(config: Config) -> int:
    return config.data.class_splits * config.seeds


def _problems(config: Config) -> int:
    return _rounds(config) * (1 + config.evaluate.folds)


def _shards(config: Config, counts: Counts) -> int:
    return -(-counts.images // config.crop.images_per_shard(STORED_BYTES))


def _crop(config: Config, counts: Counts, costs: UnitCosts) -> Work:
    return Work("crop", _shards(config, counts), counts.images * costs.crop_image, 0,
                counts.images * counts.bytes_per_image, counts.images * STORED_BYTES)  # fmt: skip


def _forward(config: Config, counts: Counts, costs: UnitCosts, gpu: bool) -> tuple[float, float]:
    """(seconds of a core, seconds of a GPU) of cutting all images and passing them and their patches through the
    backbone; other backbones than ResNet-50 are taken for one."""
    whole = 0 if config.evaluate.features == "patches" else 1
    patches = config.crop.patches if config.evaluate.features != "whole" else 0
    rows = counts.images * whole + max(counts.images * patches, counts.train_images * config.crop.patches)
    scale = ((config.encode.input_size or _SIDE) / _SIDE) ** 2
    cut = counts.images * costs.cut_image * (1 + config.crop.patches) / (1 + _PATCHES)
    on_gpu = scale * rows * costs.gpu_forward_row if gpu else 0.0
    return cut + (0.0 if gpu else scale * rows * costs.forward_row), on_gpu


def _encode(config: Config, counts: Counts, costs: UnitCosts, gpu: bool) -> Work:
    if config.cluster.mode == "finetune":
        return Work("encode", 0, 0, 0, 0, 0)
    cpu, on_gpu = _forward(config, counts, costs, gpu)
    writes = patch_feature_bytes(config, counts) + image_feature_bytes(config, counts)
    return Work("encode", _shards(config, counts), cpu, on_gpu, counts.images * STORED_BYTES, writes)


def _cluster(config: Config, counts: Counts, costs: UnitCosts, gpu: bool) -> Work:
    cluster, dim = config.cluster, feature_dim(config)
    rows = float(counts.train_images * config.crop.patches * cluster.epochs * fits(config))
    if cluster.mode == "finetune":
        # Forward and backward cost three forward passes.
        cut = rows / config.crop.patches * costs.cut_image
        cpu, on_gpu = cut + (0 if gpu else 3 * rows * costs.forward_row), 3 * rows * costs.gpu_forward_row if gpu else 0
        return Work("cluster", fits(config), cpu, on_gpu, rows / config.crop.patches * STORED_BYTES, 0)
    scale = dim / _DIM
    kept = patch_feature_bytes(config, counts)
    cpu, on_gpu = (0.0, rows * costs.gpu_train_row * scale) if gpu else (rows * costs.train_row * scale, 0.0)
    return Work("cluster", fits(config), cpu, on_gpu, kept, 0, kept)


def _embed(config: Config, counts: Counts, costs: UnitCosts, gpu: bool) -> Work:
    if config.cluster.mode == "finetune":
        cpu, on_gpu = _forward(config, counts, costs, gpu)
        many = fits(config)
        writes = many * image_feature_bytes(config, counts)
        return Work("embed", _shards(config, counts), cpu * many, on_gpu * many, counts.images * STORED_BYTES, writes)
    rows = counts.train_images * config.crop.patches * _problems(config)
    seconds = rows * costs.embed_row * feature_dim(config) / _DIM * config.cluster.num_clusters / _CLUSTERS
    return Work("embed", _shards(config, counts), seconds, 0, patch_feature_bytes(config, counts), 0)


def _relate(config: Config, counts: Counts, costs: UnitCosts) -> Work:
    seconds = _problems(config) * counts.unseen * costs.relate_class * (counts.seen / _SEEN)
    tasks = -(-counts.unseen // 1024) * _problems(config)
    dense = 8.0 * _problems(config) * counts.unseen * counts.seen
    return Work("relate", tasks, seconds, 0, 0, dense)


def _evaluate(config: Config, counts: Counts, costs: UnitCosts) -> Work:
    width = _image_dim(config) / (2 * _DIM)
    classes = (counts.seen + counts.unseen) / _CLASSES
    # Each of the arms scores every test image under a handful of settings; a fifth of the training images test choices.
    arms, settings = 9, 10
    scored = counts.test_images + 0.2 * counts.train_images
    seconds = _problems(config) * counts.train_images * costs.count_row * width**2
    seconds += _rounds(config) * arms * settings * scored * costs.score_row * width * classes
    kept = image_feature_bytes(config, counts)
    return Work("evaluate", 2 * _problems(config) * arms, seconds, 0, kept, 0, kept)
