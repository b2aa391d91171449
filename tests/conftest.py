"""What tests share: small real data, one S3 server and one Ray instance for the whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks.s3_server import S3Server, serve_s3
from vgse.data.demo_images import DemoPaths, write_demo

SHARED = Path(__file__).parents[1].parent / "shared"
BUCKET = "vgse-test"
CIFAR_SPLIT = {
    "train": ["bear", "bed", "bus", "cloud", "lion", "lobster"],
    "val": ["bowl", "rabbit", "tiger"],
    "unseen": ["apple", "mountain", "snake"],
}
CIFAR_IMAGES_PER_CLASS = 10


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings() -> Iterator[None]:
    """Tests meet neither the user's credentials nor the user's cluster, and ask no cloud for a role."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name == "RAY_ADDRESS":
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on small problems, most of all on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images, word vectors and weights beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real data (../shared beside the checkout) is not here")
    return SHARED


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    """The demo's 24 classes with 8 images each."""
    return write_demo(tmp_path_factory.mktemp("demo"), images_per_class=8)


@pytest.fixture(scope="session")
def demo_values(demo_data: DemoPaths) -> Callable[..., dict[str, Any]]:
    """A function (run, **sections) -> plain configuration that trains the tiny network on the demo's images."""

    def values(run: Path | str, **sections: dict[str, Any]) -> dict[str, Any]:
        base: dict[str, Any] = {
            "run": str(run),
            "data": {
                "images": str(demo_data.images),
                "classes": str(demo_data.classes),
                "word_vectors": str(demo_data.words),
            },
            "encode": {"backbone": "tiny", "weights": "none", "input_size": 32},
            "cluster": {"mode": "finetune", "num_clusters": 20, "epochs": 1, "batch_size": 256},
        }
        return {**base, **{name: {**base.get(name, {}), **section} for name, section in sections.items()}}

    return values


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, demo_data: DemoPaths) -> Iterator[S3Server]:
    """A server whose bucket holds the demo's data and, where ../shared is, a little of CIFAR-100 with real weights.

    All is there before the server starts, since it would notice later files only after a while.
    """
    folder = tmp_path_factory.mktemp("s3")
    bucket = folder / BUCKET
    shutil.copytree(demo_data.images.parent, bucket / "demo")
    if (SHARED / "data").is_dir():
        _stage_cifar(bucket / "cifar")
    with serve_s3(folder) as server:
        yield server


def _stage_cifar(folder: Path) -> None:
    names = [name for part in CIFAR_SPLIT.values() for name in part]
    source = SHARED / "data" / "cifar100" / "train-00000-of-00004.parquet"
    table = pq.read_table(source, columns=["class_name", "image"], filters=[("class_name", "in", names)])
    frame = table.to_pandas().groupby("class_name").head(CIFAR_IMAGES_PER_CLASS)
    assert (frame.class_name.value_counts() == CIFAR_IMAGES_PER_CLASS).all()
    assert set(frame.class_name) == set(names)
    for number, (name, image) in enumerate(zip(frame.class_name, frame.image, strict=True)):
        path = folder / "images" / name / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (folder / "split.yaml").write_text(yaml.safe_dump(CIFAR_SPLIT))
    shutil.copy(SHARED / "data" / "word_vectors" / "glove_100d_22k.bin", folder / "words.bin")
    shutil.copy(SHARED / "weights" / "tf_efficientnet_lite0.safetensors", folder / "weights.safetensors")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> S3Server:
    """The server, with the AWS variables of this process pointing to it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


@pytest.fixture(scope="session")
def ray_session(_own_surroundings: None) -> Iterator[None]:
    """The one Ray instance of this session; it starts before any test sets credentials, so workers inherit none."""
    from vgse.pipeline import session

    with pytest.MonkeyPatch.context() as patch:
        # Otherwise Ray would join whatever `ray start` left running on this machine.
        patch.setenv("RAY_ADDRESS", "local")
        session.connect()
    yield
    session.ray.shutdown()
