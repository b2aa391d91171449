"""The neighbour bank: order, search, the same on all ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ddp_pool import run_ranks

from vgse.clustering.bank import NeighbourBank, unit

F, K = 6, 4


def _rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = unit(torch.randn(count, F, generator=generator))
    return features, torch.randn(count, K, generator=generator).softmax(1)


def _exact(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of each query by falling cosine, one pair after the other."""
    cosine = [[q @ r / np.linalg.norm(q) / np.linalg.norm(r) for r in rows] for q in queries]
    return np.argsort(-np.array(cosine), axis=1)


def test_an_empty_bank_has_no_neighbours():
    bank = NeighbourBank(8, F, K)
    assert bank.neighbours(unit(torch.randn(3, F)), 5).shape == (3, 0, K)


def test_neighbours_are_those_of_an_exact_search():
    features, a = _rows(40)
    bank = NeighbourBank(64, F, K)
    bank.push(features, a)
    queries, _ = _rows(7, seed=1)
    expected = _exact(queries.numpy(), features.numpy())[:, :3]
    torch.testing.assert_close(bank.neighbours(queries, 3), a[torch.from_numpy(expected)])


def test_a_search_in_bfloat16_finds_what_an_exact_one_finds(monkeypatch):
    """Rows on a line of growing angle, so that neighbours are far enough apart for the format's eight bits."""
    monkeypatch.setattr("vgse.clustering.bank._LARGE", 1)
    monkeypatch.setattr("vgse.clustering.bank.fast_bf16", lambda device: True)
    angle = 0.12 * torch.arange(20) + 0.004 * torch.arange(20) ** 2
    features = torch.cat([angle.cos()[:, None], angle.sin()[:, None], torch.zeros(20, F - 2)], dim=1)
    a = torch.randn(20, K, generator=torch.Generator().manual_seed(0)).softmax(1)
    bank = NeighbourBank(64, F, K)
    bank.push(features, a)
    assert bank._coarse_MF is not None
    index = _exact(features.numpy(), features.numpy())[:, 1:3]
    found, expected = bank.neighbours(features, 2).sort(1).values, a[torch.from_numpy(index)].sort(1).values
    torch.testing.assert_close(found, expected)
    copy = NeighbourBank(64, F, K)
    copy.load_state_dict(bank.state_dict())
    torch.testing.assert_close(copy.neighbours(features, 2), bank.neighbours(features, 2))


def test_a_row_is_not_its_own_neighbour():
    features, a = _rows(20)
    bank = NeighbourBank(20, F, K)
    bank.push(features, a)
    index = _exact(features.numpy(), features.numpy())[:, 1:3]
    torch.testing.assert_close(bank.neighbours(features, 2), a[torch.from_numpy(index)])


def test_the_oldest_rows_leave_first_and_a_push_may_exceed_the_capacity():
    bank = NeighbourBank(5, F, K)
    features, a = _rows(17)
    for start, stop in ((0, 3), (3, 4), (4, 12), (12, 17), (17, 17)):
        bank.push(features[start:stop], a[start:stop])
        kept = a[:stop][-5:]
        stored = bank.state_dict()["a_MK"]
        assert sorted(stored.tolist()) == sorted(kept.tolist())
    assert len(bank) == 5


def test_a_restored_bank_goes_on_like_the_first():
    features, a = _rows(30)
    first, second = NeighbourBank(12, F, K), NeighbourBank(12, F, K)
    first.push(features[:20], a[:20])
    second.load_state_dict(first.state_dict())
    for bank in (first, second):
        bank.push(features[20:], a[20:])
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def _pushed(rank: int, world_size: int) -> dict[str, np.ndarray]:
    features, a = _rows(22)
    bank = NeighbourBank(9, F, K)
    for start, stop in ((0, 7), (7, 8), (8, 22)):
        first, last = (start + (stop - start) * r // world_size for r in (rank, rank + 1))
        bank.push(features[first:last], a[first:last])
    return {name: value.numpy() for name, value in bank.state_dict().items()}


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_bank_is_the_same_on_all_ranks_and_as_on_one(world_size: int):
    expected = _pushed(0, 1)
    for found in run_ranks(_pushed, world_size):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
