"""ImageNet-21K's number of classes through Ray tasks, a worker killed on the way: every class once, still exact."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from vgse.config import RelateConfig
from vgse.data.words import prepare_words
from vgse.pipeline.relate import solve_relations
from vgse.pipeline.stage import Progress
from vgse.relation import relate

SEEN, UNSEEN = 1000, 20_842


class KillingProgress(Progress):
    """Kills a process that works on a chunk, once, when the first chunk is done."""

    def __init__(self):
        super().__init__("relate", quiet=True)
        self.classes, self.killed = [], None

    def advance(self, count):
        self.classes.append(count)
        if self.killed is None:
            self.killed = next(iter(working_processes()), None)
            if self.killed is not None:
                os.kill(self.killed, signal.SIGKILL)


def working_processes():
    """This session's Ray workers that are busy with a chunk of classes."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::relate_chunk" in command and os.getpid() in ancestors(int(folder.name)):
            yield int(folder.name)


def ancestors(pid):
    found = []
    while pid > 1:
        try:
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


@pytest.mark.usefixtures("ray_session")
def test_few_classes_go_to_tasks_where_that_is_asked_for():
    from vgse.pipeline.board import Board

    rng = np.random.default_rng(0)
    seen_SW, unseen_UW = rng.standard_normal((30, 8)), rng.standard_normal((10, 8))
    board, quiet = Board(), Progress("relate", quiet=True)
    on_tasks = solve_relations(unseen_UW, seen_SW, RelateConfig(), quiet, board=board, tasks_from=10)
    assert sum(board.nodes().values()) >= 2, "several chunks, so that several nodes could work"
    here = solve_relations(unseen_UW, seen_SW, RelateConfig(), quiet, board=(unused := Board()), tasks_from=11)
    assert unused.nodes() == {}
    np.testing.assert_allclose(on_tasks.dense(), here.dense(), atol=1e-12)


@pytest.mark.usefixtures("ray_session")
def test_every_class_once_with_a_worker_killed(shared):
    from gensim.models import KeyedVectors

    words = KeyedVectors.load_word2vec_format(str(shared / "data/word_vectors/glove_100d_22k.bin"), binary=True).vectors
    order = np.random.default_rng(0).permutation(len(words))[: SEEN + UNSEEN]
    prepared = prepare_words(words[order].astype(np.float64), np.arange(SEEN + UNSEEN) < SEEN, "centred")
    seen_SW, unseen_UW = prepared[:SEEN], prepared[SEEN:]
    progress = KillingProgress()
    relations = solve_relations(unseen_UW, seen_SW, RelateConfig(), progress)
    assert progress.killed is not None
    assert sum(progress.classes) == UNSEEN
    assert relations.r_US.shape == (UNSEEN, SEEN)
    assert len(relations.method_U) == len(relations.gap_U) == UNSEEN
    np.testing.assert_allclose(np.asarray(relations.r_US.sum(axis=1)).ravel(), 1, atol=1e-12)
    assert np.nanmax(relations.gap_U) < 1e-9
    # Each row belongs to its own class: some of them solved alone agree.
    rows = np.random.default_rng(1).choice(UNSEEN, 20, replace=False)
    alone = relate(unseen_UW[rows], seen_SW, alpha=0.0, ridge=0.5)
    np.testing.assert_allclose(relations.dense()[rows], alone.dense(), atol=1e-8)
