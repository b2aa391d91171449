"""How an evaluation made its choices, read off its results, so that none can be shown under the wrong name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from vgse.zsl.protocol import ModelResult

Mode = Literal["honest", "as-published"]

AS_PUBLISHED_TITLE = "AS PUBLISHED (chosen on the test set): "
"""Stands before every title and sentence of an evaluation whose choices were made on the test set."""

CHOICES: dict[Mode, str] = {
    "honest": "hyperparameters, epochs and calibration were chosen on the validation classes, nothing on test images",
    "as-published": "hyperparameters, epochs and calibration were chosen on the test set, as in the released "
    "evaluation: for comparison with published tables only",
}


def mode_of(per_split: Sequence[Mapping[str, Mapping[str, ModelResult]]]) -> Mode:
    """`as-published` where the results say that they were chosen on the test set (`on_test`), else `honest`.

    Raises:
        ValueError: results of both kinds, which must not stand side by side.
    """
    found: set[Mode] = {
        "as-published" if any("on_test" in chosen for chosen in result.chosen.values()) else "honest"
        for split in per_split
        for models in split.values()
        for result in models.values()
    }
    if len(found) > 1:
        raise ValueError("results chosen on the test set and results chosen without it do not belong in one table")
    return found.pop() if found else "honest"


def title_prefix(mode: Mode) -> str:
    """What a title or sentence of such an evaluation begins with; nothing for an honest one."""
    return AS_PUBLISHED_TITLE if mode == "as-published" else ""
