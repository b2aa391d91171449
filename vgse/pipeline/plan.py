"""What a run is going to do: everything read and checked before any work starts."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import yaml

from vgse.config import Config, DataConfig
from vgse.config_loading import fingerprint
from vgse.config_warnings import config_warnings
from vgse.data.knowledge import Source, check_weights, fuse, missing_report, read_sources
from vgse.data.manifest import build_manifest, manifest_digest, manifest_from, manifest_table
from vgse.data.readers.xlsa17 import image_files_uri, read_benchmark_files
from vgse.data.splits import ClassSplit, check_classes_have_images, check_seen_classes_train, read_split
from vgse.data.words import check_aliases, class_word_vectors, load_vocabulary, read_aliases
from vgse.errors import ConfigError
from vgse.pipeline.problems import Problem, Round, rounds
from vgse.receipts import Inputs, Receipts, stage_fingerprints
from vgse.storage import Storage, join, protocol


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
    sources: tuple[Source, ...]
    inputs: Inputs
    fingerprints: dict[str, str]

    @property
    def receipts(self) -> Receipts:
        """The receipts of the run directory."""
        return Receipts(self.storage, self.run)

    def uri(self, *parts: str) -> str:
        """A location inside the run directory."""
        return join(self.run, *parts)

    def rounds(self) -> Iterator[Round]:
        """Every class split under every seed."""
        return rounds(self.config, self.splits)

    def problems(self) -> Iterator[Problem]:
        """The problems of all rounds."""
        for each in self.rounds():
            yield from each.problems

    def problem_uri(self, problem: Problem, *parts: str) -> str:
        """Where a problem's class embeddings lie: the run directory itself for the main one."""
        return self.uri(*parts) if problem.main else self.uri("splits", problem.name.removeprefix("split-"), *parts)

    def words(self, names: tuple[str, ...]) -> np.ndarray:
        """Raw word vectors of `names`, float64 (len(names), W)."""
        return self.words_CW[self._rows(names)]

    def known(self, problem: Problem) -> np.ndarray:
        """What the problem's classes are known by, all sources fused: float64 (C, D), the columns of `blocks`."""
        rows = self._rows(problem.classes)
        sources = [Source(source.name, source.vectors_CD[rows], source.known_C[rows]) for source in self.sources]
        return fuse(sources, self.config.knowledge.weights, problem.seen_mask, self.config.relate.words)

    @property
    def seen_somewhere(self) -> set[str]:
        """Classes that are seen in some split, and so need images to train on."""
        return {name for split in self.splits for name in split.seen}

    @property
    def blocks(self) -> list[slice]:
        """The columns of each source in `known`; a source of weight 0 has none."""
        weights = self.config.knowledge.weights
        used = [source for source in self.sources if weights.get(source.name, 1.0) > 0]
        ends = np.cumsum([0, *(source.vectors_CD.shape[1] for source in used)])
        return [slice(start, end) for start, end in pairwise(ends.tolist())]

    def warnings(self) -> list[str]:
        """What should be said before any work starts: which classes a source does not know."""
        return missing_report(self.sources, self.class_names)

    @property
    def more_than_names(self) -> bool:
        """Whether classes are known by anything beside the word vectors of their names."""
        weights = self.config.knowledge.weights
        return [s.name for s in self.sources if weights.get(s.name, 1.0) > 0] != ["names"]

    def with_mended(self) -> Plan:
        """The plan with what crop took in later by its receipt, which all stages after crop depend on."""
        receipt = self.receipts.done("crop", self.fingerprints["crop"])
        inputs = replace(self.inputs, mended=receipt.details.get("mended", "") if receipt else "")
        return replace(self, inputs=inputs, fingerprints=stage_fingerprints(self.config, inputs))

    def _rows(self, names: tuple[str, ...]) -> list[int]:
        row = {name: i for i, name in enumerate(self.class_names)}
        return [row[name] for name in names]


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
    first = _classes(storage, config.data)
    splits = tuple(first.redrawn(config.seed, number) for number in range(config.data.class_splits))
    names = tuple(sorted(first.all))
    before = {} if fresh else Receipts(storage, run).inputs() or {}
    sources_of = _sources(storage, config, names)
    known_before = before.get("words_from") == sources_of["words_from"] and _unedited(before, sources_of)
    words_CW, sources = _knowledge(storage, config, run, names, known_before)
    check_weights(config.knowledge.weights, sources)
    manifest = _manifest(storage, config, run, first, before.get("listed_from") == sources_of["listed_from"])
    check_classes_have_images(first, manifest.class_name.unique())
    check_seen_classes_train(splits, manifest.class_name[manifest.role == "train"].unique())
    inputs = Inputs(
        data=manifest_digest(manifest),
        split=fingerprint([first.train, first.val, first.unseen]),
        splits=fingerprint([[split.train, split.val, split.unseen] for split in splits]),
        words=_digest(words_CW),
        knowledge=fingerprint([[s.name, _digest(s.vectors_CD), s.known_C.tolist()] for s in sources]),
    )
    fingerprints = stage_fingerprints(config, inputs)
    plan = Plan(config, storage, run, splits, manifest, names, words_CW, tuple(sources), inputs, fingerprints)
    plan.receipts.check_inputs(inputs)
    for problem in plan.problems():
        if not all(source.known_C.all() for source in sources):
            plan.known(problem)
    return plan.with_mended()


def announced_plan(config: Config) -> Plan:
    """`make_plan`, with everything said that should be before any work starts."""
    for sentence in config_warnings(config):
        print(f"warning: {sentence}", file=sys.stderr)
    plan = make_plan(config)
    for sentence in plan.warnings():
        print(f"warning: {sentence}", file=sys.stderr)
    print(f"run directory: {plan.run}", flush=True)
    return plan


def write_plan(plan: Plan) -> None:
    """Writes what the stages and the next start read: configuration (without credentials), manifest, words."""
    storage = plan.storage
    text = yaml.safe_dump(plan.config.public_dict(), sort_keys=False)
    storage.write_bytes(plan.uri("config.yaml"), text.encode())
    sources = _sources(storage, plan.config, plan.class_names)
    before = plan.receipts.inputs() or {}
    if any(before.get(name) != value for name, value in sources.items()):
        # Forgotten first, so that a kill in between leaves nothing that passes for what another setting wrote.
        plan.receipts.forget_inputs()
        storage.write_bytes(plan.uri("knowledge.npz"), _packed(plan))
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


def _classes(storage: Storage, data: DataConfig) -> ClassSplit:
    return (
        read_benchmark_files(storage, data).split
        if data.classes.endswith(".mat")
        else read_split(storage, data.classes)
    )


def _sources(storage: Storage, config: Config, names: tuple[str, ...]) -> dict[str, str]:
    """Digests of where images and knowledge are read from; files that were edited in place are read again."""
    listed = config.data.model_dump(mode="json", include=_LISTED)
    mats = [config.data.classes, image_files_uri(config.data)] if config.data.is_benchmark else []
    # What names classes beside the images' own places; nothing for most data sets, whose digest stays as it was.
    naming = {uri: storage.stamp(uri) for uri in (*mats, config.data.class_names) if uri}
    knowledge = config.knowledge
    folder = join(knowledge.wordnet, "data.noun") if knowledge.wordnet else None
    taxonomy = None if knowledge.taxonomy in ("texts", "wordnet") else knowledge.taxonomy
    files = [config.data.word_vectors, config.data.aliases_file, knowledge.texts, folder, knowledge.wordnet_senses]
    stamps = [storage.stamp(uri) for uri in (*files, taxonomy, knowledge.vectors) if uri]
    known = [knowledge.model_dump(mode="json", exclude={"weights"}), names]
    return {
        "listed_from": fingerprint([listed, config.storage.endpoint_url, names, *([naming] if naming else [])]),
        "words_from": fingerprint([config.data.word_vectors, config.data.aliases, config.data.aliases_file, *known]),
        "words_stamps": " ".join(stamps),
    }


def _unedited(before: dict[str, Any], now: dict[str, str]) -> bool:
    """Whether the files of knowledge are those read before; one that has gone is no reason to read it again."""
    pairs = zip(before.get("words_stamps", "").split(" "), now["words_stamps"].split(" "), strict=False)
    return all(after in ("", earlier) for earlier, after in pairs)


def _knowledge(
    storage: Storage, config: Config, run: str, names: tuple[str, ...], unchanged: bool
) -> tuple[np.ndarray, list[Source]]:
    """Raw word vectors of the class names and all sources; kept in the run directory, since a vocabulary of millions
    takes minutes to read."""
    if unchanged and storage.exists(join(run, "knowledge.npz")):
        with np.load(io.BytesIO(storage.read_bytes(join(run, "knowledge.npz"))), allow_pickle=False) as arrays:
            kept = [str(name) for name in arrays["sources"]]
            return arrays["words"], [Source(n, arrays[f"{n} vectors"], arrays[f"{n} known"]) for n in kept]
    check_aliases(config.data.aliases, names)
    aliases = read_aliases(storage, config.data.aliases, config.data.aliases_file)
    vocabulary = load_vocabulary(storage.local_copy(config.data.word_vectors))
    words_CW = class_word_vectors(names, vocabulary, aliases)
    return words_CW, read_sources(storage, config.knowledge, names, words_CW, vocabulary)


def _packed(plan: Plan) -> bytes:
    arrays: dict[str, Any] = {"class_names": np.array(plan.class_names), "words": plan.words_CW}
    arrays["sources"] = np.array([source.name for source in plan.sources])
    for source in plan.sources:
        arrays |= {f"{source.name} vectors": source.vectors_CD, f"{source.name} known": source.known_C}
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def _digest(array: np.ndarray) -> str:
    # Rounded, so that another order of adding up a mean is no other word vector.
    return hashlib.sha256(np.ascontiguousarray(array.round(6) + 0.0).tobytes()).hexdigest()[:16]


def _manifest(storage: Storage, config: Config, run: str, split: ClassSplit, unchanged: bool) -> pd.DataFrame:
    if unchanged and storage.exists(join(run, "manifest.parquet")):
        return manifest_from(storage.read_table(join(run, "manifest.parquet")))
    return build_manifest(storage, config.data, [split])
