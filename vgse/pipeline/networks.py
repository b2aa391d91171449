"""Building the clustering network of a problem, fresh or as trained."""

from __future__ import annotations

from dataclasses import dataclass

from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.training_state import network_tensors
from vgse.config import Config
from vgse.errors import RunDirectoryError
from vgse.pipeline.backbone import weights_path
from vgse.storage import Storage


@dataclass(frozen=True)
class NetworkRecipe:
    """All that decides the shape and the start of a problem's network."""

    backbone: str
    weights: str
    input_size: int | None
    num_clusters: int
    num_classes: int
    word_dim: int
    seed: int
    finetune: bool

    @classmethod
    def of(cls, config: Config, num_classes: int, word_dim: int, draw: int = 0) -> NetworkRecipe:
        """The recipe for `num_classes` seen classes under seed number `draw`."""
        encode, cluster = config.encode, config.cluster
        return cls(
            encode.backbone,
            encode.weights,
            encode.input_size,
            cluster.num_clusters,
            num_classes,
            word_dim,
            config.seed + draw,
            cluster.mode == "finetune",
        )

    def build(self, storage: Storage, *, load_weights: bool = True, feature_dim: int | None = None) -> ClusterNetwork:
        """A network at its start.

        Args:
            storage: how the backbone's weights are reached.
            load_weights: else its backbone is random, to be overwritten.
            feature_dim: F where it is known, so that heads on cached features need none of the backbones' libraries,
                whose import takes seconds.
        """
        import torch

        torch.manual_seed(self.seed)
        backbone = None
        if self.finetune:
            from vgse.clustering.backbones import build_backbone

            backbone = build_backbone(
                self.backbone,
                weights=weights_path(storage, self.weights) if load_weights else None,
                pretrained=load_weights and self.weights == "pretrained",
                input_size=self.input_size,
            )
            feature_dim = backbone.spec.feature_dim
        elif feature_dim is None:
            from vgse.clustering.backbones import backbone_spec

            feature_dim = backbone_spec(self.backbone).feature_dim
        return ClusterNetwork(feature_dim, self.num_clusters, self.num_classes, self.word_dim, backbone, seed=self.seed)

    def load(self, storage: Storage, folder: str, *, best: bool = False) -> ClusterNetwork:
        """The network as the latest checkpoint in `folder` holds it (or the best), in evaluation mode.

        Raises:
            RunDirectoryError: there is no such checkpoint.
        """
        checkpoints = Checkpoints(storage, folder)
        saved = checkpoints.best() if best else checkpoints.latest()
        if saved is None:
            if not best:
                raise RunDirectoryError(f"{folder} holds no checkpoint", "run `vgse cluster` again")
            raise RunDirectoryError(
                f"{folder} holds no validated checkpoint, which cluster.serve best asks for",
                f"set cluster.serve to last, or remove {folder.rsplit('/', 1)[0]} and the run's receipts/cluster.json "
                "and train again with cluster.validate_every above 0",
            )
        tensors = network_tensors(saved)
        network = self.build(storage, load_weights=False, feature_dim=tensors["clusters.weight"].shape[1])
        network.load_state_dict(tensors)
        return network.eval()
