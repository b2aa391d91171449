"""`vgse demo`: the whole way on images rendered by this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from vgse.config import Config
from vgse.config_loading import apply_overrides, parse_config
from vgse.data.demo_images import write_demo


def demo_config(out: Path, overrides: Sequence[str] = ()) -> Config:
    """Renders the demo's images into `out` and gives the configuration that runs on them."""
    paths = write_demo(out / "data")
    values = yaml.safe_load(files("vgse.data").joinpath("demo.yaml").read_text())
    values["run"] = str(out / "run")
    values["data"] |= {"images": str(paths.images), "classes": str(paths.classes), "word_vectors": str(paths.words)}
    return apply_overrides(parse_config(values, "vgse demo"), overrides, program="vgse demo")
