"""A campaign on real Ray: killed on the way and continued, a trial that fails, and best.yaml run."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from vgse.cli import main, run
from vgse.clustering.backbones import build_backbone
from vgse.config_loading import load_config
from vgse.receipts import STAGES

K, RATE, ALPHA = "cluster.num_clusters", "cluster.learning_rate", "relate.alpha"
# No loss is finite at the last rate.
SPACE = {K: {"grid": [20, 30]}, RATE: {"grid": [3e-3, 1e30]}, ALPHA: {"grid": [-0.2, -0.1, 0]}}
EPOCHS = 12


@dataclass(frozen=True)
class Campaign:
    """A campaign that was killed and continued: its folder, records that stood at the kill, exit code, output."""

    folder: Path
    before: dict[str, bytes]
    code: int
    printed: str

    @property
    def records(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in journal(self.folder)]


def journal(folder: Path) -> list[Path]:
    return sorted(folder.glob("tuning/campaigns/*/trials/*.json"))


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, demo_values) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    torch.manual_seed(0)
    backbone = build_backbone("tiny", input_size=32)
    weights = {name: value.contiguous() for name, value in backbone.model.state_dict().items()}
    save_file(weights, folder / "tiny.safetensors")
    values = demo_values(
        folder / "run",
        encode={"weights": str(folder / "tiny.safetensors"), "oracle_images": 0},
        cluster={"mode": "frozen", "epochs": EPOCHS},
        evaluate={"models": ["eszsl"]},
        tune={"space": SPACE, "max_concurrent": 2},
    )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def campaign(ray_session, config_file) -> Campaign:
    import ray

    folder = config_file.parent / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "vgse.cli", "tune", str(config_file)],
        # On the session's Ray, so that killing the driver leaves nothing of its own behind.
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    end = time.monotonic() + 300
    try:
        while not journal(folder):
            assert process.poll() is None, process.stdout.read().decode()
            assert time.monotonic() < end, "waited 300 s for the first trial to end"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.read_bytes() for path in journal(folder)}
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main(["tune", str(config_file)])
    return Campaign(folder, before, int(ended.value.code), printed.getvalue())


def test_a_killed_campaign_continues_and_no_trial_ends_twice(campaign):
    assert 1 <= len(campaign.before) < 4
    now = {path.name: path.read_bytes() for path in journal(campaign.folder)}
    assert {name: now[name] for name in campaign.before} == campaign.before
    assert [record["number"] for record in campaign.records] == [0, 1, 2, 3]
    assert f"{len(campaign.before)} of them ended before" in campaign.printed


def test_every_trial_and_relation_has_its_row(campaign):
    rows = pq.read_table(campaign.folder / "tuning/trials.parquet").to_pylist()
    found = sorted((row[K], row[RATE], row[ALPHA]) for row in rows)
    assert found == sorted((k, rate, alpha) for k in (20, 30) for rate in (3e-3, 1e30) for alpha in (-0.2, -0.1, 0.0))
    for row in rows:
        judged = row[RATE] == 3e-3
        assert (row["val_H"] is not None) == (row["val_T1"] is not None) == judged
        assert (row["epochs"] == EPOCHS) == judged


def test_a_failed_trial_is_recorded_and_ends_nothing(campaign):
    failed = [record for record in campaign.records if record["settings"][RATE] == 1e30]
    assert [record["status"] for record in failed] == ["failed", "failed"]
    assert all("non-finite" in record["reason"] for record in failed)
    assert campaign.code == 1


def test_the_same_command_again_trains_nothing(campaign, config_file, capsys):
    times = {path: path.stat().st_mtime_ns for path in journal(campaign.folder)}
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(config_file)])
    assert ended.value.code == 1
    assert "2 of 4 trials failed" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in journal(campaign.folder)} == times
    assert "<svg" in (campaign.folder / "tuning/report.html").read_text()


def test_best_yaml_runs_and_shows_the_figure_it_was_chosen_by(campaign):
    best = campaign.folder / "tuning/best.yaml"
    rows = pq.read_table(campaign.folder / "tuning/trials.parquet").to_pylist()
    row = max((row for row in rows if row["val_H"] is not None), key=lambda row: row["val_H"])
    config = load_config(best)
    assert (config.cluster.num_clusters, config.relate.alpha) == (row[K], row[ALPHA])
    run(config, STAGES)
    chosen = json.loads((campaign.folder / "evaluation.json").read_text())["protocol"]["chosen"]["vgse"]["eszsl"][0]
    assert chosen["H"]["on_choice"] == pytest.approx(row["val_H"], abs=1e-6)
    assert chosen["T1"]["on_choice"] == pytest.approx(row["val_T1"], abs=1e-6)
