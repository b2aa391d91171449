"""Killed on the way: a stage goes on where it stood, training from its last committed checkpoint."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from vgse.cli import main, run
from vgse.clustering.checkpoints import Saved
from vgse.config_loading import parse_config
from vgse.pipeline.fit_journal import FitJournal
from vgse.storage import Storage

# One image a shard, so that there is a middle in which to kill.
SHARDS = 192
EPOCHS = 4


def wait_for(condition, seconds, what):
    """What `condition` returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


# ---- the driver
def test_a_killed_crop_continues_with_the_missing_shards(ray_session, tmp_path, demo_values, capsys):
    import ray

    folder, path = tmp_path / "run" / "patches", tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(demo_values(tmp_path / "run", crop={"rows_per_shard": 1})))
    command = ["crop", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vgse.cli", *command],
        # On the session's Ray, so that killing the driver leaves nothing of its own behind.
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def first_shards():
        assert process.poll() is None, process.stdout.read().decode()
        return list(folder.glob("part-*.parquet"))

    try:
        wait_for(first_shards, 120, "the first patch shard")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "receipts" / "crop.json").exists()
    left = {shard.name: shard.stat().st_mtime_ns for shard in folder.glob("part-*.parquet")}
    assert 0 < len(left) < SHARDS

    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "crop: continues" in said
    assert f"of {SHARDS} images were done before" in said
    now = {shard.name: shard.stat().st_mtime_ns for shard in folder.glob("part-*.parquet")}
    assert len(now) == SHARDS
    assert {name: now[name] for name in left} == left
    ids = pa.concat_tables([pq.read_table(shard) for shard in folder.glob("part-*.parquet")])["image_id"].to_pylist()
    assert sorted(ids) == sorted(pq.read_table(tmp_path / "run" / "manifest.parquet")["image_id"].to_pylist())
    assert not list(folder.glob("*.partial"))


# ---- a training worker
class Killer(threading.Thread):
    """Kills one training worker of the session's Ray as soon as a first checkpoint is committed."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self._run, self.killed, self.problem = run, 0, None

    def run(self) -> None:
        try:
            wait_for(lambda: list(self._run.glob("clustering/*/latest.json")), 300, "a checkpoint")
            workers = wait_for(self._workers, 30, "the training workers")
            os.kill(workers[-1], signal.SIGKILL)
            self.killed = workers[-1]
        except Exception as error:
            self.problem = error

    @staticmethod
    def _workers() -> list[int]:
        import ray
        from ray.util.state import list_actors

        context = ray.get_runtime_context()
        # Address and job keep it to this session's own workers, whatever else runs on the machine.
        wanted = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE"), ("job_id", "=", context.get_job_id())]
        alive = list_actors(context.gcs_address, filters=wanted)
        # A worker that is just starting has no process number yet, and number 0 would mean ourselves.
        return [actor.pid for actor in alive if actor.pid]


@pytest.fixture(scope="module")
def interrupted(ray_session, tmp_path_factory, demo_values):
    """A run up to cluster on two workers, one of which is killed; its folder and what was printed."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    values = demo_values(folder, cluster={"epochs": EPOCHS, "batch_size": 64}, resources={"workers": 2})
    config = parse_config(values, "test.yaml")
    killer, printed = Killer(folder), io.StringIO()
    with redirect_stdout(printed):
        run(config, ["crop", "encode"])
        killer.start()
        run(config, ["cluster"])
    killer.join(10)
    assert killer.problem is None
    assert killer.killed
    return folder, printed.getvalue()


def test_training_says_where_it_resumed(interrupted):
    _, printed = interrupted
    assert re.search(rf"split-0-(choice|final) resumed after epoch \d of {EPOCHS} on 2 workers", printed)
    assert "\ncluster " in printed


def test_every_epoch_is_recorded_once(interrupted):
    folder, _ = interrupted
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    expected = [(fit, epoch) for fit in ("split-0-choice", "split-0-final") for epoch in range(1, EPOCHS + 1)]
    assert [(line["fit"], line["epoch"]) for line in lines] == expected


def test_the_networks_are_whole(interrupted):
    folder, _ = interrupted
    for fit in ("split-0-choice", "split-0-final"):
        latest = json.loads((folder / "clustering" / fit / "latest.json").read_text())
        state = json.loads((folder / "clustering" / fit / latest["checkpoint"] / "state.json").read_text())
        assert latest == {"checkpoint": f"checkpoint-{state['step']:06d}"}
        assert (state["epoch"], state["position"]) == (EPOCHS, 0)
        assert state["finished"] is True
        assert [figures["epoch"] for figures in state["history"]] == list(range(1, EPOCHS + 1))


def test_only_the_fit_that_choices_are_made_with_is_validated(interrupted):
    folder, _ = interrupted
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val_H" in line]
    assert [(line["fit"], line["epoch"]) for line in validated] == [("split-0-choice", EPOCHS)]
    assert 0 <= validated[0]["val_H"] <= 1
    assert 0 < validated[0]["val_T1"] <= 1
    best = json.loads((folder / "clustering" / "split-0-choice" / "best.json").read_text())
    assert best["value"] == validated[0]["val_H"]
    assert not (folder / "clustering" / "split-0-final" / "best.json").exists()


class Notes:
    """Takes what a fit pins for the driver."""

    def __init__(self):
        self.pinned = []

    def pin(self, kind, content):
        self.pinned.append((kind, content))


def test_a_fit_killed_between_its_last_checkpoint_and_the_journal_keeps_its_figures(tmp_path, demo_values):
    """The loop commits a checkpoint before it records the epoch; the next start finds the fit finished."""
    cluster = parse_config(demo_values("r", cluster={"epochs": 2}), "test.yaml").cluster
    history = [{"epoch": 1, "step": 3, "loss": 2.0}, {"epoch": 2, "step": 6, "loss": 1.0}]
    journal = FitJournal("fit", str(tmp_path), Storage(), Notes(), 9, 3, cluster, rank=0, world=1)
    journal.begin(Saved(6, {}, {"epoch": 2, "position": 0, "steps_per_epoch": 3, "history": history}))
    journal.end()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["loss"]) for line in lines] == [(1, 2.0), (2, 1.0)]


def test_a_fit_that_goes_on_in_the_middle_of_an_epoch_says_so(tmp_path, demo_values):
    cluster = parse_config(demo_values("r", cluster={"epochs": 4, "log_to": ["mlflow"]}), "test.yaml").cluster
    notes = Notes()
    journal = FitJournal("fit", str(tmp_path), Storage(), notes, 90, 9, cluster, rank=0, world=2)
    history = [{"epoch": 1, "step": 3, "loss": 2.0, "rows_per_s": 18.0}]
    journal.begin(Saved(5, {}, {"epoch": 1, "position": 2, "steps_per_epoch": 3, "history": history}))
    journal.end()
    assert ("say", "cluster: fit resumed after epoch 1 of 4, 2 of 3 steps into the next, on 2 workers") in notes.pinned
    assert ("step", ("fit", 150)) in notes.pinned
    # Figures of before go to the trackers once more, which take what they lack.
    assert ("epoch", {"fit": "fit", **history[0], "images_per_s": 2.0}) in notes.pinned
