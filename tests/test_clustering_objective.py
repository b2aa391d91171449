"""The objective: against plain NumPy, by finite differences, and exact on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks

from vgse.clustering.network import ClusterNetwork, Outputs
from vgse.clustering.objective import ObjectiveWeights, cluster_usage_loss, neighbour_loss, objective, word_distance

B, F, K, S, W, NEIGHBOURS = 13, 8, 6, 4, 5, 3
WEIGHTS = ObjectiveWeights(lambda_pel=5.0, beta_cls=0.7, gamma_sem=1.3)


def _case(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(3)
    raw = rng.random((B, NEIGHBOURS, K))
    return {
        "features": torch.tensor(rng.normal(size=(B, F)), dtype=dtype),
        "labels": torch.tensor(rng.integers(0, S, B)),
        "words": torch.tensor(rng.normal(size=(S, W)), dtype=dtype),
        "neighbours": torch.tensor(raw / raw.sum(-1, keepdims=True), dtype=dtype),
    }


def _outputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "features": rng.normal(size=(B, F)),
        "logits": 3 * rng.normal(size=(B, K)),
        "class_logits": 2 * rng.normal(size=(B, S)),
        "words": rng.normal(size=(B, W)),
    }


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_every_term_equals_its_formula_in_plain_numpy():
    raw, case = _outputs(), _case()
    a, neighbours = _softmax(raw["logits"]), case["neighbours"].numpy()
    labels, words = case["labels"].numpy(), case["words"].numpy()
    clu = -np.mean([np.log(a[i] @ neighbours[i, j]) for i in range(B) for j in range(NEIGHBOURS)])
    mean = a.mean(axis=0)
    pel = sum(p * np.log(p) for p in mean)
    cls = -np.mean([np.log(_softmax(raw["class_logits"])[i, labels[i]]) for i in range(B)])
    sem = np.mean([np.linalg.norm(raw["words"][i] - words[labels[i]]) for i in range(B)])

    tensors = {name: torch.tensor(value) for name, value in raw.items()}
    outputs = Outputs(
        tensors["features"], tensors["logits"], torch.tensor(a), tensors["class_logits"], tensors["words"]
    )
    losses = objective(outputs, case["labels"], case["words"], case["neighbours"], WEIGHTS)
    found = [float(value) for value in (losses.clu, losses.pel, losses.cls, losses.sem, losses.total)]
    np.testing.assert_allclose(found, [clu, pel, cls, sem, clu + 5 * pel + 0.7 * cls + 1.3 * sem], rtol=1e-12)
    assert int(losses.rows) == B


def test_gradients_agree_with_finite_differences():
    case = _case()
    network = ClusterNetwork(F, K, S, W).double()
    names = [name for name, _ in network.named_parameters()]

    def total(*parameters: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (case["features"],))
        return objective(outputs, case["labels"], case["words"], case["neighbours"], WEIGHTS).total

    parameters = tuple(p.detach().clone().requires_grad_() for p in network.parameters())
    analytic = torch.autograd.grad(total(*parameters), parameters)
    for parameter, gradient in zip(parameters, analytic, strict=True):
        numeric = torch.zeros_like(parameter)
        with torch.no_grad():
            for index in np.ndindex(*parameter.shape):
                kept = parameter[index].item()
                sides = []
                for step in (1e-6, -1e-6):
                    parameter[index] = kept + step
                    sides.append(float(total(*parameters)))
                parameter[index] = kept
                numeric[index] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-7)


def test_each_row_loss_passes_gradcheck():
    case = _case()
    logits = torch.tensor(_outputs()["logits"], requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: neighbour_loss(x.softmax(1), case["neighbours"]), logits)
    assert torch.autograd.gradcheck(lambda x: cluster_usage_loss(x.softmax(1).mean(0)), logits)
    predicted = torch.tensor(_outputs()["words"], requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: word_distance(x, case["words"][case["labels"]]), predicted)


def test_word_distance_has_a_finite_gradient_at_zero():
    predicted = torch.ones(2, W, requires_grad=True)
    word_distance(predicted, torch.ones(2, W)).sum().backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad, torch.zeros(2, W))


def test_no_neighbours_make_a_zero_term_and_confident_disagreement_stays_finite():
    a = torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert float(neighbour_loss(a, torch.zeros(1, 0, 2)).sum()) == 0
    loss = neighbour_loss(a, torch.tensor([[[0.0, 1.0]]])).sum()
    loss.backward()
    assert a.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


def test_uniform_mean_assignment_is_the_lowest_usage_loss():
    uniform = float(cluster_usage_loss(torch.full((K,), 1 / K)))
    assert uniform == pytest.approx(-np.log(K), rel=1e-6)
    assert float(cluster_usage_loss(torch.eye(K)[0])) == 0
    assert uniform < float(cluster_usage_loss(torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])))


# ---- on ranks
def _losses_and_gradients(rank: int, world_size: int, cuts: list[int]) -> tuple[list[float], list[np.ndarray]]:
    case = _case(torch.float32)
    mine = slice(cuts[rank], cuts[rank + 1])
    network = ClusterNetwork(F, K, S, W)
    model = torch.nn.parallel.DistributedDataParallel(network)
    losses = objective(
        model(case["features"][mine]), case["labels"][mine], case["words"], case["neighbours"][mine], WEIGHTS
    )
    losses.total.backward()
    values = [losses.total, losses.clu, losses.pel, losses.cls, losses.sem, losses.rows]
    return [float(value.detach()) for value in values], [p.grad.numpy() for p in network.parameters()]


@pytest.mark.parametrize("cuts", [[0, B], [0, 4, B], [0, B, B], [0, 1, 6, 6, B]], ids=["1", "2", "2-empty", "4"])
def test_losses_and_gradients_do_not_depend_on_how_rows_fall_on_ranks(cuts: list[int]):
    case = _case(torch.float32)
    network = ClusterNetwork(F, K, S, W)
    losses = objective(network(case["features"]), case["labels"], case["words"], case["neighbours"], WEIGHTS)
    losses.total.backward()
    expected = [float(losses.total.detach()), *(float(x) for x in losses[1:6])]
    for values, gradients in run_ranks(_losses_and_gradients, len(cuts) - 1, cuts):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        for gradient, parameter in zip(gradients, network.parameters(), strict=True):
            np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-5, atol=1e-6)
