"""The clustering network: backbone theta (or cached features), clustering layer H, class layer Q, word layer S.

Source: "VGSE: Visually-Grounded Semantic Embeddings for Zero-Shot Learning" (CVPR 2022), section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from vgse.clustering.backbones import Backbone


class Outputs(NamedTuple):
    """What the network says about B rows. `a_BK` are the assignments, the softmax of `logits_BK`."""

    features_BF: Tensor
    logits_BK: Tensor
    a_BK: Tensor
    class_logits_BS: Tensor
    words_BW: Tensor


class ClusterNetwork(nn.Module):
    """Clusters as the middle layer between features and classes.

    Args:
        feature_dim: dimension F of the features.
        num_clusters: K.
        num_classes: seen classes S.
        word_dim: dimension W of the word vectors.
        backbone: makes features from pixels; None where the inputs are features already.
        seed: of the initial weights of the three layers.
    """

    def __init__(
        self,
        feature_dim: int,
        num_clusters: int,
        num_classes: int,
        word_dim: int,
        backbone: Backbone | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if backbone is not None and backbone.spec.feature_dim != feature_dim:
            raise ValueError(f"feature_dim is {feature_dim}, but the backbone gives {backbone.spec.feature_dim}")
        self.feature_dim, self.num_clusters = feature_dim, num_clusters
        self.backbone = backbone
        self.clusters = nn.Linear(feature_dim, num_clusters)
        self.classes = nn.Linear(num_clusters, num_classes)
        self.words = nn.Linear(num_clusters, word_dim)
        # Probabilities are about 1/K at the start: unscaled, L_cls hardly learns in 15 epochs (64 classes: 3.6 of
        # log 64 = 4.2; with sqrt(K) 1.3); scaled by K it learns, but assignments stay vague and clusters unused.
        self.scale = num_clusters**0.5
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.clusters, self.classes, self.words):
            bound = layer.in_features**-0.5
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> Outputs:
        """Outputs for features (B, F), or for pixels (B, H, W, 3) uint8 where there is a backbone."""
        return self.heads(inputs if self.backbone is None else self.backbone(inputs))

    def heads(self, features_BF: Tensor) -> Outputs:
        """Outputs for features (B, F) as the backbone makes them.

        The layers see each row with mean 0 and deviation 1, so that the same learning rate serves backbones of any
        feature scale. The row's own statistics keep it independent of batch and rank.
        """
        features_BF = functional.layer_norm(features_BF.to(self.clusters.weight.dtype), (self.feature_dim,))
        # Probabilities and losses in float32: bfloat16 has too few digits for log(a . a_nb).
        with torch.autocast(features_BF.device.type, enabled=False):
            logits_BK = self.clusters(features_BF)
            a_BK = logits_BK.softmax(dim=1)
            scaled_BK = self.scale * a_BK
            return Outputs(features_BF, logits_BK, a_BK, self.classes(scaled_BK), self.words(scaled_BK))

    @torch.no_grad()
    def assign(self, inputs: Tensor) -> Tensor:
        """Assignments a_BK in evaluation mode."""
        training = self.training
        self.eval()
        try:
            return self(inputs).a_BK
        finally:
            self.train(training)
