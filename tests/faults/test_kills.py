"""A training rank killed at any step: the run goes on from its last checkpoint and ends as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from killed_training import EPOCHS, INTERVAL, STEPS, Attempt, N, start, steps_done

from vgse.clustering.checkpoints import Checkpoints, Saved
from vgse.storage import Storage

# Figures that do not depend on the clock.
LOSSES = ("loss", "loss_clu", "loss_pel", "loss_cls", "loss_sem", "cluster_entropy", "assignment_entropy")
COUNTS = ("epoch", "step", "rows", "used_clusters")


def _finished(folder: Path) -> Saved:
    saved = Checkpoints(Storage(), str(folder / "fit")).latest()
    assert saved is not None
    assert saved.state["finished"] is True
    return saved


def _run(attempts: list[Attempt], folder: Path) -> Saved:
    """Starts one group after the other, checks what each lost, and which rows the surviving steps were made of."""
    counted: dict[int, list[list[int]]] = {}
    reached = 0
    for number, attempt in enumerate(attempts):
        codes = start(attempt, folder, number)
        if attempt.killed_after is None:
            assert codes == [0] * attempt.world_size
        else:
            assert codes[attempt.killed_rank] == -signal.SIGKILL
        done = steps_done(folder, number)
        # What a later start did again replaces what was lost with the earlier one.
        assert min(done) > reached - INTERVAL
        counted |= done
        reached = attempt.killed_after or max(done)
    assert sorted(counted) == list(range(1, EPOCHS * STEPS + 1))
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS + 1, (epoch + 1) * STEPS + 1)
        assert sorted(row for step in steps for rows in counted[step] for row in rows) == list(range(N))
    return _finished(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return _run([Attempt(2)], tmp_path_factory.mktemp("undisturbed"))


def test_ten_kills_at_random_steps_leave_no_trace(undisturbed: Saved, tmp_path: Path):
    rng = np.random.default_rng(11)
    steps = sorted(rng.choice(np.arange(1, EPOCHS * STEPS), 10, replace=False).tolist())
    attempts = [Attempt(2, int(rng.integers(2)), step) for step in steps] + [Attempt(2)]
    saved = _run(attempts, tmp_path)
    assert saved.tensors.keys() == undisturbed.tensors.keys()
    for name, expected in undisturbed.tensors.items():
        np.testing.assert_array_equal(saved.tensors[name].numpy(), expected.numpy(), err_msg=name)
    for figures, expected in zip(saved.state["history"], undisturbed.state["history"], strict=True):
        assert [figures[key] for key in (*LOSSES, *COUNTS)] == [expected[key] for key in (*LOSSES, *COUNTS)]


def test_a_run_goes_on_in_the_middle_of_an_epoch_on_two_then_one_then_four_ranks(undisturbed: Saved, tmp_path: Path):
    # Steps 20 and 35 lie in the second and third epoch, and no checkpoint is written there.
    saved = _run([Attempt(2, 1, 20), Attempt(1, 0, 35), Attempt(4)], tmp_path)
    for name, expected in undisturbed.tensors.items():
        np.testing.assert_allclose(saved.tensors[name].numpy(), expected.numpy(), atol=2e-4, rtol=1e-3, err_msg=name)
    for figures, expected in zip(saved.state["history"], undisturbed.state["history"], strict=True):
        assert [figures[key] for key in COUNTS] == [expected[key] for key in COUNTS]
        assert [figures[key] for key in LOSSES] == pytest.approx([expected[key] for key in LOSSES], abs=1e-4)
