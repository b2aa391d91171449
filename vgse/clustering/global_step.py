"""Gradients of one global batch, whole or in micro-batches, the same either way.

L_pel is a function of the mean assignment of the *whole* global batch, so a micro-batch alone has no gradient of it.
Accumulation therefore goes twice over a rank's rows: first without a graph, for the sums over all rows (and the
neighbours, which need none), then with one, micro-batch by micro-batch, each with the gradient of its share given
these sums (the way of GradCache, Gao et al., RepL4NLP 2021). Cost: one more forward pass, about a third of the step's
time; memory: activations of one micro-batch instead of all of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vgse.clustering.bank import NeighbourBank, unit
from vgse.clustering.collectives import all_sum, rank
from vgse.clustering.finiteness import raise_if_not_finite
from vgse.clustering.network import ClusterNetwork, Outputs
from vgse.clustering.objective import Losses, ObjectiveWeights, global_losses, row_sums
from vgse.clustering.precision import backbone_precision


class GlobalStep:
    """Losses and gradients of this rank's rows of global batches; the optimiser is left to the caller.

    Args:
        network: whose parameters get the gradients.
        bank: of neighbours; only read.
        words_SW: word vectors of the seen classes.
        weights: of the objective's terms.
        neighbours: nearest neighbours per row.
        accumulate: micro-batches per step; a rank with fewer rows takes fewer.
        mixed_precision: of the backbone, see `backbone_precision`.
        seed: of what a backbone draws (dropout).
    """

    def __init__(
        self,
        network: ClusterNetwork,
        bank: NeighbourBank,
        words_SW: Tensor,
        weights: ObjectiveWeights,
        *,
        neighbours: int,
        accumulate: int = 1,
        mixed_precision: str = "auto",
        seed: int = 0,
    ) -> None:
        # Replaced by its wrapped form under `torch.distributed`.
        self.model: nn.Module = network
        self._network, self._bank, self._words_SW, self._weights = network, bank, words_SW, weights
        self._neighbours, self._accumulate = neighbours, accumulate
        self._mixed, self._seed = mixed_precision, seed

    def backward(self, inputs: Tensor, labels_B: Tensor, step: int) -> tuple[Losses, Tensor, Tensor]:
        """Puts the gradients of the global batch in place of the old ones.

        Returns:
            The losses, and of this rank's rows the features as the bank takes them (B, F) and the assignments (B, K),
            without a graph.

        Raises:
            NonFiniteLossError: on all ranks alike, where a loss or gradient is not finite.
        """
        count = max(1, min(self._accumulate, len(inputs)))
        rows = [slice(len(inputs) * m // count, len(inputs) * (m + 1) // count) for m in range(count)]
        self.model.zero_grad(set_to_none=True)
        if count == 1 and self._accumulate == 1:
            return self._whole(inputs, labels_B, step)
        return self._in_parts([(inputs[part], labels_B[part]) for part in rows], step)

    def _whole(self, inputs: Tensor, labels_B: Tensor, step: int) -> tuple[Losses, Tensor, Tensor]:
        outputs = self._forward(self.model, inputs, step, 0)
        unit_BF = unit(outputs.features_BF)
        neighbours = self._bank.neighbours(unit_BF, self._neighbours)

        def losses_of(outputs: Outputs) -> Losses:
            local = row_sums(outputs, labels_B, self._words_SW, neighbours)
            return global_losses(local, all_sum(local), self._weights)

        losses = losses_of(outputs)
        losses.total.backward()
        raise_if_not_finite(
            losses, self.model, lambda: losses_of(self._forward(self.model, inputs, step, 0)).total.backward(), step
        )
        return losses, unit_BF, outputs.a_BK.detach()

    def _in_parts(self, parts: list[tuple[Tensor, Tensor]], step: int) -> tuple[Losses, Tensor, Tensor]:
        units, assigned, neighbours, sums = [], [], [], []
        with torch.no_grad():
            for number, (inputs, labels_B) in enumerate(parts):
                outputs = self._forward(self._network, inputs, step, number)
                units.append(unit(outputs.features_BF))
                assigned.append(outputs.a_BK)
                neighbours.append(self._bank.neighbours(units[-1], self._neighbours))
                sums.append(row_sums(outputs, labels_B, self._words_SW, neighbours[-1]))
        local = torch.stack(sums).sum(dim=0)
        globally = all_sum(local)
        losses = global_losses(local, globally, self._weights)

        def second_pass() -> None:
            for number, ((inputs, labels_B), near) in enumerate(zip(parts, neighbours, strict=True)):
                with self._averaging(number + 1 == len(parts)):
                    outputs = self._forward(self.model, inputs, step, number)
                    mine = row_sums(outputs, labels_B, self._words_SW, near)
                    global_losses(mine, globally, self._weights).total.backward()

        second_pass()
        raise_if_not_finite(losses, self.model, second_pass, step)
        return losses, torch.cat(units), torch.cat(assigned)

    def _averaging(self, last: bool) -> AbstractContextManager:
        """Gradients are averaged over ranks in the backward pass of the last micro-batch only."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _forward(self, model: nn.Module, inputs: Tensor, step: int, number: int) -> Outputs:
        if self._network.backbone is None:
            return model(inputs)
        # Both passes over a micro-batch must drop out the same, and a resumed step the same as an undisturbed one.
        torch.manual_seed(int(np.random.SeedSequence((self._seed, step, rank(), number)).generate_state(1)[0]))
        with backbone_precision(inputs.device, self._mixed):
            return model(inputs)
