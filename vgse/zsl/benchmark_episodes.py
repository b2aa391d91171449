"""The episodes of a published benchmark: the final one, and the one that choices are made on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vgse.zsl.episode import Episode, ImageSet
from vgse.zsl.xlsa17_reader import Benchmark

# Of every class's training images kept aside as seen test images while choices are made, and of the seen classes held
# out where the file has no classes for that.
_HELD_OUT = 0.2


@dataclass(frozen=True)
class BenchmarkEpisode:
    """An episode whose classes are some of a benchmark's.

    Attributes:
        episode: with its own class numbers.
        classes: (C,) the benchmark's class number of each of the episode's classes, ascending.
    """

    episode: Episode
    classes: np.ndarray


def final_episode(benchmark: Benchmark) -> BenchmarkEpisode:
    """The published problem: fitted on trainval_loc, tested on test_seen_loc and test_unseen_loc.

    Raises:
        DataError: a seen class without training or test images, named.
    """
    return _episode(benchmark, benchmark.trainval, benchmark.test_seen, benchmark.test_unseen)


def choice_episode(benchmark: Benchmark, seed: int, say: Callable[[str], None]) -> BenchmarkEpisode:
    """The problem that choices are made on: classes of train_loc as seen, those of val_loc as pseudo-unseen.

    The published train_loc and val_loc hold the images of test_seen_loc too; only images of trainval_loc are used, so
    that no test image takes part in a choice. Where train_loc and val_loc are missing or share classes, a fifth of the
    seen classes is drawn as pseudo-unseen instead.

    Args:
        benchmark: the benchmark.
        seed: of the training images kept aside as seen test images, and of classes drawn.
        say: told what was done other than the file says.

    Raises:
        DataError: a seen class with fewer than two training images, named.
    """
    rng, labels_N = np.random.default_rng([seed, 0]), benchmark.labels_N
    parts = _published_parts(benchmark, say)
    if parts is None:
        classes = np.unique(labels_N[benchmark.trainval])
        drawn = rng.permutation(classes)[: max(1, round(_HELD_OUT * len(classes)))]
        say(f"choices: {len(drawn)} of {len(classes)} seen classes drawn as pseudo-unseen (seed {seed})")
        in_val = np.isin(labels_N[benchmark.trainval], drawn)
        parts = benchmark.trainval[~in_val], benchmark.trainval[in_val]
    kept, aside = _set_aside(parts[0], labels_N, rng)
    return _episode(benchmark, kept, aside, parts[1])


def _published_parts(benchmark: Benchmark, say: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray] | None:
    if benchmark.train is None or benchmark.val is None:
        say("choices: the splits file has no train_loc and val_loc")
        return None
    train, val = (np.intersect1d(part, benchmark.trainval) for part in (benchmark.train, benchmark.val))
    both = np.intersect1d(benchmark.labels_N[train], benchmark.labels_N[val])
    if len(both) or not len(train) or not len(val):
        why = f"share {len(both)} classes" if len(both) else "hold no image of trainval_loc"
        say(f"choices: train_loc and val_loc {why}, which is no zero-shot problem")
        return None
    left_out = len(benchmark.train) + len(benchmark.val) - len(train) - len(val)
    if left_out:
        say(f"choices: {left_out} images of train_loc and val_loc are test images or outside trainval_loc: left out")
    return train, val


def _set_aside(rows: np.ndarray, labels_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images that stay and images kept aside, a fifth of each class (at least one)."""
    rows = np.sort(rows)
    shuffled = rows[rng.permutation(len(rows))]
    # Grouped by class, in random order within.
    grouped = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    _, first, count = np.unique(labels_N[grouped], return_index=True, return_counts=True)
    place = np.arange(len(grouped)) - np.repeat(first, count)
    aside = place < np.repeat(np.maximum(1, np.round(_HELD_OUT * count)), count)
    return np.sort(grouped[~aside]), np.sort(grouped[aside])


def _episode(
    benchmark: Benchmark, train: np.ndarray, test_seen: np.ndarray, test_unseen: np.ndarray
) -> BenchmarkEpisode:
    labels_N = benchmark.labels_N
    seen = np.union1d(labels_N[train], labels_N[test_seen])
    classes = np.union1d(seen, labels_N[test_unseen])
    parts = (
        ImageSet(benchmark.features_NF[rows], np.searchsorted(classes, labels_N[rows]))
        for rows in (train, test_seen, test_unseen)
    )
    names = tuple(benchmark.class_names[c] for c in classes)
    return BenchmarkEpisode(Episode(names, np.isin(classes, seen), *parts), classes)
