"""A small photograph-like data set with known truth, drawn in code: what `vgse demo` runs the whole pipeline on.

Classes are compositional: colour x texture x shape x background, named by those four words. Every property of an unseen
class is seen in training classes, in other combinations, so the visual properties that clusters should discover and
word vectors should carry are known exactly (`demo_truth`). The word vectors are a GloVe extract of the property words.
"""

import importlib.resources
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from vgse.data.demo_scenes import draw
from vgse.errors import DataError

# The words were chosen so that GloVe tells the values of a property apart: `scarlet` and `lime` are further apart than
# `red` and `green`, which stand in the same sentences.
PROPERTIES = {
    "colour": ("scarlet", "lime", "amber", "blue"),
    "texture": ("striped", "spotted", "plain"),
    "shape": ("square", "star", "ring", "cross"),
    "background": ("grass", "brick", "water", "sand"),
}
# No two classes share more than two properties, no two unseen ones more than one; each value occurs at least three
# times in training; colours that would vanish on a background (lime on grass) do not meet it.
_SPLIT = {
    "train": (
        "amber_plain_star_water",
        "amber_spotted_square_brick",
        "amber_striped_cross_brick",
        "amber_striped_ring_grass",
        "blue_spotted_square_sand",
        "blue_striped_cross_grass",
        "blue_striped_square_brick",
        "lime_plain_star_sand",
        "lime_spotted_cross_brick",
        "lime_striped_ring_brick",
        "lime_striped_square_water",
        "scarlet_plain_ring_grass",
        "scarlet_plain_square_water",
        "scarlet_spotted_star_sand",
    ),
    "val": (
        "blue_plain_cross_brick",
        "blue_spotted_ring_grass",
        "scarlet_spotted_cross_water",
        "scarlet_striped_ring_sand",
    ),
    "unseen": (
        "amber_plain_cross_grass",
        "amber_spotted_ring_water",
        "blue_spotted_star_brick",
        "lime_striped_cross_sand",
        "scarlet_spotted_square_grass",
        "scarlet_striped_star_water",
    ),
}
_STAMP = "demo.json"


@dataclass(frozen=True)
class DemoPaths:
    """Where `write_demo` put things: the folder tree of images, the class split, the word vectors."""

    images: Path
    classes: Path
    words: Path


def demo_classes() -> dict[str, list[str]]:
    """The class split: 14 `train`, 4 `val` and 6 `unseen` names, always the same, in the same order."""
    return {part: list(names) for part, names in _SPLIT.items()}


def demo_truth(class_names: Sequence[str]) -> np.ndarray:
    """The properties each class truly has: 0/1 float64 (C, 15), columns in the order of `PROPERTIES`.

    Raises:
        ValueError: on a name that is not colour_texture_shape_background.
    """
    columns = [value for values in PROPERTIES.values() for value in values]
    return np.array([[float(value in _parts(name)) for value in columns] for name in class_names])


def render(class_name: str, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Draw one image of a class: RGB uint8 (size, size, 3).

    Position, scale, turn, hue, light, shadow, blur and noise vary with `rng`; the same state gives the same image.

    Raises:
        ValueError: on a name that is not colour_texture_shape_background.
    """
    return draw(*_parts(class_name), rng, size)


def write_demo(folder: Path, *, images_per_class: int = 40, seed: int = 0) -> DemoPaths:
    """Write `images/<class>/<i>.jpg`, `classes.yaml` and `words.txt` under `folder`; the same bytes for the same seed.

    Does nothing when a complete data set of these settings is there. A stamp file says so and is written last, and
    the image tree appears under its name by one rename, so a killed run is started over, not taken for whole.

    Raises:
        DataError: when the folder holds an `images` folder, `classes.yaml` or `words.txt` that is not the demo's.
        ValueError: when images_per_class is below 1.
    """
    if images_per_class < 1:
        raise ValueError(f"images_per_class must be at least 1, got {images_per_class}")
    folder = Path(folder)
    paths = DemoPaths(folder / "images", folder / "classes.yaml", folder / "words.txt")
    stamp = {"data_set": "vgse demo 1", "images_per_class": images_per_class, "seed": seed}
    state = _read_stamp(folder, paths)
    if state == {**stamp, "complete": True} and _is_whole(paths, images_per_class):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    _replace_text(folder / _STAMP, json.dumps({**stamp, "complete": False}))
    partial = folder / "images.partial"
    for leftover in (partial, paths.images):
        shutil.rmtree(leftover, ignore_errors=True)
    for number, name in enumerate(sorted(_all_names())):
        (partial / name).mkdir(parents=True)
        for index in range(images_per_class):
            pixels = render(name, np.random.default_rng([seed, number, index]))
            encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (partial / name / f"{index:04d}.jpg").write_bytes(encoded.tobytes())
    partial.rename(paths.images)
    _replace_text(paths.classes, yaml.safe_dump(demo_classes(), sort_keys=False))
    words = importlib.resources.files("vgse.data").joinpath("demo_words.txt").read_text(encoding="utf-8")
    _replace_text(paths.words, words)
    _replace_text(folder / _STAMP, json.dumps({**stamp, "complete": True}))
    return paths


def _all_names() -> list[str]:
    return [name for names in _SPLIT.values() for name in names]


def _parts(class_name: str) -> tuple[str, str, str, str]:
    parts = class_name.split("_")
    if len(parts) != 4 or any(part not in values for part, values in zip(parts, PROPERTIES.values(), strict=True)):
        raise ValueError(f"{class_name!r} is not colour_texture_shape_background of {PROPERTIES}")
    colour, texture, shape, background = parts
    return colour, texture, shape, background


def _read_stamp(folder: Path, paths: DemoPaths) -> dict | None:
    try:
        return json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        for path in (paths.images, paths.classes, paths.words):
            if path.exists():
                raise DataError(
                    f"{path} exists and was not written by the demo", "give the demo a new or empty folder"
                ) from None
        return None
    except ValueError:
        return None


def _is_whole(paths: DemoPaths, images_per_class: int) -> bool:
    counts = [len(list((paths.images / name).glob("*.jpg"))) for name in _all_names()]
    return counts == [images_per_class] * len(counts) and paths.classes.is_file() and paths.words.is_file()


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
