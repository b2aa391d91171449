"""The clustering network trained by a bare PyTorch loop: what nobody can do without, and nothing else.

No checkpoints, no metrics, no checks, no other ranks, the data in memory; the same network, terms, neighbours and
optimiser as `vgse cluster`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def bare_rows_per_second(
    inputs: np.ndarray,
    labels: np.ndarray,
    words_SW: np.ndarray,
    network: Any,
    cluster: Any,
    threads: int,
    epochs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Rows per second of the epochs after the first.

    Args:
        inputs: features (N, F) or pixels (N, size, size, 3) uint8.
        labels: seen-class index of every row.
        words_SW: word vectors of the seen classes.
        network: a `ClusterNetwork`.
        cluster: the section of the configuration.
        threads: of PyTorch.
        epochs: in all.
        clock: tells seconds.
    """
    import torch
    from torch.nn import functional

    from vgse.clustering.precision import fast_bf16

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    network.train()
    words = torch.from_numpy(np.asarray(words_SW, np.float32))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=cluster.weight_decay, fused=True)
    size, batch, dim = cluster.bank_size, cluster.batch_size, network.feature_dim
    bank_MF, bank_MK, written = torch.zeros(size, dim), torch.zeros(size, network.num_clusters), 0
    # Only what ours does in bfloat16 too.
    bf16 = fast_bf16(torch.device("cpu"))
    coarse_MF = bank_MF.bfloat16()
    generator, started, rows = np.random.default_rng(0), 0.0, 0
    for epoch in range(epochs):
        if epoch == 1:
            started, rows = clock(), 0
        order = generator.permutation(len(labels))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            x = torch.from_numpy(inputs[chosen] if inputs.dtype == np.uint8 else inputs[chosen].astype(np.float32))
            y = torch.from_numpy(labels[chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and network.backbone is not None):
                out = network(x)
            a_BK, unit_BF = out.a_BK, functional.normalize(out.features_BF.detach().float(), dim=1)
            loss = functional.cross_entropy(out.class_logits_BS, y)
            loss = loss + (out.words_BW - words[y]).square().sum(dim=1).sqrt().mean()
            mean_K = a_BK.mean(dim=0)
            loss = loss + 5.0 * (mean_K * mean_K.log()).sum()
            stored = min(written, size)
            if stored > cluster.neighbours:
                near_BM = unit_BF.bfloat16() @ coarse_MF[:stored].T if bf16 else unit_BF @ bank_MF[:stored].T
                near_BkK = bank_MK[near_BM.topk(cluster.neighbours, dim=1).indices]
                loss = loss - torch.einsum("bk,bnk->bn", a_BK, near_BkK).log().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            at = (written + torch.arange(len(chosen))) % size
            bank_MF[at], bank_MK[at], coarse_MF[at] = unit_BF, a_BK.detach(), unit_BF.bfloat16()
            written, rows = written + len(chosen), rows + len(chosen)
    return rows / (clock() - started)
