"""Sentences about settings that are allowed but ignored or unwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vgse.config import FINETUNE_ONLY, ClusterConfig, Config, DataConfig, RelateConfig

# The settings of each relation method.
_RELATE_READS = {
    "simplex": {"alpha", "ridge"},
    "weighted_average": {"neighbours", "eta"},
    "kernel_ridge": {"kernel_ridge"},
    "mean": {"alpha", "ridge", "neighbours", "eta", "kernel_ridge"},
}


def config_warnings(config: Config) -> list[str]:
    """Sentences about settings that are allowed but ignored or unwise."""
    said = []
    if config.cluster.num_clusters < 20:
        said.append(
            f"cluster.num_clusters = {config.cluster.num_clusters}: fewer than 20 clusters say little about classes"
        )
    if config.encode.weights == "none" and config.encode.backbone != "tiny":
        said.append(f"encode.weights = none: {config.encode.backbone} starts from random weights")
    said += [f"{field} is ignored: {why}" for field, why in _ignored(config)]
    if config.evaluate.protocol == "as_published":
        said.append("evaluate.protocol = as_published chooses on the test set; its figures compare with nothing honest")
    if config.cluster.bank_size < config.cluster.neighbours:
        said.append("cluster.bank_size is smaller than cluster.neighbours: only the bank's rows serve as neighbours")
    return said


def _default(field: str) -> Any:
    return ClusterConfig.model_fields[field].default


def _ignored(config: Config) -> Iterator[tuple[str, str]]:
    """Settings that were given a value of their own and have no effect, with the reason."""
    relate, knowledge, data = config.relate, config.knowledge, config.data
    if data.image_files and not data.classes.endswith(".mat"):
        yield "data.image_files", "data.classes is no att_splits.mat"
    if data.is_benchmark and data.held_out_fraction != DataConfig.model_fields["held_out_fraction"].default:
        yield "data.held_out_fraction", "data.classes says itself which images are held out"
    if data.class_names and (data.is_benchmark or data.format == "folder"):
        yield "data.class_names", "only tars and Parquet give classes as numbers"
    for field in sorted(_RELATE_READS["mean"] - _RELATE_READS[relate.method]):
        if getattr(relate, field) != RelateConfig.model_fields[field].default:
            yield f"relate.{field}", f"relate.method {relate.method} does not read it"
    if knowledge.text_fields and not knowledge.texts:
        yield "knowledge.text_fields", "knowledge.texts is not given"
    if knowledge.wordnet_senses and not knowledge.wordnet:
        yield "knowledge.wordnet_senses", "knowledge.wordnet is not given"
    if config.cluster.mode == "frozen":
        for field in FINETUNE_ONLY:
            if getattr(config.cluster, field) != ClusterConfig.model_fields[field].default:
                yield f"cluster.{field}", "cluster.mode is frozen"
    cluster = config.cluster
    if not cluster.validation_fit and cluster.validate_every not in (0, _default("validate_every")):
        yield "cluster.validate_every", "without cluster.validation_fit no network has val classes to look at"
    if config.evaluate.input_size is not None and config.cluster.mode == "finetune":
        yield "evaluate.input_size", "in finetune mode images are judged at the size the network was trained at"
