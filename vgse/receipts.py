"""Receipts: what each stage consumed and produced. The only place where "done" is decided.

A stage's fingerprint is a digest of its own settings and of the fingerprints of what it reads, so a change reaches
exactly the stages after it. A stage is done when the receipt in the run directory carries its present fingerprint. A
marker written at its start carries it too: what an interrupted attempt with the same fingerprint left is kept and
continued, anything else is removed first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from vgse import __version__
from vgse.config import FINETUNE_ONLY, Config
from vgse.config_loading import fingerprint
from vgse.errors import RunDirectoryError
from vgse.storage import Storage, join

STAGES = ("crop", "encode", "cluster", "embed", "relate", "evaluate")

# What a stage reads from others. `data` is the manifest, `splits` the class splits, `words` the word vectors of the
# class names, `knowledge` all that classes are known by. `patch_features` and `image_features` are the two parts of
# encode: one for training, one for the evaluation, so that a change to either leaves the other's readers alone.
_READS: Mapping[str, tuple[str, ...]] = {
    "crop": ("data",),
    "patch_features": ("crop", "mended", "splits"),
    "image_features": ("crop", "mended"),
    "encode": ("patch_features", "image_features"),
    "cluster": ("patch_features", "words"),
    "embed": ("cluster", "image_features"),
    "relate": ("embed", "knowledge"),
    "evaluate": ("relate",),
}

# Raised when the code of a stage changes what it writes, so that older results are not taken for its own.
_VERSIONS: Mapping[str, int] = {**dict.fromkeys(_READS, 1), "crop": 2, "cluster": 2}

# Settings that change how a stage runs but not what it writes.
_WITHOUT_EFFECT = {
    "crop": {"max_quarantined"},
    "cluster": {
        "max_failures", "checkpoint_every", "validate_every", "validation_images", "keep_best", "serve", "log_to",
        "accumulate", "compile",
    }
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Digests of what a run starts from: its images, its first class split, all its class splits, the word vectors of
    its class names, all that its classes are known by; and of the images that crop quarantined at first and took in
    later (empty where there are none)."""

    data: str
    split: str
    splits: str
    words: str
    knowledge: str
    mended: str = ""


@dataclass(frozen=True)
class Receipt:
    """What one finished stage left behind."""

    stage: str
    fingerprint: str
    rows_in: int
    rows_out: int
    quarantined: int
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)
    version: str = __version__
    finished_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def rate(self) -> float:
        """Rows out per second."""
        return self.rows_out / self.seconds if self.seconds > 0 else 0.0


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """The settings that decide what `stage` (or a part of encode) writes."""
    finetune = config.cluster.mode == "finetune"
    if stage in _SETTINGS_ELSEWHERE:
        return _SETTINGS_ELSEWHERE[stage](config, finetune)
    ignored = _WITHOUT_EFFECT.get(stage, set()) | (set() if finetune or stage != "cluster" else set(FINETUNE_ONLY))
    section = getattr(config, stage).model_dump(mode="json", exclude=ignored)
    if stage == "evaluate":
        return {**section, "seed": config.seed, "seeds": config.seeds}
    if stage == "relate":
        return {**section, "weights": config.knowledge.weights}
    if stage == "cluster":
        folds = {"folds"} if config.cluster.validation_fit else set()
        # What is not set stays out, so that fits made before there was such a setting are still theirs.
        kept_aside = {"choice_held_out", "choice_images"}
        evaluate = config.evaluate.model_dump(mode="json", include={*kept_aside, *folds}, exclude_none=True)
        return {**section, **evaluate, "seed": config.seed, "seeds": config.seeds}
    return section


def _patch_features(config: Config, finetune: bool) -> dict[str, Any]:
    return {**config.encode.model_dump(mode="json", exclude={"batch_size"}), "finetune": finetune}


def _image_features(config: Config, finetune: bool) -> dict[str, Any]:
    size = config.encode.input_size if finetune else config.evaluate.input_size or config.encode.input_size
    backbone = config.encode.model_dump(mode="json", include={"backbone", "weights"})
    return {**backbone, "input_size": size, "features": config.evaluate.features, "finetune": finetune}


_SETTINGS_ELSEWHERE = {
    "encode": lambda config, finetune: {},
    "patch_features": _patch_features,
    "image_features": _image_features,
    # The last checkpoint is what was always served, so that naming it changes nothing.
    "embed": lambda config, finetune: {"serve": "best"} if config.cluster.serve == "best" else {},
}


def stage_fingerprints(config: Config, inputs: Inputs) -> dict[str, str]:
    """The fingerprint every stage, and each part of encode, would have with this configuration on these inputs."""
    known = asdict(inputs)
    for stage, reads in _READS.items():
        read = {name: known[name] for name in reads if name != "mended" or known[name]}
        content = {"settings": stage_settings(config, stage), "reads": read}
        known[stage] = fingerprint({**content, "v": _VERSIONS[stage]})
    return {stage: known[stage] for stage in _READS}


class Receipts:
    """The receipts of one run directory."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage = storage
        self._folder = join(run, "receipts")

    def read(self, stage: str) -> Receipt | None:
        """The receipt of `stage`, whatever configuration it was made with."""
        values = self._read_json(f"{stage}.json")
        return Receipt(**values) if values else None

    def done(self, stage: str, expected: str) -> Receipt | None:
        """The receipt of `stage` if it was finished with the fingerprint `expected`."""
        receipt = self.read(stage)
        return receipt if receipt is not None and receipt.fingerprint == expected else None

    def begin(self, stage: str, expected: str, outputs: Sequence[str]) -> bool:
        """Prepares `stage` to run; True where an interrupted attempt left results that can be continued.

        Anything else at `outputs` is removed, after the old receipt, so that no kill leaves a receipt without results.
        """
        if self.read(stage) is None and self.begun(stage, expected):
            return True
        self._storage.remove_tree(join(self._folder, f"{stage}.json"))
        for uri in outputs:
            self._storage.remove_tree(uri)
        self._write_json(f"{stage}.started.json", {"fingerprint": expected})
        return False

    def begun(self, stage: str, expected: str) -> bool:
        """Whether `stage` was finished with the fingerprint `expected`, or interrupted so that it can be continued."""
        if (receipt := self.read(stage)) is not None:
            return receipt.fingerprint == expected
        return (self._read_json(f"{stage}.started.json") or {}).get("fingerprint") == expected

    def reopen(self, stage: str, expected: str) -> None:
        """Makes a finished stage one that can be continued: `begin` will keep what it has."""
        self._write_json(f"{stage}.started.json", {"fingerprint": expected})
        self._storage.remove_tree(join(self._folder, f"{stage}.json"))

    def finish(self, receipt: Receipt) -> None:
        """Declares a stage done. Without its marker, a receipt that is removed makes the stage start from nothing."""
        self._write_json(f"{receipt.stage}.json", asdict(receipt))
        self._storage.remove_tree(join(self._folder, f"{receipt.stage}.started.json"))

    def inputs(self) -> dict[str, Any] | None:
        """What the run directory was started from, None where it is new."""
        return self._read_json("inputs.json")

    def check_inputs(self, inputs: Inputs) -> None:
        """Refuses a run directory that belongs to another data set or class split.

        Raises:
            RunDirectoryError: says which of the two differ.
        """
        before = self.inputs() or {}
        names = {"data": "another data set", "split": "another class split"}
        differing = [
            what for key, what in names.items() if before.get(key, getattr(inputs, key)) != getattr(inputs, key)
        ]
        if differing:
            raise RunDirectoryError(
                f"run: {self._folder.rsplit('/', 1)[0]} holds results of {' and '.join(differing)}",
                "give `run` another directory, or remove this one",
            )

    def forget_inputs(self) -> None:
        """Unties the run directory from its inputs until they are written anew."""
        self._storage.remove_tree(join(self._folder, "inputs.json"))

    def write_inputs(self, inputs: Inputs, sources: Mapping[str, str]) -> None:
        """Ties the run directory to its inputs. `sources` are digests of where they were read from."""
        self._write_json("inputs.json", {**asdict(inputs), **sources})

    def _read_json(self, name: str) -> dict[str, Any] | None:
        uri = join(self._folder, name)
        return json.loads(self._storage.read_bytes(uri)) if self._storage.exists(uri) else None

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        self._storage.write_bytes(join(self._folder, name), json.dumps(values, indent=1).encode())
