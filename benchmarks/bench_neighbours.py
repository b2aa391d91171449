"""Whether the bank's neighbours are as good as exact ones: CIFAR-100 patch features, several seeds.

    uv run python benchmarks/bench_neighbours.py --run runs/quality     # a run directory whose features are encoded

Trains the clustering heads of the first class split's choice problem with the neighbour bank (two sizes), with the
exact nearest patches of the whole set (scikit-learn's index, assignments by the network as it stands at each step) and,
to show that the comparison can tell, with neighbours drawn at random. All networks are then measured alike: clusters
used and the objective over all patches with the exact neighbours, and ESZSL's T1 and H on the val classes (the best of
its grid, by `vgse.pipeline.validation`). Writes benchmarks/results/neighbours.md and prints one
JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional

from vgse.clustering.bank import NeighbourBank
from vgse.clustering.batches import Batch, InMemoryBatches
from vgse.clustering.checkpoints import Checkpoints
from vgse.clustering.network import ClusterNetwork
from vgse.clustering.objective import objective
from vgse.clustering.training import FitSettings, fit
from vgse.config_loading import parse_config
from vgse.data.words import prepare_words
from vgse.pipeline.accounts import committed_images
from vgse.pipeline.features import patch_features, training_rows
from vgse.pipeline.fit_worker import fit_settings
from vgse.pipeline.plan import make_plan
from vgse.pipeline.validation import Validation, validation_task
from vgse.storage import Storage

RESULTS = Path(__file__).resolve().parent / "results/neighbours.md"
FIGURES = ("used_clusters", "loss", "loss_clu", "trained", "T1", "H", "seconds")


@dataclass(frozen=True)
class Data:
    """What all fits share: patches, their classes, their exact nearest neighbours, and the validation."""

    features_NF: np.ndarray
    labels_N: np.ndarray
    words_SW: Tensor
    exact_Nk: np.ndarray
    index_seconds: float
    settings: FitSettings
    clusters: int
    validate: Validation


class Tracked(InMemoryBatches):
    """Batches that remember which rows the last one held."""

    rows: np.ndarray

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        for rows, batch in zip(self.row_numbers(epoch), super().epoch(epoch), strict=True):
            self.rows = rows
            yield batch


class GivenNeighbours(NeighbourBank):
    """In the place of the bank: the patches of a table, with assignments by the network as it stands."""

    def __init__(self, table_Nk: np.ndarray, data: Data, source: Tracked, network: ClusterNetwork) -> None:
        super().__init__(1, network.feature_dim, network.num_clusters)
        self._table, self._data, self._source, self._network = table_Nk, data, source, network

    @torch.no_grad()
    def neighbours(self, unit_BF: Tensor, k: int) -> Tensor:
        rows = self._table[self._source.rows, :k]
        features = torch.from_numpy(self._data.features_NF[rows.ravel()].astype(np.float32))
        return self._network.heads(features).a_BK.reshape(*rows.shape, -1)

    def push(self, unit_BF: Tensor, a_BK: Tensor) -> None:
        """Nothing is remembered."""


def load(run: str, images: int, epochs: int, clusters: int | None) -> Data:
    """The choice problem of a run's first class split, cut down to `images` images a class."""
    values = yaml.safe_load(Path(run, "config.yaml").read_text())
    values["cluster"] = {**values["cluster"], "validate_every": 1}
    plan = make_plan(parse_config({**values, "run": run}, run))
    frame = committed_images(plan)
    problem = next(plan.problems())
    chosen = training_rows(frame, problem, plan)
    first = frame[chosen].sort_values("rank").groupby("class_name").head(images).index
    chosen &= frame.index.isin(first)
    label = {name: i for i, name in enumerate(problem.seen)}
    labels_N = np.repeat(frame.class_name[chosen].map(label).to_numpy(np.int64), plan.config.crop.patches)
    features_NF = patch_features(plan, frame, chosen).read_all()
    words = prepare_words(plan.words(problem.seen), np.ones(len(problem.seen), bool), "centred")
    task = validation_task(plan, frame, problem)
    assert task is not None
    settings = replace(fit_settings(plan.config.cluster, 0), epochs=epochs, checkpoint_every=1e9, validate_every=0)
    began = time.perf_counter()
    exact_Nk = exact_neighbours(features_NF, settings.neighbours)
    return Data(
        features_NF, labels_N, torch.from_numpy(words.astype(np.float32)), exact_Nk, time.perf_counter() - began,
        settings, clusters or plan.config.cluster.num_clusters, Validation(task, plan.storage),
    )  # fmt: skip


def exact_neighbours(features_NF: np.ndarray, k: int) -> np.ndarray:
    """Row numbers (N, k) of each row's nearest others by cosine, of the features as the bank sees them."""
    x_NF = torch.from_numpy(features_NF.astype(np.float32))
    unit_NF = functional.normalize(functional.layer_norm(x_NF, x_NF.shape[1:]), dim=1).numpy()
    index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(unit_NF)
    found = index.kneighbors(unit_NF, return_distance=False)
    # The row itself is nearest but for ties: it goes from wherever it stands, else the last one does.
    itself = found == np.arange(len(found))[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(len(found), k)


def train(arm: str, seed: int, data: Data) -> dict[str, float]:
    """Fits one network and measures it; `arm` is `exact`, `random`, or the number of rows of the bank."""
    settings = replace(data.settings, seed=seed, bank_size=int(arm) if arm.isdigit() else 1)
    source = Tracked(data.features_NF, data.labels_N, settings.global_batch, 0, 1, seed)
    classes, width = data.words_SW.shape
    network = ClusterNetwork(data.features_NF.shape[1], data.clusters, classes, width, seed=seed)
    table_Nk = data.exact_Nk
    if arm == "random":
        table_Nk = np.random.default_rng(seed).integers(len(table_Nk), size=table_Nk.shape)

    def given(*_: Any) -> GivenNeighbours:
        return GivenNeighbours(table_Nk, data, source, network)

    history: list[dict[str, float]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, mock.patch(
        # The loop makes its own bank; only here is another one wanted.
        "vgse.clustering.training.NeighbourBank", NeighbourBank if arm.isdigit() else given
    ):  # fmt: skip
        fit(
            network, source, data.words_SW, settings, checkpoints=Checkpoints(Storage(), folder),
            on_epoch=history.append,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    return {**measure(network, data), "trained": history[-1]["loss"], "seconds": seconds}


@torch.no_grad()
def measure(network: ClusterNetwork, data: Data) -> dict[str, float]:
    """Used clusters and the objective over all patches with the exact neighbours; T1 and H on the val classes."""
    outputs = network.heads(torch.from_numpy(data.features_NF.astype(np.float32)))
    neighbours = outputs.a_BK[torch.from_numpy(data.exact_Nk)]
    losses = objective(outputs, torch.from_numpy(data.labels_N), data.words_SW, neighbours, data.settings.weights)
    reached = data.validate(network)
    return {
        "used_clusters": float(len(outputs.a_BK.argmax(dim=1).unique())),
        "loss": float(losses.total),
        "loss_clu": float(losses.clu),
        "T1": 100 * reached["val_T1"],
        "H": 100 * reached["val_H"],
    }


def differences(found: dict[str, list[dict[str, float]]], arm: str) -> dict[str, dict[str, Any]]:
    """Arm minus exact, paired by seed: mean, 95 % t interval, standard deviation of the exact arm over seeds."""
    out = {}
    for figure in FIGURES[:-1]:
        exact = np.array([each[figure] for each in found["exact"]])
        apart = np.array([each[figure] for each in found[arm]]) - exact
        half = float(stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5)
        out[figure] = {
            "difference": round(float(apart.mean()), 4),
            "interval": [round(float(apart.mean()) - half, 4), round(float(apart.mean()) + half, 4)],
            "seed_std": round(float(exact.std(ddof=1)), 4),
            "within_noise": bool(abs(apart.mean()) <= half),
        }
    return out


def page(found: dict[str, list[dict[str, float]]], data: Data, command: str) -> str:
    """The results page."""
    arms = [arm for arm in found if arm != "exact"]
    lines = [
        "# The neighbour bank against exact nearest neighbours: CIFAR-100", "",
        f"{len(data.labels_N):,} patches of {len(data.words_SW)} classes (EfficientNet-Lite0, F = "
        f"{data.features_NF.shape[1]}), K = {data.clusters}, {data.settings.epochs} epochs, "
        f"{len(found['exact'])} seeds. All networks are measured alike:",
        "the objective over all patches with the exact neighbours, ESZSL's T1 and H on val classes (best of its grid).",
        "`trained` is the last epoch's loss with the arm's own neighbours. `exact`: scikit-learn's index over all",
        "patches, assignments by the network as it is; it trains on the very neighbours that all are measured with.",
        f"Numbers are rows of the bank. The index took {data.index_seconds:.0f} s, and a moving backbone would need it "
        "anew each time.",
        "", f"Measured {date.today()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()}), no GPU,",
        f"with `{command}`; the machine was shared, so seconds are rough.", "",
        "| neighbours | used clusters | loss | L_clu | trained | T1 % | H % | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for arm, fits in found.items():
        cells = [
            f"{np.mean([each[f] for each in fits]):.2f} ± {np.std([each[f] for each in fits], ddof=1):.2f}"
            for f in FIGURES
        ]
        lines.append(f"| {arm if not arm.isdigit() else f'bank {arm}'} | {' | '.join(cells)} |")
    lines += ["", "Mean ± standard deviation over seeds. Minus exact, paired by seed, with the 95 % interval:", ""]
    lines += ["| neighbours | figure | difference | interval | within noise |", "|---|---|---|---|---|"]
    for arm in arms:
        for figure, said in differences(found, arm).items():
            low, high = said["interval"]
            lines.append(
                f"| {arm if not arm.isdigit() else f'bank {arm}'} | {figure} | {said['difference']:+.3f} "
                f"| {low:+.3f} .. {high:+.3f} | {'yes' if said['within_noise'] else 'no'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all arms over all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run directory with encoded features")
    parser.add_argument("--images", type=int, default=40, help="images per class (default 40)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--banks", type=int, nargs="+", default=[4096, 1024])
    parser.add_argument("--clusters", type=int, help="K (default: the run's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results page")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load(options.run, options.images, options.epochs, options.clusters)
    found: dict[str, list[dict[str, float]]] = {}
    for arm in ["exact", *map(str, options.banks), "random"]:
        found[arm] = [train(arm, seed, data) for seed in range(options.seeds)]
        print(arm, json.dumps(found[arm]), flush=True)
    command = (
        f"uv run python benchmarks/bench_neighbours.py --run RUN --images {options.images} --epochs {options.epochs} "
        f"--seeds {options.seeds} --clusters {data.clusters} --banks {' '.join(map(str, options.banks))}"
    )
    options.out.write_text(page(found, data, command))
    answer = {
        "patches": len(data.labels_N),
        "index_seconds": round(data.index_seconds, 1),
        "means": {
            arm: {f: round(float(np.mean([e[f] for e in fits])), 3) for f in FIGURES} for arm, fits in found.items()
        },
        "minus_exact": {arm: differences(found, arm) for arm in found if arm != "exact"},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
