"""What a run is going to do: everything read and checked before any work starts."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import yaml

from vgse.config import Config
from vgse.config_loading import fingerprint
from vgse.data.manifest import build_manifest, manifest_digest, manifest_table
from vgse.data.splits import ClassSplit, check_classes_have_images, read_split
from vgse.data.words import check_aliases, class_word_vectors, load_vocabulary, read_aliases
from vgse.errors import ConfigError
from vgse.receipts import Inputs, Receipts, stage_fingerprints
from vgse.storage import Storage, join, protocol


@dataclass(frozen=True)
class Problem:
    """One zero-shot problem: a class split, either as choices are made on it or as it is judged."""

    split: int
    phase: Literal["choice", "final"]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def name(self) -> str:
        """Unique within a run, e.g. `split-0-final`."""
        return f"split-{self.split}-{self.phase}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Seen classes, then unseen ones: the row order of every class matrix of this problem."""
        return self.seen + self.unseen

    @property
    def seen_mask(self) -> np.ndarray:
        """Bool (C,), true for seen classes."""
        return np.arange(len(self.classes)) < len(self.seen)


@dataclass(frozen=True)
class Plan:
    """A checked configuration with everything the stages read from it."""

    config: Config
    storage: Storage
    run: str
    splits: tuple[ClassSplit, ...]
    manifest: pd.DataFrame
    class_names: tuple[str, ...]
    words_CW: np.ndarray
    inputs: Inputs
    fingerprints: dict[str, str]

    @property
    def receipts(self) -> Receipts:
        """The receipts of the run directory."""
        return Receipts(self.storage, self.run)

    def uri(self, *parts: str) -> str:
        """A location inside the run directory."""
        return join(self.run, *parts)

    def problems(self) -> Iterator[Problem]:
        """The choice and the final problem of every class split."""
        for number, split in enumerate(self.splits):
            yield Problem(number, "choice", split.train, split.val)
            yield Problem(number, "final", split.seen, split.unseen)

    def problem_uri(self, problem: Problem, *parts: str) -> str:
        """Where a problem's class embeddings lie: the run directory itself for the first split's final problem."""
        if problem.split == 0 and problem.phase == "final":
            return self.uri(*parts)
        return self.uri("splits", f"{problem.split}-{problem.phase}", *parts)

    def words(self, names: tuple[str, ...]) -> np.ndarray:
        """Raw word vectors of `names`, float64 (len(names), W)."""
        row = {name: i for i, name in enumerate(self.class_names)}
        return self.words_CW[[row[name] for name in names]]


def make_plan(config: Config, *, fresh: bool = False) -> Plan:
    """Reads and checks the inputs of a run, writing nothing.

    Args:
        config: the configuration.
        fresh: list the images and read the word vectors again even where the run directory holds those of the same
            locations.

    Raises:
        UserError: whatever is wrong with the data, before any work starts.
    """
    storage = Storage(config.storage)
    run = _run_directory(storage, config.run)
    first = read_split(storage, config.data.classes)
    splits = tuple(first.redrawn(config.seed, number) for number in range(config.data.class_splits))
    names = tuple(sorted(first.all))
    before = {} if fresh else Receipts(storage, run).inputs() or {}
    sources = _sources(config, names)
    words_CW = _words(storage, config, run, names, before.get("words_from") == sources["words_from"])
    manifest = _manifest(storage, config, run, first, before.get("listed_from") == sources["listed_from"])
    check_classes_have_images(first, manifest.class_name.unique())
    inputs = Inputs(
        data=manifest_digest(manifest),
        split=fingerprint([first.train, first.val, first.unseen]),
        splits=fingerprint([[split.train, split.val, split.unseen] for split in splits]),
        words=fingerprint(words_CW.round(6).tolist()),
    )
    plan = Plan(config, storage, run, splits, manifest, names, words_CW, inputs, stage_fingerprints(config, inputs))
    plan.receipts.check_inputs(inputs)
    return plan


def write_plan(plan: Plan) -> None:
    """Writes what the stages and the next start read: configuration (without credentials), manifest, words."""
    storage = plan.storage
    text = yaml.safe_dump(plan.config.public_dict(), sort_keys=False)
    storage.write_bytes(plan.uri("config.yaml"), text.encode())
    sources = _sources(plan.config, plan.class_names)
    before = plan.receipts.inputs() or {}
    if any(before.get(name) != value for name, value in sources.items()):
        sink = io.BytesIO()
        np.savez(sink, words=np.array(plan.class_names), vectors=plan.words_CW)
        storage.write_bytes(plan.uri("words.npz"), sink.getvalue())
        storage.write_table(plan.uri("manifest.parquet"), manifest_table(plan.manifest))
    plan.receipts.write_inputs(plan.inputs, sources)


def _run_directory(storage: Storage, run: str) -> str:
    run_uri = storage.absolute(run)
    if run_uri != run and protocol(run) == "file" and "working_dir_files" in run_uri:
        raise ConfigError(
            f"run: the relative folder {run} would lie in the job's temporary working directory and be lost with it",
            "give a bucket, or an absolute path where the cluster has one node or a shared file system",
        )
    return run_uri


# The settings that decide which images there are.
_LISTED = {"images", "test_images", "format", "held_out_fraction", "images_per_class"}


def _sources(config: Config, names: tuple[str, ...]) -> dict[str, str]:
    data = config.data.model_dump(mode="json", include=_LISTED)
    return {
        "listed_from": fingerprint([data, config.storage.endpoint_url, names]),
        "words_from": fingerprint([config.data.word_vectors, config.data.aliases, config.data.aliases_file, names]),
    }


def _words(storage: Storage, config: Config, run: str, names: tuple[str, ...], unchanged: bool) -> np.ndarray:
    """Raw class word vectors; kept in the run directory, since a vocabulary of millions takes minutes to read."""
    if unchanged and storage.exists(join(run, "words.npz")):
        with np.load(io.BytesIO(storage.read_bytes(join(run, "words.npz"))), allow_pickle=False) as arrays:
            return arrays["vectors"]
    check_aliases(config.data.aliases, names)
    aliases = read_aliases(storage, config.data.aliases, config.data.aliases_file)
    vocabulary = load_vocabulary(storage.local_copy(config.data.word_vectors))
    return class_word_vectors(names, vocabulary, aliases)


def _manifest(storage: Storage, config: Config, run: str, split: ClassSplit, unchanged: bool) -> pd.DataFrame:
    if unchanged and storage.exists(join(run, "manifest.parquet")):
        return storage.read_table(join(run, "manifest.parquet")).to_pandas()
    return build_manifest(storage, config.data, [split])
