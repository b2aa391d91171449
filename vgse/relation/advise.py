"""What a user should know about the word vectors and settings before trusting the relations."""

from collections.abc import Sequence

import numpy as np

from vgse.relation.problem import check_matrix, check_settings, check_unseen

# So many class names are written out per warning; the rest is counted.
_MOST_NAMES = 8
# Rows whose norms differ by more than this factor no longer contribute comparably to one least-squares fit.
_NORM_RATIO = 100.0


def advise(
    words_UW: np.ndarray,
    words_SW: np.ndarray,
    *,
    alpha: float,
    ridge: float,
    seen_names: Sequence[str],
    unseen_names: Sequence[str],
) -> list[str]:
    """Warnings, one sentence or two each; empty where there is nothing to say.

    Raises:
        DataError: a vector holds NaN or infinity (the row is named).
        ValueError: a setting out of range, or matrices and names that do not fit.
    """
    alpha, ridge = check_settings(alpha, ridge)
    words_SW = check_matrix(words_SW, "words_SW")
    words_UW = check_unseen(words_UW, words_SW.shape[1])
    for field, names, words in (("seen_names", seen_names, words_SW), ("unseen_names", unseen_names, words_UW)):
        if len(names) != words.shape[0]:
            raise ValueError(f"{field} has {len(names)} entries for {words.shape[0]} word vectors")
    seen, width = words_SW.shape
    warnings = []
    if seen > width and alpha < 0.0 and ridge == 0.0:
        warnings.append(
            f"alpha = {alpha:g} with {seen} seen classes and {width} word dimensions and no ridge is underdetermined: "
            "many r fit the words equally well and the one chosen may mean little; use alpha = 0 or a ridge"
        )
    warnings += _scaling(words_SW, words_UW, seen_names, unseen_names)
    warnings += _equal_rows(words_SW, words_UW, seen_names, unseen_names)
    return warnings


def _scaling(
    words_SW: np.ndarray, words_UW: np.ndarray, seen_names: Sequence[str], unseen_names: Sequence[str]
) -> list[str]:
    warnings = []
    words, names = np.vstack([words_SW, words_UW]), [*seen_names, *unseen_names]
    # By the largest entry first, so that squares neither overflow nor vanish.
    largest = float(np.abs(words).max(initial=0.0)) or 1.0
    norms = np.linalg.norm(words / largest, axis=1)
    zero = np.flatnonzero(~words.any(axis=1))
    if zero.size:
        warnings.append(f"{zero.size} word vectors are zero: {_listed(names[i] for i in zero)}")
    positive = norms[norms > 0]
    if positive.size:
        median = float(np.median(positive))
        odd = np.flatnonzero((norms > 0) & ((norms > _NORM_RATIO * median) | (norms * _NORM_RATIO < median)))
        if odd.size:
            warnings.append(
                f"{odd.size} word vectors are badly scaled (norm more than {_NORM_RATIO:g} times off the median): "
                f"{_listed(names[i] for i in odd)}; one global scale is right, but check these rows"
            )
    return warnings


def _equal_rows(
    words_SW: np.ndarray, words_UW: np.ndarray, seen_names: Sequence[str], unseen_names: Sequence[str]
) -> list[str]:
    warnings = []
    # -0.0 and 0.0 are the same number but not the same bytes; adding 0.0 makes them so.
    seen_keys, unseen_keys = ([row.tobytes() for row in words + 0.0] for words in (words_SW, words_UW))
    first_seen: dict[bytes, str] = {}
    repeats = []
    for name, key in zip(seen_names, seen_keys, strict=True):
        if key in first_seen:
            repeats.append(f"{name} = {first_seen[key]}")
        else:
            first_seen[key] = name
    if repeats:
        warnings.append(
            f"{len(repeats)} seen classes share another seen class's word vector and split its weight evenly: "
            f"{_listed(repeats)}"
        )
    equal = [
        f"{name} = {first_seen[key]}" for name, key in zip(unseen_names, unseen_keys, strict=True) if key in first_seen
    ]
    if equal:
        warnings.append(
            f"{len(equal)} unseen classes have exactly a seen class's word vector and cannot be told from it: "
            f"{_listed(equal)}"
        )
    first_unseen: dict[bytes, str] = {}
    twins = []
    for name, key in zip(unseen_names, unseen_keys, strict=True):
        if key in first_unseen:
            twins.append(f"{name} = {first_unseen[key]}")
        else:
            first_unseen[key] = name
    if twins:
        warnings.append(f"{len(twins)} unseen classes share another unseen class's word vector: {_listed(twins)}")
    return warnings


def _listed(names) -> str:
    names = [str(name) for name in names]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
