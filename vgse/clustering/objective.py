"""The objective L = L_clu + lambda L_pel + beta L_cls + gamma L_sem, exact on any number of workers.

Source: "VGSE: Visually-Grounded Semantic Embeddings for Zero-Shot Learning" (CVPR 2022), section 3.1.

Exactness. `DistributedDataParallel` averages gradients over R ranks. Let N be the rows of the global batch.
- A mean over rows is (1/N) sum_r s_r with s_r the sum over rank r's rows, so rank r differentiates (R/N) s_r.
- L_pel is a function of abar = (1/N) sum_r abar_r. Its gradient is sum_r (dL/dabar) (1/N) (d abar_r / d theta): rank r
  needs the global value of abar but only its own rows' derivative. So the all-reduce is differentiated as
  `local + (global - local).detach()`, times R; dL/dabar is the same on all ranks and its backward needs no message.
All sums, and the row count, travel in one small all-reduce per step. Ranks may hold different numbers of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vgse.clustering.collectives import all_sum, world_size
from vgse.clustering.network import Outputs

TERMS = ("clu", "pel", "cls", "sem")
# What each rank contributes, causes before their consequences.
LOCAL_TERMS = ("features", "assignments", "L_clu", "L_cls", "L_sem")
_SCALARS = len(LOCAL_TERMS) + 1
SMALLEST = 1e-30  # below any probability that matters; keeps log and its derivative finite in float32


@dataclass(frozen=True)
class ObjectiveWeights:
    """Weights of the terms beside L_clu; the defaults are the paper's."""

    lambda_pel: float = 5.0
    beta_cls: float = 1.0
    gamma_sem: float = 1.0


class Losses(NamedTuple):
    """The objective of the global batch: every value is the same on all ranks, gradients flow from `total` only.

    `features` is the sum of all input features: not a loss, but not finite where a feature was not. `local` are this
    rank's own sums in the order of `LOCAL_TERMS`, to find the rank that broke.
    """

    total: Tensor
    clu: Tensor
    pel: Tensor
    cls: Tensor
    sem: Tensor
    rows: Tensor
    features: Tensor
    local: Tensor


def objective(
    outputs: Outputs, labels_B: Tensor, words_SW: Tensor, neighbour_a_BkK: Tensor, weights: ObjectiveWeights
) -> Losses:
    """The four terms and their weighted sum for the global batch.

    Args:
        outputs: of this rank's rows.
        labels_B: seen-class index of every row, int64.
        words_SW: word vectors of the seen classes.
        neighbour_a_BkK: assignments of every row's nearest neighbours, no gradient; k = 0 makes L_clu zero.
        weights: lambda, beta, gamma.
    """
    local = row_sums(outputs, labels_B, words_SW, neighbour_a_BkK)
    return global_losses(local, all_sum(local), weights)


def row_sums(outputs: Outputs, labels_B: Tensor, words_SW: Tensor, neighbour_a_BkK: Tensor) -> Tensor:
    """All that the objective needs of some rows, summed over them: (6 + K,) with gradient.

    In the order of `LOCAL_TERMS`, then the number of rows, then the sum of the assignments (K,). The sums of disjoint
    sets of rows add up to that of their union, whether these lie on several ranks or come one after the other.
    """
    clu_sum = neighbour_loss(outputs.a_BK, neighbour_a_BkK).sum()
    cls_sum = functional.cross_entropy(outputs.class_logits_BS, labels_B, reduction="sum")
    sem_sum = word_distance(outputs.words_BW, words_SW[labels_B]).sum()
    a_sum_K = outputs.a_BK.sum(dim=0)
    rows = a_sum_K.new_tensor(float(len(labels_B)))
    scalars = torch.stack([outputs.features_BF.sum().detach(), a_sum_K.sum().detach(), clu_sum, cls_sum, sem_sum, rows])
    return torch.cat([scalars, a_sum_K])


def global_losses(mine: Tensor, globally: Tensor, weights: ObjectiveWeights, local: Tensor | None = None) -> Losses:
    """The terms of the global batch, with the gradient of some rows' share.

    Args:
        mine: `row_sums` of these rows.
        globally: the sum of `row_sums` over all rows of the global batch, no gradient.
        weights: lambda, beta, gamma.
        local: `row_sums` of all of this rank's rows, where `mine` is a part of them.
    """
    clu_sum, cls_sum, sem_sum, a_sum_K = mine[2], mine[3], mine[4], mine[_SCALARS:]
    features, _, clu, cls, sem, rows = globally[:_SCALARS].unbind()
    a_mean_K = (a_sum_K + (globally[_SCALARS:] - a_sum_K).detach()) / rows
    pel = cluster_usage_loss(a_mean_K)

    ranks = world_size()
    local_total = (ranks / rows) * (clu_sum + weights.beta_cls * cls_sum + weights.gamma_sem * sem_sum)
    local_total = local_total + ranks * weights.lambda_pel * pel
    clu, cls, sem, pel = clu / rows, cls / rows, sem / rows, pel.detach()
    total = clu + weights.lambda_pel * pel + weights.beta_cls * cls + weights.gamma_sem * sem
    # The value of the global batch with the gradient of this rank's share.
    total = local_total + (total - local_total).detach()
    local = mine if local is None else local
    return Losses(total, clu, pel, cls, sem, rows, features, local[: len(LOCAL_TERMS)].detach())


def neighbour_loss(a_BK: Tensor, neighbour_a_BkK: Tensor) -> Tensor:
    """L_clu of each row (B,): -mean over its k neighbours of log(a . a_nb); zeros for k = 0."""
    if neighbour_a_BkK.shape[1] == 0:
        return a_BK.new_zeros(len(a_BK))
    agreement_Bk = torch.einsum("bk,bnk->bn", a_BK, neighbour_a_BkK)
    return -agreement_Bk.clamp_min(SMALLEST).log().mean(dim=1)


def cluster_usage_loss(a_mean_K: Tensor) -> Tensor:
    """L_pel (scalar): sum_k abar_k log abar_k, lowest (-log K) when all clusters are used alike."""
    return (a_mean_K * a_mean_K.clamp_min(SMALLEST).log()).sum()


def word_distance(predicted_BW: Tensor, words_BW: Tensor) -> Tensor:
    """L_sem of each row (B,): ||S(a) - phi_w(y)||_2, with gradient 0 (a subgradient) where the distance is 0."""
    squared_B = (predicted_BW - words_BW).square().sum(dim=1)
    # sqrt has an infinite derivative at 0, and infinity times the zero in front of it would be NaN.
    positive_B = squared_B > 0
    return torch.where(positive_B, torch.where(positive_B, squared_B, 1.0).sqrt(), squared_B)
