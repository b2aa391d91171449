"""Every image is committed or quarantined, once, for a reason, and the digest of all does not depend on how."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from odd_images import UNUSABLE, USABLE
from PIL import Image

from benchmarks.worker_kills import WorkerKiller
from vgse.cli import main, run
from vgse.config import CropConfig
from vgse.config_loading import parse_config
from vgse.data.readers import read_images
from vgse.errors import VgseError
from vgse.pipeline.accounts import digest
from vgse.pipeline.board import Board
from vgse.pipeline.crop import retry_quarantined
from vgse.pipeline.crop_shard import crop_image, crop_units
from vgse.pipeline.plan import make_plan
from vgse.storage import Storage

GOOD, BAD_OF_A_KIND, CLASSES = 5000, 100, 25


def cli(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def receipt(folder):
    return json.loads((folder / "receipts" / "crop.json").read_text())


def quarantine(folder):
    return pq.read_table(folder / "quarantine.parquet").to_pandas()


def committed(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "patches").glob("*.parquet"))])


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "patches").glob("*.parquet")}


# ---- a crawl: 5,000 good images, 1,200 bad ones
@pytest.fixture(scope="module")
def crawl(shared, tmp_path_factory):
    """Settings of a crop of real pictures, a tenth of the good ones of odd kinds, and reason or None by image."""
    folder = tmp_path_factory.mktemp("crawl")
    source = sorted((shared / "data" / "cifar100").glob("train-*.parquet"))
    table = pa.concat_tables([pq.read_table(path, columns=["class_name", "image"]) for path in source]).to_pandas()
    names = sorted(table.class_name.unique())[:CLASSES]
    table = pd.concat([table[table.class_name == name].head(GOOD // CLASSES) for name in names], ignore_index=True)
    expected: dict[str, str | None] = {}

    def write(number, extension, kind, data, reason):
        name = f"{table.class_name[number % GOOD]}/{kind}-{number:05d}.{extension}"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        expected[f"images/{name}"] = reason

    def picture(number):
        return Image.open(io.BytesIO(table.image[number % GOOD])).convert("RGB")

    odd = list(USABLE.items())
    for number in range(GOOD):
        if number % 10:
            write(number, "png", "plain", table.image[number], None)
        else:
            kind, (extension, make) = odd[number // 10 % len(odd)]
            write(number, extension, kind, make(picture(number)), None)
    for kind, (reason, make) in UNUSABLE.items():
        for copy in range(BAD_OF_A_KIND):
            number = GOOD + len(expected) * 7
            write(number, "jpg", kind, make(picture(number + copy)), reason)
    parts = {"train": names[:16], "val": names[16:20], "unseen": names[20:]}
    (folder / "classes.yaml").write_text(yaml.safe_dump(parts))
    data = {"images": str(folder / "images"), "classes": str(folder / "classes.yaml")}
    words = str(shared / "data" / "word_vectors" / "glove_100d_22k.bin")
    values = {"run": "", "data": {**data, "word_vectors": words}, "encode": {"weights": "none", "backbone": "tiny"}}
    return {**values, "cluster": {"mode": "finetune"}}, expected


@pytest.fixture(scope="module")
def cropped(ray_session, crawl, tmp_path_factory):
    values, _ = crawl
    folder = tmp_path_factory.mktemp("cropped") / "run"
    run(parse_config({**values, "run": str(folder)}, "test.yaml"), ["crop"])
    return folder


def test_every_bad_image_is_quarantined_for_its_reason_and_every_good_one_committed(crawl, cropped):
    expected = crawl[1]
    assert len(expected) == GOOD + len(UNUSABLE) * BAD_OF_A_KIND == 6200
    refused = quarantine(cropped)
    assert dict(zip(refused.image_id, refused.reason, strict=True)) == {k: v for k, v in expected.items() if v}
    assert (refused.detail != "").all()
    rows = committed(cropped)
    assert sorted(rows["image_id"].to_pylist()) == sorted(k for k, v in expected.items() if v is None)
    done = receipt(cropped)
    assert (done["rows_in"], done["rows_out"], done["quarantined"]) == (6200, 5000, 1200)
    assert sum(done["details"]["reasons"].values()) == 1200
    assert done["details"]["digest"] == digest(rows)


def test_odd_images_are_cropped_right(cropped):
    """What is stored is the upright picture with white for what was clear, and every box lies in it."""
    rows = committed(cropped)
    for image_id, stored, boxes in zip(*(rows[c].to_pylist() for c in ("image_id", "image", "boxes")), strict=True):
        if "/plain-" in image_id:
            continue
        image = Image.open(io.BytesIO(stored))
        boxes_T4 = np.array(boxes).reshape(9, 4)
        assert (boxes_T4[:, :2] < boxes_T4[:, 2:]).all(), image_id
        assert (boxes_T4[:, 2:] <= image.size).all(), image_id
        assert image.mode in ("RGB", "L"), image_id
        assert image.size == {"one pixel": (1, 1), "strip": (700, 2)}.get(image_id.split("/")[2][:-10], (32, 32))


def test_a_killed_worker_and_other_shards_leave_the_digest_as_it_was(crawl, cropped, tmp_path):
    values, folder = crawl[0], tmp_path / "run"
    killer = WorkerKiller("crop_units", [0.2])
    killer.start()
    run(parse_config({**values, "run": str(folder), "crop": {"rows_per_shard": 97}}, "test.yaml"), ["crop"])
    killer.stop()
    assert len(killer.killed) == 1
    assert receipt(folder)["details"]["digest"] == receipt(cropped)["details"]["digest"]
    assert receipt(folder)["details"]["shards"] == 64 > receipt(cropped)["details"]["shards"]
    assert quarantine(folder).equals(quarantine(cropped))


def test_a_unit_whose_worker_always_dies_ends_the_stage(ray_session, tmp_path):
    board = Board()
    for _ in range(50):
        board.attempt(7)
    unit = pa.table({"uri": ["u"], "group": [7], "unit": [7]})
    with pytest.raises(VgseError, match=r"died 50 times on part-00007.parquet"):
        crop_units(unit, storage=Storage(), run=str(tmp_path), crop=CropConfig(), board=board)
    assert isinstance(board.error(), VgseError)


# ---- smaller runs on the demo's 192 images
@pytest.fixture
def images(demo_data, tmp_path):
    shutil.copytree(demo_data.images, tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def config(demo_values, images, tmp_path):
    """A configuration file; other settings are given on the command line."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(demo_values(tmp_path / "run", data={"images": str(images)})))
    return path


def digest_without_ray(config):
    plan = make_plan(parse_config(yaml.safe_load(config.read_text()), "test.yaml"))
    rows = [crop_image(row, data, plan.config.crop) for row, data in read_images(plan.storage, plan.manifest)]
    return digest(pa.table({name: [row[name] for row in rows] for name in ("image_id", "sha256")}))


def spoil(images, count):
    """Cuts images of one class in half; returns them with their content."""
    paths = sorted(images.glob("*/*"))[::-1][:: 192 // count][:count]
    before = {path: path.read_bytes() for path in paths}
    for path, data in before.items():
        path.write_bytes(data[: len(data) // 2])
    return before


@pytest.mark.parametrize(("setting", "value", "shards"), [("rows-per-shard", 1, 192), ("shard-mb", 0.02, None)])
def test_the_digest_is_that_of_one_process_without_ray(ray_session, config, tmp_path, setting, value, shards):
    assert cli("crop", config, f"--crop.{setting}", value) == 0
    assert receipt(tmp_path / "run")["details"]["digest"] == digest_without_ray(config)
    paths = list((tmp_path / "run" / "patches").glob("*.parquet"))
    assert shards in (None, len(paths))
    if setting == "shard-mb":  # By a sample of the images, without what Parquet itself needs.
        content = [pq.read_table(path, columns=["image", "boxes"]).nbytes for path in paths]
        assert 0.6 * value * 1e6 < np.mean(content) < 1.1 * value * 1e6


def test_images_that_were_mended_are_taken_in_later(ray_session, config, images, tmp_path, capsys):
    folder, before = tmp_path / "run", spoil(images, 12)
    assert cli("crop", config) == 0
    whole, first = times(folder), make_plan(parse_config(yaml.safe_load(config.read_text()), "t"))
    assert len(quarantine(folder)) == 12
    # Nothing mended: all is as it was.
    assert cli("crop", config, "--retry-quarantined") == 0
    assert "12 quarantined images are tried again" in capsys.readouterr().out
    assert make_plan(first.config).fingerprints == first.fingerprints
    assert len(quarantine(folder)) == 12
    mended = list(before)[:9]
    for path in mended:
        path.write_bytes(before[path])
    # Killed after it was asked for and before it was done; then continued as any crop is.
    assert retry_quarantined(make_plan(first.config)) == 12
    assert retry_quarantined(make_plan(first.config)) == 12
    assert cli("crop", config) == 0
    after = receipt(folder)
    assert (after["rows_out"], after["quarantined"]) == (189, 3)
    assert sorted(quarantine(folder).uri) == sorted(map(str, list(before)[9:]))
    assert {name: times(folder)[name] for name in whole} == whole
    changed = make_plan(first.config).fingerprints
    assert {stage for stage in changed if changed[stage] != first.fingerprints[stage]} >= {"encode", "cluster"}
    assert changed["crop"] == first.fingerprints["crop"]
    assert cli("status", folder, "--verify") == 0
    for path, data in before.items():
        path.write_bytes(data)
    assert cli("crop", config, "--retry-quarantined") == 0
    assert len(quarantine(folder)) == 0
    assert receipt(folder)["details"]["digest"] == digest_without_ray(config)
    capsys.readouterr()
    assert cli("crop", config, "--retry-quarantined") == 0
    assert "0 quarantined images are tried again" in capsys.readouterr().out


def test_too_many_bad_images_stop_the_run_and_keep_what_is_done(ray_session, config, images, tmp_path, capsys):
    folder, before = tmp_path / "run", spoil(images, 48)
    settings = ["--crop.max-quarantined", "0.2", "--crop.rows-per-shard", "4"]
    assert cli("crop", config, *settings) == 2
    said = capsys.readouterr().err
    assert "of 192 images cannot be used, more than crop.max_quarantined = 0.2 of them: " in said
    assert "truncated" in said
    assert "--retry-quarantined" in said
    kept = times(folder)
    assert kept
    assert len(quarantine(folder)) >= 39
    assert not (folder / "receipts" / "crop.json").exists()
    # The same again stops again; mended images are taken in, and the rest is done.
    assert cli("crop", config, *settings) == 2
    for path, data in before.items():
        path.write_bytes(data)
    assert cli("crop", config, *settings, "--retry-quarantined") == 0
    assert {name: times(folder)[name] for name in kept} == kept
    assert receipt(folder)["rows_out"] == 192
    assert receipt(folder)["details"]["digest"] == digest_without_ray(config)


def test_a_higher_limit_goes_on_where_it_stopped(ray_session, config, images, tmp_path):
    spoil(images, 48)
    assert cli("crop", config, "--crop.max-quarantined", "0.1") == 2
    kept = times(tmp_path / "run")
    assert cli("crop", config, "--crop.max-quarantined", "0.25") == 0
    now = times(tmp_path / "run")
    assert {name: now[name] for name in kept} == kept
    assert receipt(tmp_path / "run")["quarantined"] == 48


# ---- status
@pytest.fixture(scope="module")
def sound(ray_session, demo_values, demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    shutil.copytree(demo_data.images, folder / "images")
    spoil(folder / "images", 2)
    run(parse_config(demo_values(folder / "run", data={"images": str(folder / "images")}), "test.yaml"), ["crop"])
    return folder / "run"


@pytest.fixture
def tampered(sound, tmp_path):
    """A copy of a sound run, and a function that rewrites its third shard."""
    shutil.copytree(sound, tmp_path / "run")
    shard = tmp_path / "run" / "patches" / "part-00002.parquet"

    def rewrite(change):
        pq.write_table(change(pq.read_table(shard)), shard)

    return tmp_path / "run", rewrite


def status(folder, capsys, *options):
    capsys.readouterr()
    code = cli("status", folder, *options)
    return code, "".join(capsys.readouterr())


def first_id(folder):
    return pq.read_table(folder / "patches" / "part-00002.parquet")["image_id"][0].as_py()


def test_a_sound_run_is_proved(sound, capsys):
    code, said = status(sound, capsys, "--verify")
    assert code == 0
    assert "192 images = 190 committed + 2 quarantined: every image once" in said
    assert f"verified  every byte of 16 shards, digest {receipt(sound)['details']['digest'][:16]}" in said


def test_a_lost_row_is_named_with_its_shard(tampered, capsys):
    folder, rewrite = tampered
    lost = first_id(folder)
    rewrite(lambda table: table.slice(1))
    code, said = status(folder, capsys)
    assert code == 1
    assert "1 missing, 0 twice, 0 not in the manifest, 0 quarantined without a reason\n" in said
    assert f"  missing: {lost} (of part-00002.parquet)\n" in said


def test_an_image_that_is_there_twice_is_named_with_both_shards(tampered, capsys):
    folder, _ = tampered
    name = first_id(folder)
    other = folder / "patches" / "part-00005.parquet"
    row = pq.read_table(folder / "patches" / "part-00002.parquet").slice(0, 1)
    pq.write_table(pa.concat_tables([pq.read_table(other), row]), other)
    code, said = status(folder, capsys)
    assert code == 1
    assert f"twice: {name} (part-00002.parquet and part-00005.parquet)" in said


def test_a_foreign_image_is_named(tampered, capsys):
    folder, rewrite = tampered
    rewrite(lambda t: t.set_column(0, "image_id", pc.replace_substring(t["image_id"], first_id(folder), "x/y.png")))
    code, said = status(folder, capsys)
    assert code == 1
    assert "1 missing, 0 twice, 1 not in the manifest" in said
    assert "not in the manifest: x/y.png (part-00002.parquet)" in said


def test_a_reason_is_needed(tampered, capsys):
    folder, _ = tampered
    table = pq.read_table(folder / "quarantine.parquet")
    name = table["image_id"][0].as_py()
    table = table.set_column(3, "reason", pa.array(["", *table["reason"].to_pylist()[1:]]))
    pq.write_table(table, folder / "quarantine.parquet")
    code, said = status(folder, capsys)
    assert code == 1
    assert f"quarantined without a reason: {name}" in said


@pytest.mark.parametrize("column", ["image", "boxes", "sha256"])
def test_only_verify_sees_a_changed_byte(tampered, capsys, column):
    folder, rewrite = tampered
    name = first_id(folder)

    def change(table):
        values = table[column].to_pylist()
        values[0] = {"image": lambda v: v[:-1] + b"\0", "boxes": lambda v: [0, *v[1:]], "sha256": lambda v: v[::-1]}[
            column
        ](values[0])
        if column == "boxes":
            values[0][2] += 1
        at = table.schema.get_field_index(column)
        return table.set_column(at, column, pa.array(values, table.schema.field(column).type))

    rewrite(change)
    assert status(folder, capsys)[0] == 0
    code, said = status(folder, capsys, "--verify")
    assert code == 1
    assert f"1 image(s) are not what was written: {name} (part-00002.parquet)" in said


def test_a_shard_of_another_run_is_noticed_by_the_digest(tampered, capsys):
    """Rows that agree with themselves, but are not those that were written."""
    folder, rewrite = tampered
    from vgse.pipeline.accounts import row_digest

    def change(table):
        image, boxes = table["image"][1].as_py(), np.array(table["boxes"][0].as_py(), np.int32)
        values = [image, *table["image"].to_pylist()[1:]], [row_digest(image, boxes), *table["sha256"].to_pylist()[1:]]
        return table.set_column(4, "image", pa.array(values[0])).set_column(6, "sha256", pa.array(values[1]))

    rewrite(change)
    code, said = status(folder, capsys, "--verify")
    assert code == 1
    assert "but the crop's receipt says" in said


def test_a_shard_that_is_no_parquet_is_named(tampered, capsys):
    folder, _ = tampered
    (folder / "patches" / "part-00002.parquet").write_bytes(b"PAR1 and nothing more")
    code, said = status(folder, capsys)
    assert code == 1
    assert "part-00002.parquet cannot be read" in said
