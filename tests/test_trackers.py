"""MLflow and W&B: refused before any work where they are missing, left out with a warning where they fail.

The services themselves are not among the test's packages; these tests give the trackers a stand-in that keeps a list.
"""

from __future__ import annotations

from typing import Any

import pytest

from vgse.errors import ConfigError
from vgse.pipeline import trackers
from vgse.pipeline.trackers import Trackers, check_trackers


class Kept:
    """A tracker that keeps what it is told, over restarts."""

    said: list[Any]
    fails = False

    def open(self, run: str, fit: str, settings: dict[str, Any]) -> None:
        self.said.append(("open", fit))

    def log(self, figures: dict[str, float]) -> None:
        if self.fails:
            raise ConnectionError("no route to the server\nand more")
        self.said.append(figures["epoch"])

    def close(self) -> None:
        self.said.append("close")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
    fresh = type("Fresh", (Kept,), {"said": [], "fails": False})
    monkeypatch.setattr(trackers, "_TRACKERS", {"mlflow": fresh})
    return fresh


def test_a_package_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    check_trackers([])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    check_trackers(["mlflow"])
    with pytest.raises(ConfigError, match=r"cluster\.log_to asks for wandb(.|\n)*pip install wandb"):
        check_trackers(["mlflow", "wandb"])


def test_every_fit_is_a_run_of_its_own(kept: type[Kept]):
    warned: list[str] = []
    all_of_them = Trackers(["mlflow"], "r", {}, warned.append)
    for fit, epoch in (("choice", 1), ("choice", 2), ("final", 1)):
        all_of_them.epoch({"fit": fit, "epoch": epoch, "loss": 1.0})
    all_of_them.close()
    assert kept.said == [("open", "choice"), 1, 2, "close", ("open", "final"), 1, "close"]
    assert warned == []


def test_a_service_that_fails_is_left_out_with_one_warning(kept: type[Kept]):
    kept.fails = True
    warned: list[str] = []
    all_of_them = Trackers(["mlflow"], "r", {}, warned.append)
    for epoch in (1, 2):
        all_of_them.epoch({"fit": "choice", "epoch": epoch})
    all_of_them.close()
    assert warned == [
        "warning: mlflow failed (ConnectionError: no route to the server); figures stand in metrics.jsonl"
    ]
