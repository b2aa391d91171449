"""The demo data set: its class split, its word vectors, its images, and that a killed write is not taken for whole."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from vgse.data import demo_images
from vgse.data.demo_images import PROPERTIES, demo_classes, demo_truth, render, write_demo
from vgse.errors import DataError

NAMES = [name for names in demo_classes().values() for name in names]


def draw_class(name: str, count: int) -> np.ndarray:
    return np.stack([render(name, np.random.default_rng([7, i])) for i in range(count)])


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_words(path: Path) -> dict[str, np.ndarray]:
    lines = (line.split(" ") for line in path.read_text(encoding="utf-8").splitlines())
    return {word: np.array(numbers, float) for word, *numbers in lines}


def test_the_split_is_compositional() -> None:
    parts = demo_classes()
    assert {part: len(names) for part, names in parts.items()} == {"train": 14, "val": 4, "unseen": 6}
    assert len(set(NAMES)) == 24
    truth_CP = demo_truth(NAMES)
    assert truth_CP.shape == (24, 15)
    assert (truth_CP.sum(1) == 4).all()
    shared_CC = truth_CP @ truth_CP.T - 4 * np.eye(24)
    assert shared_CC.max() == 2
    assert shared_CC[18:, 18:].max() == 1
    assert demo_truth(parts["train"]).sum(0).min() >= 3
    # Training classes span the properties, so a linear map from words to properties can be learned from them.
    train_CP = demo_truth(parts["train"])
    assert np.linalg.matrix_rank(train_CP - train_CP.mean(0)) == 15 - len(PROPERTIES)


def test_the_callers_copy_of_the_split_is_their_own() -> None:
    demo_classes()["train"].clear()
    assert len(demo_classes()["train"]) == 14


def test_words_cover_all_properties_and_keep_their_structure(tmp_path: Path) -> None:
    words = read_words(write_demo(tmp_path, images_per_class=1).words)
    assert set(words) == {value for values in PROPERTIES.values() for value in values}
    assert {len(vector) for vector in words.values()} == {100}
    names_CW = np.array([np.mean([words[part] for part in name.split("_")], axis=0) for name in NAMES])
    names_CW -= names_CW[:18].mean(0)
    names_CW /= np.linalg.norm(names_CW, axis=1, keepdims=True)
    pairs = np.triu_indices(24, 1)
    truth_CP = demo_truth(NAMES)
    assert np.corrcoef((names_CW @ names_CW.T)[pairs], (truth_CP @ truth_CP.T)[pairs])[0, 1] > 0.85


def test_images_differ_within_a_class_and_repeat_with_the_same_state() -> None:
    for name in NAMES[::5]:
        images = draw_class(name, 3)
        assert images.shape == (3, 64, 64, 3)
        assert images.dtype == np.uint8
        assert np.abs(images[0].astype(int) - images[1]).mean() > 10
        assert np.array_equal(images, draw_class(name, 3))
    assert render(NAMES[0], np.random.default_rng(0), size=96).shape == (96, 96, 3)


@pytest.mark.parametrize("name", ["red_striped_star_sand", "scarlet_striped_star", "striped_scarlet_star_sand", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="colour_texture_shape_background"):
        render(name, np.random.default_rng(0))
    with pytest.raises(ValueError, match="colour_texture_shape_background"):
        demo_truth([name])


def nearest_property(features_NF: np.ndarray, labels: np.ndarray, train: np.ndarray) -> float:
    """Accuracy of the nearest property mean, learned on seen classes' images, on those of unseen classes."""
    values = np.unique(labels)
    means = np.stack([features_NF[train & (labels == value)].mean(0) for value in values])
    distance = ((features_NF[~train][:, None] - means[None]) ** 2).sum(-1)
    return float((values[distance.argmin(1)] == labels[~train]).mean())


def test_raw_pixels_tell_colours_and_backgrounds_of_unseen_classes() -> None:
    count = 12
    images = np.concatenate([draw_class(name, count) for name in NAMES]).astype(float)
    train = np.repeat(np.arange(24) < 18, count)
    words = np.array([name.split("_") for name in NAMES]).repeat(count, axis=0)
    # The most saturated quarter of the middle is the object's paint; the corners are the background.
    middle = images[:, 12:52, 12:52].reshape(len(images), -1, 3)
    rank = np.argsort(-(middle.max(2) - middle.min(2)), axis=1)[:, :400]
    paint = np.take_along_axis(middle, rank[..., None], axis=1).mean(1)
    corners = np.concatenate([images[:, :10, :10], images[:, -10:, -10:]], axis=1)
    ground = np.hstack([corners.mean((1, 2)), corners.std((1, 2))])
    assert nearest_property(paint / paint.sum(1, keepdims=True), words[:, 0], train) > 0.7
    assert nearest_property(ground, words[:, 3], train) > 0.7


def test_two_writes_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = write_demo(tmp_path / "one", images_per_class=2)
    write_demo(tmp_path / "two", images_per_class=2)
    write_demo(tmp_path / "other", images_per_class=2, seed=1)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert tree(first.images) != tree(tmp_path / "other" / "images")
    assert yaml.safe_load(first.classes.read_text()) == demo_classes()
    assert sorted(path.name for path in first.images.iterdir()) == sorted(NAMES)
    for path in list(first.images.rglob("*.jpg"))[::9]:
        assert cv2.imread(str(path)).shape == (64, 64, 3)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_second_call_does_nothing_and_other_settings_write_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_demo(tmp_path, images_per_class=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(demo_images, "render", lambda *_: pytest.fail("rendered again"))
        write_demo(tmp_path, images_per_class=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(list(write_demo(tmp_path, images_per_class=2).images.rglob("*.jpg"))) == 48


@pytest.mark.parametrize("stop_at", [0, 5, 23])
def test_a_killed_write_is_started_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    drawn = 0

    def killed(name: str, rng: np.random.Generator) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        if drawn > stop_at:
            raise KeyboardInterrupt
        return render(name, rng)

    with monkeypatch.context() as patch:
        patch.setattr(demo_images, "render", killed)
        with pytest.raises(KeyboardInterrupt):
            write_demo(tmp_path / "killed", images_per_class=1)
    assert not (tmp_path / "killed" / "images").exists()
    write_demo(tmp_path / "killed", images_per_class=1)
    write_demo(tmp_path / "whole", images_per_class=1)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_kill_between_the_images_and_the_stamp_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(yaml, "safe_dump", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_demo(tmp_path, images_per_class=1)
    assert (tmp_path / "images").exists()
    paths = write_demo(tmp_path, images_per_class=1)
    assert paths.classes.is_file()
    assert paths.words.is_file()


def test_deleted_images_are_drawn_again(tmp_path: Path) -> None:
    paths = write_demo(tmp_path, images_per_class=1)
    before = tree(tmp_path)
    next(paths.images.rglob("*.jpg")).unlink()
    write_demo(tmp_path, images_per_class=1)
    assert tree(tmp_path) == before


def test_a_users_own_folder_is_never_overwritten(tmp_path: Path) -> None:
    own = tmp_path / "images" / "cat" / "1.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(DataError, match="images"):
        write_demo(tmp_path)
    assert own.read_bytes() == b"mine"


def test_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images_per_class"):
        write_demo(tmp_path, images_per_class=0)
