"""Backbones: what they say about themselves, weights from files, and clear errors."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from vgse.clustering.backbones import backbone_spec, build_backbone
from vgse.errors import ConfigError, WeightsError

SHARED = Path(__file__).parents[1].parent / "shared"


def _pixels(size: int, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_resnet50_says_what_imagenet_networks_want():
    spec = backbone_spec("resnet50")
    assert (spec.feature_dim, spec.input_size) == (2048, 224)
    assert spec.mean == (0.485, 0.456, 0.406)
    assert spec.std == (0.229, 0.224, 0.225)
    assert backbone_spec("resnet50", input_size=96).input_size == 96


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [("vgg11", 4096), ("mobilenet_v3_small", 1024), ("convnext_tiny", 768), ("vit_b_16", 768)],
)
def test_the_last_linear_layer_is_taken_off_whatever_it_is_called(name: str, feature_dim: int):
    assert backbone_spec(name).feature_dim == feature_dim


def test_tiny_is_small_and_gives_gradients_to_every_weight():
    backbone = build_backbone("tiny")
    parameters = list(backbone.parameters())
    assert 100_000 < sum(p.numel() for p in parameters) < 300_000
    features = backbone(_pixels(backbone.spec.input_size))
    assert features.shape == (2, backbone.spec.feature_dim)
    features.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters)


def test_pixels_are_normalised_inside_as_torchvision_does_outside(tmp_path: Path):
    torch.manual_seed(0)
    whole = torchvision.models.resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18", weights=tmp_path / "resnet18.pth").eval()
    pixels = _pixels(64)
    x = torchvision.transforms.functional.normalize(
        pixels.permute(0, 3, 1, 2) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        torch.testing.assert_close(whole.fc(backbone(pixels)), whole(x), rtol=1e-4, atol=1e-4)


def test_batch_normalisation_keeps_its_statistics_in_training():
    backbone = build_backbone("resnet18").train()
    before = backbone.model.bn1.running_mean.clone()
    backbone(_pixels(32))
    assert torch.equal(backbone.model.bn1.running_mean, before)
    assert backbone.model.layer1.training


def test_wrong_pixels_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        build_backbone("tiny")(torch.rand(2, 64, 64, 3))


@pytest.mark.parametrize(
    ("name", "near"), [("resnet5", "resnet50"), ("timm/tf_efficientnet_lit0", "timm/tf_efficientnet_lite0")]
)
def test_an_unknown_name_names_the_nearest(name: str, near: str):
    with pytest.raises(ConfigError, match=near):
        backbone_spec(name)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"nothing\.pth does not exist\n.*python -c .*torchvision.*encode\.weights"):
        build_backbone("resnet18", weights=tmp_path / "nothing.pth")


def test_weights_of_another_architecture_name_some_keys(tmp_path: Path):
    save_file(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit encode\.backbone resnet18: missing.*conv1.*unexpected"):
        build_backbone("resnet18", weights=tmp_path / "other.safetensors")
    wide = torchvision.models.resnet18(weights=None, num_classes=7).state_dict()
    wide["conv1.weight"] = torch.zeros(64, 3, 5, 5)
    save_file(wide, tmp_path / "shape.safetensors")
    with pytest.raises(WeightsError, match=r"conv1\.weight is \(64, 3, 5, 5\), not \(64, 3, 7, 7\)"):
        build_backbone("resnet18", weights=tmp_path / "shape.safetensors")


def test_a_wrapped_and_prefixed_checkpoint_loads(tmp_path: Path):
    tensors = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "w.pt")
    backbone = build_backbone("resnet18", weights=tmp_path / "w.pt")
    assert torch.equal(backbone.model.conv1.weight, tensors["conv1.weight"])


class _Code:
    def __reduce__(self):
        return print, ("code from a weights file ran",)


def test_a_pickle_with_code_and_a_broken_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"conv1.weight": _Code()}, tmp_path / "evil.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor")
    for name in ("evil.pth", "broken.safetensors"):
        with pytest.raises(WeightsError, match="cannot be read"):
            build_backbone("resnet18", weights=tmp_path / name)
    assert "code from a weights file ran" not in capsys.readouterr().out


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    with pytest.raises(WeightsError, match=r"could not be downloaded \(OSError: no route\)\n.*encode\.weights"):
        build_backbone("resnet18", pretrained=True)


def test_tiny_has_no_pretrained_weights():
    with pytest.raises(WeightsError, match="finetune"):
        build_backbone("tiny", pretrained=True)


def test_without_timm_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"pip install vgse\[timm\]"):
        backbone_spec("timm/tf_efficientnet_lite0")


# ---- real weights
@pytest.fixture(scope="module")
def lite0_file() -> Path:
    pytest.importorskip("timm")
    path = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the shared folder beside the checkout")
    return path


def test_lite0_wants_about_x_minus_127_over_128():
    pytest.importorskip("timm")
    spec = backbone_spec("timm/tf_efficientnet_lite0")
    assert (spec.feature_dim, spec.input_size) == (1280, 224)
    assert np.allclose(255 * np.array(spec.mean), 127, atol=1)
    assert np.allclose(255 * np.array(spec.std), 128, atol=1)


def test_lite0_recognises_real_photographs_with_the_files_own_classifier(lite0_file: Path):
    photographs = sorted((SHARED / "data" / "imagenet_samples").glob("*.JPEG"))[:24]
    if not photographs:
        pytest.skip("the ImageNet samples are not in the shared folder beside the checkout")
    backbone = build_backbone("timm/tf_efficientnet_lite0", weights=lite0_file).eval()
    size = backbone.spec.input_size
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in photographs]
    pixels = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images])
    with torch.no_grad():
        features = backbone(torch.from_numpy(pixels))
    assert features.shape == (24, 1280)
    assert bool(torch.isfinite(features).all())
    weights = load_file(lite0_file)
    top5 = (features @ weights["classifier.weight"].T + weights["classifier.bias"]).topk(5).indices.tolist()
    categories = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    named = [path.stem.split("_", 1)[1].replace("_", " ").lower() for path in photographs]
    known = [(name, five) for name, five in zip(named, top5, strict=True) if name in map(str.lower, categories)]
    right = sum(name in [categories[index].lower() for index in five] for name, five in known)
    assert len(known) >= 15
    assert right >= 0.8 * len(known)


def test_lite0_weights_do_not_fit_resnet50(lite0_file: Path):
    with pytest.raises(WeightsError, match=r"does not fit encode\.backbone resnet50"):
        build_backbone("resnet50", weights=lite0_file)
