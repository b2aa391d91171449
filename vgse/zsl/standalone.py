"""`vgse evaluate --features res101.mat --splits att_splits.mat --embeddings mine.mat ...`: judging anyone's embeddings.

The same protocol, models and controls as for a run, on the published files of a benchmark; no cluster, no images.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import tyro
from pydantic import Field, ValidationError

from vgse import __version__
from vgse.config_inputs import Uris
from vgse.config_section import Section
from vgse.data.words import class_word_vectors, load_vocabulary, read_aliases
from vgse.errors import ConfigError, DataError
from vgse.storage import Storage
from vgse.zsl.benchmark_arms import RELATION, benchmark_arms
from vgse.zsl.benchmark_episodes import BenchmarkEpisode, choice_episode, final_episode
from vgse.zsl.controls import ARMS
from vgse.zsl.embedding_files import ClassEmbeddings, read_class_embeddings
from vgse.zsl.prepared import PreparedEpisode
from vgse.zsl.protocol import ModelResult, evaluate_arm_as_published, evaluate_arms
from vgse.zsl.settings import ZslSettings
from vgse.zsl.summary import aggregate
from vgse.zsl.table import evaluation_text
from vgse.zsl.xlsa17_reader import Benchmark, read_benchmark

_CONTROLS = re.compile("|".join(re.escape(arm) for arm in ARMS if arm != "vgse") + r"|random-\d+|att")


class StandaloneConfig(Section):
    """Judges class embeddings of any origin on a benchmark in the xlsa17 format, beside the same controls as a run."""

    features: str
    """Features of all images: a .mat file with `features` (F, N) and `labels` (N, 1), such as res101.mat."""
    splits: str
    """Classes and image numbers: a .mat file with `allclasses_names` and `*_loc`, such as att_splits.mat."""
    embeddings: Uris = ()
    """Files of class embeddings: .mat (`att`), .npz (`class_names`, `class_embeddings`) or .csv (name, numbers)."""
    att: bool = True
    """Judge the `att` of the splits file too."""
    word_vectors: str | None = None
    """Word vectors of the class names, for the word arms and to carry the controls to unseen classes."""
    aliases_file: str | None = None
    """YAML file with words to look up instead of class names."""
    models: tuple[Literal["eszsl", "sje", "prototype"], ...] = Field(
        default=("eszsl", "sje", "prototype"), min_length=1
    )
    """Zero-shot models."""
    match_lengths: bool = True
    """Bring every arm's unseen embeddings to the mean length of its seen ones, by one factor; T1 stays."""
    as_published: bool = False
    """Choose everything on the test set as released evaluation programs do: for published tables only."""
    random_draws: int = Field(default=1, ge=1)
    """How often the random control is drawn; its mean is shown."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything drawn at random."""
    out: str | None = None
    """Write the results here, in the form of evaluation.json."""


@dataclass(frozen=True)
class _Inputs:
    benchmark: Benchmark
    files: dict[str, ClassEmbeddings]
    uris: dict[str, str]
    words_CW: np.ndarray | None


def standalone_main(arguments: list[str]) -> None:
    """Judges what the command line names and prints the table and the comparisons.

    Raises:
        UserError: an option, a file or its content is wrong.
    """
    try:
        config = tyro.cli(StandaloneConfig, args=arguments, prog="vgse evaluate")
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise ConfigError(f"command line: {said}", "mend the option(s) named above") from None
    summary = evaluate_files(config, on_arm=lambda arm: print(f"judged {arm}", file=sys.stderr, flush=True))
    print("\n" + evaluation_text(summary, width=shutil.get_terminal_size((160, 24)).columns))
    if config.out:
        print(f"evaluation: {config.out}")


def evaluate_files(
    config: StandaloneConfig,
    storage: Storage | None = None,
    say: Callable[[str], None] = print,
    on_arm: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The evaluation of every file of embeddings, in the form of evaluation.json; written to `config.out` if given.

    Args:
        config: what to judge, and how.
        storage: where files are read and written.
        say: told of everything that is not as the files say.
        on_arm: called with the name of every finished arm.

    Raises:
        ConfigError: nothing to judge.
        DataError: a file that cannot be used, or files that do not fit together.
        StorageError: a file is not there, or `out` cannot be written.
    """
    storage, notes = storage or Storage(), []

    def note(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    inputs = _read(config, storage, note)
    if inputs.words_CW is None:
        first = next(iter(inputs.files))
        note(f"controls: carried to unseen classes by {first} itself; with --word-vectors, by the words of their names")
    settings = ZslSettings(models=config.models, match_lengths=config.match_lengths, seed=config.seed)
    final = final_episode(inputs.benchmark)
    results = _results(config, inputs, final, settings, note, on_arm or (lambda arm: None))
    names, seen_C = np.array(final.episode.class_names, object), final.episode.seen_C
    summary = aggregate(
        [results], [(names[seen_C].tolist(), names[~seen_C].tolist())], _compared(list(inputs.files), list(results))
    )
    summary["protocol"] |= _origin(config, inputs, final) | {"notes": notes}
    if config.out:
        storage.write_bytes(config.out, json.dumps(summary, indent=1).encode())
    return summary


def _read(config: StandaloneConfig, storage: Storage, note: Callable[[str], None]) -> _Inputs:
    if not config.embeddings and not config.att:
        raise ConfigError("there is nothing to judge", "give --embeddings FILE ..., or leave out --no-att")
    benchmark = read_benchmark(storage, config.features, config.splits)
    names, files, uris = benchmark.class_names, dict[str, ClassEmbeddings](), dict[str, str]()
    for uri in config.embeddings:
        arm = arm_name(uri, files)
        found = read_class_embeddings(storage, uri, names)
        if found.matched == "by order":
            note(f"{uri} names no classes: rows are taken in the order of {config.splits}")
        if found.unused:
            note(f"{uri}: {found.unused} of its rows are no class of {config.splits} and are not used")
        files[arm], uris[arm] = found, uri
    given = {storage.absolute(uri) for uri in config.embeddings}
    if config.att and storage.absolute(config.splits) not in given:
        if benchmark.att_CK is None:
            raise DataError(f"{config.splits}: the key att is missing", "give --no-att to do without, or add it")
        if not np.isfinite(benchmark.att_CK).all():
            raise DataError(f"{config.splits}: att holds numbers that are not finite", "mend it, or give --no-att")
        files["att"], uris["att"] = ClassEmbeddings(benchmark.att_CK, "by order"), config.splits
    return _Inputs(benchmark, files, uris, _words(config, storage, names))


def arm_name(uri: str, taken: Any) -> str:
    """The stem of a file as the name of its arm, made different from those taken and from the controls'."""
    stem = PurePosixPath(uri.replace(os.sep, "/")).stem
    stem = f"{stem}_file" if _CONTROLS.fullmatch(stem) else stem
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


def _words(config: StandaloneConfig, storage: Storage, names: tuple[str, ...]) -> np.ndarray | None:
    if config.word_vectors is None:
        if config.aliases_file is not None:
            raise ConfigError("--aliases-file is of no use without --word-vectors", "give both or neither")
        return None
    vocabulary = load_vocabulary(storage.local_copy(config.word_vectors))
    try:
        return class_word_vectors(names, vocabulary, read_aliases(storage, {}, config.aliases_file))
    except DataError as error:
        # There the fields of a run's configuration are named.
        message = re.sub(r"data\.(\w+)", lambda found: "--" + found[1].replace("_", "-"), error.message)
        raise DataError(message, "give other words with --aliases-file, or other word vectors") from None


def _results(
    config: StandaloneConfig,
    inputs: _Inputs,
    final: BenchmarkEpisode,
    settings: ZslSettings,
    note: Callable[[str], None],
    on_arm: Callable[[str], None],
) -> dict[str, dict[str, ModelResult]]:
    def arms(problem: BenchmarkEpisode, prepared: PreparedEpisode) -> dict[str, np.ndarray]:
        files = {arm: found.embeddings_CK for arm, found in inputs.files.items()}
        return benchmark_arms(problem, prepared, files, inputs.words_CW, config.seed, config.random_draws)

    prepared_final = PreparedEpisode(final.episode, settings)
    arms_final = arms(final, prepared_final)
    if config.as_published:
        results = {}
        for arm, e_CK in arms_final.items():
            results[arm] = evaluate_arm_as_published(e_CK, prepared_final, settings)
            on_arm(arm)
        return results
    choice = choice_episode(inputs.benchmark, config.seed, note)
    prepared = PreparedEpisode(choice.episode, settings)
    return evaluate_arms([arms(choice, prepared)], [prepared], arms_final, prepared_final, settings, on_arm)


def _compared(files: list[str], arms: list[str]) -> dict[str, list[str]]:
    """Every file against every control and against the files after it."""
    # Draws of the random control are compared as one.
    controls = [arm for arm in arms if arm not in files and not re.fullmatch(r"random-\d+", arm)]
    return {arm: [*files[number + 1 :], *controls] for number, arm in enumerate(files)}


def _origin(config: StandaloneConfig, inputs: _Inputs, final: BenchmarkEpisode) -> dict[str, Any]:
    """What was judged and where it came from, for the protocol."""
    first, seen_C = next(iter(inputs.files)), final.episode.seen_C
    words = f"word vectors of the class names ({config.word_vectors})"
    itself = f"the embeddings of {first} themselves: one_hot, random and permuted know what it knows of unseen classes"
    return {
        "version": __version__,
        "data": {"features": config.features, "splits": config.splits},
        "classes": {"seen": int(seen_C.sum()), "unseen": int((~seen_C).sum())},
        "images": {part: len(getattr(final.episode, part)) for part in ("train", "test_seen", "test_unseen")},
        "embeddings": {
            arm: {"file": inputs.uris[arm], "width": found.embeddings_CK.shape[1], "classes_matched": found.matched}
            for arm, found in inputs.files.items()
        },
        "relation": RELATION,
        "relation_from": words if inputs.words_CW is not None else itself,
        "oracle": "image prototypes, those of unseen classes from their test images: out of reach by design",
        "seed": config.seed,
    }
