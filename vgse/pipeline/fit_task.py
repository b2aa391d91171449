"""What training workers are told about one problem, and where its rows come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vgse.config import ClusterConfig
from vgse.pipeline.features import PatchFeatures, held_rows
from vgse.pipeline.networks import NetworkRecipe
from vgse.pipeline.patch_windows import PatchLayout
from vgse.pipeline.validation import ValidationTask

if TYPE_CHECKING:
    from vgse.clustering.batches import BatchSource
    from vgse.clustering.network import ClusterNetwork


@dataclass(frozen=True)
class Place:
    """Which worker of a group this is: its rank, their number, how many of them share this machine, its device."""

    rank: int = 0
    world: int = 1
    on_node: int = 1
    device: Any = "cpu"


@dataclass(frozen=True)
class FitTask:
    """What workers need to train one problem's network: `features`, or the `layout` of the shards they stream from.

    `labels_I` are the seen-class indices of its I training images, each with `patches` patches. `heads` is the folder
    of the frozen fit that it starts from, `validation` None where there is none.
    """

    name: str
    folder: str
    recipe: NetworkRecipe
    words_SW: np.ndarray
    features: PatchFeatures | None
    layout: PatchLayout | None
    labels_I: np.ndarray
    patches: int
    heads: str | None
    validation: ValidationTask | None

    @property
    def labels(self) -> np.ndarray:
        """Seen-class index of every patch."""
        return np.repeat(self.labels_I, self.patches)

    def source(
        self,
        settings: Mapping[str, Any],
        network: ClusterNetwork,
        place: Place,
        memory: int,
        say: Callable[[str], None],
    ) -> BatchSource:
        """A rank's rows: cached features, or pixels cut by Ray Data tasks.

        Args:
            settings: what the group of workers was started with (`storage`, `run`, `board`, `cluster`,
                `cutting_cpus`).
            network: whose input size the pixels have.
            place: of this worker in the group.
            memory: bytes that this worker may hold features in.
            say: told where the features are.
        """
        from vgse.clustering.batches import InMemoryBatches

        cluster: ClusterConfig = settings["cluster"]
        seed = self.recipe.seed
        if self.layout is None:
            assert self.features is not None
            held, said = held_rows(self.features, memory)
            say(said)
            ahead = held is self.features or str(place.device) != "cpu"
            return InMemoryBatches(held, self.labels, cluster.batch_size, place.rank, place.world, seed, ahead=ahead)
        from vgse.pipeline.patch_stream import streamed_batches

        assert network.backbone is not None
        return streamed_batches(
            settings["storage"],
            settings["run"],
            settings["board"],
            cluster,
            layout=self.layout,
            patches=self.patches,
            size=network.backbone.spec.input_size,
            seed=seed,
            rank=place.rank,
            world_size=place.world,
            cpus=settings["cutting_cpus"],
        )
