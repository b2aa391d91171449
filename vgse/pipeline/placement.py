"""What every stage asks of the cluster, and whether its nodes can give it: the one place where both are said.

The stages hand these figures to Ray; `vgse check` and every start of a stage compare them with the nodes, so that what
no node can serve is an error within seconds and not a wait without an end. Memory is asked for as an estimate of the
peak of one worker; Ray places by it and does not enforce it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from vgse.config import Config, ResourcesConfig
from vgse.errors import ClusterError
from vgse.pipeline.backbone import CPU_IMAGES
from vgse.pipeline.capacity import GIB, Capacity, Node

# CPUs of a worker that trains on a GPU while other tasks cut its pixels, and the most that any worker makes use of.
_GPU_WORKER_CPUS = 4.0
_MOST_CPUS = 16.0
# Resident memory of a worker that has imported what it needs: without and with PyTorch.
_PROCESS, _TORCH_PROCESS = 0.35 * GIB, 0.95 * GIB
# Bytes of a stored image (short side 256) and of what decoding a large photograph takes for a moment.
_STORED_IMAGE, _DECODED = 60_000, 0.15 * GIB
# What a crop task holds of a shard: images read ahead, and a row group on its way out.
_IN_FLIGHT = 0.15 * GIB
# Bytes of activations per pixel that enters ResNet-50 on a CPU in float32; in bfloat16 less (a process that encodes 256
# images at 224 x 224, CPU_IMAGES at a time, peaks at 1.4 GB: benchmarks/results/encode.md). On a GPU
# they are not in this memory: what its libraries take there is guessed, generously.
_ACTIVATIONS, _GPU_HOST = 300, 120
_GROWTH = "take larger nodes; if this cluster grows by itself, say to what (resources.grows_to: cluster.yaml)"
# Matrices (F, F) float64 that a task of the evaluation holds at its peak.
_MATRICES = 10


@dataclass(frozen=True)
class Ask:
    """What one task or worker of a stage asks Ray for.

    Args:
        stage: its stage.
        what: what is asked for, in words.
        cpus, gpus, memory: of one (memory in bytes).
        count: at once, where there is room.
        together: all of them must be there at the same time (training workers), else any number will do.
    """

    stage: str
    what: str
    cpus: float
    gpus: int
    memory: int
    count: int
    together: bool = False

    def said(self) -> str:
        """E.g. `4 workers of 4 CPU, 1 GPU, 2.9 GiB`."""
        gpu = f", {self.gpus} GPU" if self.gpus else ""
        memory = f", {self.memory / GIB:.1f} GiB" if self.memory else ""
        return f"{self.count} {self.what} of {self.cpus:g} CPU{gpu}{memory}"

    def bundle(self) -> dict[str, float]:
        """The same as the resources of a training worker."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {}), "memory": self.memory}

    def remote(self) -> dict[str, Any]:
        """The same as Ray's options of tasks, actors and map_batches."""
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}
        return {name: value for name, value in options.items() if value or name == "num_cpus"}


def slots(ask: Ask, node: Node) -> int:
    """How many of `ask` fit on one such node at once."""
    limits = [node.cpus / ask.cpus if ask.cpus else 1e6, node.gpus / ask.gpus if ask.gpus else 1e6]
    limits.append(node.memory / ask.memory if ask.memory else 1e6)
    return int(min(limits) + 1e-9)


def room(ask: Ask, capacity: Capacity) -> int:
    """How many of `ask` the cluster can hold at once when it has grown as far as it may."""
    return sum(count * slots(ask, node) for node, count in capacity.grown(lambda node: slots(ask, node)))


def fits_now(ask: Ask, capacity: Capacity) -> bool:
    """Whether the nodes that are there now can serve the stage."""
    return room(ask, Capacity(tuple(replace(node, most=node.now) for node in capacity.nodes))) >= _needed(ask)


def _needed(ask: Ask) -> int:
    return ask.count if ask.together else 1


def require(asks: Iterable[Ask], capacity: Capacity, resources: ResourcesConfig) -> None:
    """Refuses what the cluster can never serve.

    Raises:
        ClusterError: names the stage, what it asks, what the nodes offer and what to change.
    """
    wanted = resources.workers or 1
    if capacity.gpus < wanted and (resources.use_gpu or (resources.use_gpu is None and capacity.gpus)):
        field = "resources.use_gpu is true" if resources.use_gpu else f"resources.workers is {wanted}"
        raise ClusterError(
            f"{field}, but the cluster has {capacity.gpus} GPU(s) and is not known to grow more:\n"
            + capacity.described(),
            "lower resources.workers, set resources.use_gpu to false, or name the file that says what the cluster "
            "grows to (resources.grows_to: cluster.yaml)",
        )
    for ask in asks:
        if room(ask, capacity) < _needed(ask):
            raise ClusterError(f"{ask.stage} asks for {ask.said()}, which no node can give:\n"
                               + capacity.described(), _remedy(ask, capacity))  # fmt: skip


def starving(asked: Iterable[Ask]) -> list[str]:
    """What is allowed and slow: tasks that are left no CPU and run beside workers that hold them all."""
    return [
        f"{ask.stage}: the workers hold every CPU, so one task at a time reads and cuts beside them; lower "
        "resources.cpus_per_worker"
        for ask in asked
        if ask.cpus == 0
    ]


def _remedy(ask: Ask, capacity: Capacity) -> str:
    largest = max((node.cpus for node in capacity.nodes), default=0)
    if room(replace(ask, memory=0), capacity) >= _needed(ask):
        field = {"crop": "crop.max_pixels", "evaluate": "evaluate.features both"}.get(
            ask.stage, "encode.batch_size or crop.shard_mb"
        )
        return f"take nodes with more memory, or lower {field}"
    if (largest and ask.cpus > largest) or ask.together:
        fewer = f"lower resources.cpus_per_worker (the largest node has {largest:g} CPUs) or resources.workers"
        return f"{fewer}, or {_GROWTH}"
    return _GROWTH


def worker_shape(resources: ResourcesConfig, capacity: Capacity, *, reading: bool) -> tuple[int, float, int]:
    """(workers, CPUs per worker, GPUs per worker) for training and encoding.

    Args:
        resources: the user's wishes; what is left open is shared out evenly.
        capacity: of the cluster. A worker lies on one node, so none is given more CPUs than a node has.
        reading: leave a CPU to the tasks that read and cut pixels beside the workers; a group that reserves every CPU
            would leave Ray Data none and hang. Workers get a fraction of a CPU where there are more of them than CPUs;
            one that computes on a GPU takes few, since cutting needs about one CPU per GPU or more.
    """
    accelerators = 0 if resources.use_gpu is False else capacity.gpus
    workers = resources.workers or max(1, accelerators)
    gpu = 1 if accelerators >= workers else 0
    if resources.cpus_per_worker:
        return workers, float(resources.cpus_per_worker), gpu
    # GPU workers share the CPUs of the nodes that have GPUs.
    hosts = tuple(node for node in capacity.nodes if node.gpus or not gpu)
    alone = Capacity(hosts, capacity.most_nodes)
    spare = max(0.5, alone.cpus - (1 if reading else 0))
    each = min(_GPU_WORKER_CPUS if reading and gpu else _MOST_CPUS, spare / workers)
    each = float(int(each)) if each >= 1 else round(each, 2)
    while each > 1 and room(Ask("", "", each, gpu, 0, workers), alone) < workers:
        each -= 1
    return workers, each, gpu


def asks(stage: str, config: Config, capacity: Capacity) -> list[Ask]:
    """What a stage asks for, its workers or tasks first."""
    return _STAGES[stage](config, capacity)


def _crop(config: Config, capacity: Capacity) -> list[Ask]:
    return [Ask("crop", "tasks", 1, 0, int(_PROCESS + _DECODED + _IN_FLIGHT), capacity.cpus)]


def _encode(config: Config, capacity: Capacity) -> list[Ask]:
    return [_forward("encode", config, capacity)]


def _embed(config: Config, capacity: Capacity) -> list[Ask]:
    return [_forward("embed", config, capacity)]


def _forward(stage: str, config: Config, capacity: Capacity) -> Ask:
    """A worker that holds a backbone. One forward pass per CPU beats one over all CPUs; on GPUs each worker cuts pixels
    with its share of the CPUs."""
    workers, cpus, gpus = worker_shape(config.resources, capacity, reading=False)
    if not gpus:
        workers, cpus = capacity.cpus, 1.0
    side = 64 if config.encode.backbone == "tiny" else 224
    side = max(config.encode.input_size or side, config.evaluate.input_size or 0)
    batch = config.encode.batch_size
    per_pixel = batch * _GPU_HOST if gpus else min(batch, CPU_IMAGES) * _ACTIVATIONS
    activations = side**2 * (per_pixel * (0.1 if config.encode.backbone == "tiny" else 1) + 2 * 3 * batch)
    shard = config.crop.images_per_shard(_STORED_IMAGE) * (
        _STORED_IMAGE + 2 * 2 * feature_dim(config) * config.crop.patches
    )
    return Ask(stage, "workers", cpus, gpus, int(_TORCH_PROCESS + activations + shard), workers)


def _cluster(config: Config, capacity: Capacity) -> list[Ask]:
    finetune = config.cluster.mode == "finetune"
    workers, cpus, gpus = worker_shape(config.resources, capacity, reading=finetune)
    # Features are held in memory beyond this where they fit, and paged in from the shards where they do not.
    rows = config.cluster.batch_size + config.cluster.bank_size
    memory = int(_TORCH_PROCESS + 8 * rows * feature_dim(config))
    asked = [Ask("cluster", "workers", cpus, gpus, memory, workers, together=True)]
    if finetune:
        cutting = min(1.0, cutting_cpus(capacity, workers, cpus))
        asked.append(Ask("cluster", "tasks that cut pixels", cutting, 0, 0, workers))
    return asked


def _relate(config: Config, capacity: Capacity) -> list[Ask]:
    return [relate_ask(capacity)]


def _evaluate(config: Config, capacity: Capacity) -> list[Ask]:
    dim = feature_dim(config) * (2 if config.evaluate.features == "both" else 1)
    memory = int(_TORCH_PROCESS + _MATRICES * 8 * dim**2)
    return [Ask("evaluate", "tasks", 1, 0, memory, capacity.cpus), counting_ask(dim, capacity)]


def relate_ask(capacity: Capacity) -> Ask:
    """A task that relates a chunk of classes; what it needs of memory is small."""
    return Ask("relate", "tasks", 1, 0, 0, capacity.cpus)


def counting_ask(feature_dim: int, capacity: Capacity) -> Ask:
    """A task of the evaluation that adds up normal equations (F, F) and hands them on."""
    return Ask("evaluate", "tasks that add up", 1, 0, int(_TORCH_PROCESS + 3 * 8 * feature_dim**2), capacity.cpus)


_STAGES: dict[str, Callable[[Config, Capacity], list[Ask]]] = {
    "crop": _crop, "encode": _encode, "cluster": _cluster, "embed": _embed, "relate": _relate, "evaluate": _evaluate,
}  # fmt: skip


def feature_dim(config: Config) -> int:
    """Feature dimension of the backbone, for estimates: known for the usual ones, else ResNet-50's 2048."""
    name = config.encode.backbone.removeprefix("timm/").removeprefix("tf_")
    known = {"tiny": 128, "resnet18": 512, "resnet34": 512, "efficientnet_lite0": 1280, "efficientnet_b0": 1280}
    return known.get(name, 2048)


def cutting_cpus(capacity: Capacity, workers: int, each: float) -> float:
    """CPUs that one training worker's reading and cutting tasks may use: its share of what the workers leave, 0 where
    they leave none (the user gave them all)."""
    return max(0.0, int(100 * (capacity.cpus - workers * each) / workers) / 100)
