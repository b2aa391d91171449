"""The journal of a campaign: one file per ended trial, written whole, so that a killed campaign loses none of them.

    tuning/campaigns/<fingerprint>/campaign.json        what is searched
    tuning/campaigns/<fingerprint>/asked/00003.json     the settings of trial 3, where they were picked on the way
    tuning/campaigns/<fingerprint>/trials/00003.json    how trial 3 ended

A campaign with another space, metric or base configuration has another fingerprint and so a journal of its own; more
trials of the same one go on in the same journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from vgse.config import Config
from vgse.config_loading import fingerprint
from vgse.storage import Storage, join
from vgse.tuning.space import Settings

# Settings of a campaign that change how far or how fast it goes, not what its trials are.
_WITHOUT_EFFECT = {"trials", "time_budget_s", "max_concurrent", "gpus_per_trial"}


@dataclass(frozen=True)
class Record:
    """How one trial ended.

    Attributes:
        number: of the trial in its campaign, from 0.
        settings: its trained settings.
        status: `done` (trained and scored), `stopped` by ASHA, or `failed`.
        reason: why it was stopped or failed.
        epochs: of its first fit that were done.
        training_s: seconds of all its epochs, those of earlier starts included.
        scoring_s: seconds of embedding classes and scoring relations.
        figures: for each scored setting of the campaign, in order, `val_T1` and `val_H`; empty unless done.
        curve: every epoch's figures of its first fit.
        looks: the val figure at each of ASHA's looks, by epoch.
    """

    number: int
    settings: Settings
    status: Literal["done", "stopped", "failed"]
    reason: str = ""
    epochs: int = 0
    training_s: float = 0.0
    scoring_s: float = 0.0
    figures: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    looks: dict[str, float] = field(default_factory=dict)
    ended_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def best(self, metric: str) -> float | None:
        """The highest figure over the scored settings, None where there is none."""
        return max((each[metric] for each in self.figures), default=None)


def campaign_fingerprint(config: Config, evaluate: str, on_gpu: bool) -> str:
    """What a campaign's trials depend on: its own settings, the fingerprint of the last stage of its base, and whether
    they run on GPUs."""
    return fingerprint([config.tune.model_dump(mode="json", exclude=_WITHOUT_EFFECT), evaluate, on_gpu])


class Journal:
    """The journal in `folder`, which need not exist yet."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder

    def begin(self, what: Mapping[str, Any]) -> None:
        """Notes what is searched, for people."""
        self._write(dict(what), "campaign.json")

    def ended(self) -> dict[int, Record]:
        """The trials that have ended, by number."""
        return {record.number: record for record in (Record(**each) for each in self._read("trials"))}

    def end(self, record: Record) -> None:
        """Declares a trial ended."""
        self._write(asdict(record), "trials", f"{record.number:05d}.json")

    def asked(self) -> dict[int, Settings]:
        """Settings that were picked on the way, by number, ended or not."""
        return {each["number"]: each["settings"] for each in self._read("asked")}

    def ask(self, number: int, settings: Settings) -> None:
        """Notes the settings of a trial before it starts."""
        self._write({"number": number, "settings": settings}, "asked", f"{number:05d}.json")

    def _read(self, folder: str) -> list[dict[str, Any]]:
        names = self._storage.list_names(join(self._folder, folder))
        uris = [join(self._folder, folder, name) for name in names if name.endswith(".json")]
        found = []
        for data in self._storage.read_many(uris):
            if isinstance(data, Exception):
                raise data
            found.append(json.loads(data))
        return sorted(found, key=lambda each: each["number"])

    def _write(self, values: dict[str, Any], *parts: str) -> None:
        self._storage.write_bytes(join(self._folder, *parts), json.dumps(values, indent=1).encode())
