"""What a training worker does: the fits of all problems under Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from vgse.config import ClusterConfig
from vgse.errors import VgseError
from vgse.pipeline.fit_task import FitTask, Place
from vgse.pipeline.frozen_heads import load_heads
from vgse.storage import Storage

if TYPE_CHECKING:
    from vgse.clustering.training import Validate


def train_problems(settings: dict[str, Any]) -> None:
    """Runs on every worker of the group: all fits, one after the other; see `cluster` for the settings."""
    import ray.train
    import ray.train.torch

    from vgse.pipeline.session import keep_freed_memory, limit_threads

    keep_freed_memory()
    limit_threads(settings["threads"])
    board = settings["board"]
    if board.error() is not None:
        # A typed error ends the stage; a group started again after it has nothing to do.
        return
    context = ray.train.get_context()
    place = Place(
        context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), ray.train.torch.get_device()
    )
    try:
        for task in settings["tasks"]:
            train_fit(task, settings, place)
            board.served()
    except VgseError as error:
        board.fail(error)
        raise


def train_fit(
    task: FitTask,
    settings: dict[str, Any],
    place: Place,
    report: Callable[[dict[str, float]], None] = lambda figures: None,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    looked: Callable[[Validate], Validate] = lambda validate: validate,
) -> None:
    """Trains one problem's network, or goes on with it, or finds it finished.

    Args:
        task: what is trained, and where it is kept.
        settings: of the group of workers, see `cluster`.
        place: of this worker in it.
        report: told every epoch's figures, after its checkpoint.
        on_step: called with (step, steps in all) after every step.
        looked: what becomes of the validation while training.
    """
    import torch

    from vgse.clustering.checkpoints import Checkpoints
    from vgse.clustering.training import fit
    from vgse.pipeline.fit_journal import FitJournal
    from vgse.pipeline.session import free_memory
    from vgse.pipeline.validation import Validation

    torch.set_float32_matmul_precision("high")
    storage: Storage = settings["storage"]
    cluster: ClusterConfig = settings["cluster"]
    seed = task.recipe.seed
    rank, world = place.rank, place.world
    checkpoints = Checkpoints(storage, task.folder, cluster.keep_best)
    journal = FitJournal(
        task.name, task.folder, storage, settings["board"], len(task.labels), task.patches, cluster, rank, world
    )
    saved = checkpoints.latest()
    journal.begin(saved)
    # A finished fit is only loaded, and its features are not worth reading.
    finished = saved is not None and saved.state["finished"]
    read = None if finished else task.features
    network = task.recipe.build(storage, feature_dim=None if read is None else read.shape[1])
    if task.heads is not None:
        load_heads(network, storage, task.heads)
    if cluster.compile and network.backbone is not None:
        from vgse.clustering.compiling import compile_backbone

        reason = compile_backbone(network.backbone.to(place.device), cluster.mixed_precision)
        if reason and rank == 0:
            settings["board"].pin("say", f"cluster: {task.name} trains without torch.compile ({reason})")
    memory = 0 if finished else free_memory() // 2 // place.on_node
    source = task.source(settings, network, place, memory, (lambda said: None) if finished else journal.say)

    def on_epoch(figures: dict[str, float]) -> None:
        journal.epoch(figures)
        report(figures)

    def stepped(step: int, steps: int) -> None:
        journal.step(step, steps)
        on_step(step, steps)

    fit(
        network,
        source,
        _tensor(task.words_SW),
        fit_settings(cluster, seed),
        checkpoints=checkpoints,
        device=place.device,
        on_epoch=on_epoch,
        on_step=stepped,
        validate=looked(Validation(task.validation, storage, settings["threads"])) if task.validation else None,
    )
    journal.end()


def fit_settings(cluster: ClusterConfig, seed: int) -> Any:
    """The training loop's settings from the configuration's."""
    from vgse.clustering.objective import ObjectiveWeights
    from vgse.clustering.training import FitSettings

    return FitSettings(
        epochs=cluster.epochs,
        global_batch=cluster.batch_size,
        learning_rate=cluster.learning_rate,
        backbone_learning_rate=cluster.backbone_learning_rate,
        weight_decay=cluster.weight_decay,
        warmup_epochs=cluster.warmup_epochs,
        neighbours=cluster.neighbours,
        bank_size=cluster.bank_size,
        weights=ObjectiveWeights(cluster.lambda_pel, cluster.beta_cls, cluster.gamma_sem),
        mixed_precision=cluster.mixed_precision,
        accumulate=cluster.accumulate,
        head_epochs=cluster.head_epochs,
        seed=seed,
        checkpoint_every=cluster.checkpoint_every,
        validate_every=cluster.validate_every,
    )


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.asarray(array, np.float32))
