"""Backbones by name: `tiny`, torchvision names such as `resnet50`, and `timm/NAME`.

A backbone takes bytes as the crop makes them, (B, H, W, 3) uint8, and carries its own normalisation and input size:
with another network's mean and deviation features lose much of their worth (10 points of T1 for efficientnet_lite0).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vgse.clustering.tiny import TINY_FEATURES, TinyCNN
from vgse.clustering.weights import load_into
from vgse.errors import ConfigError, WeightsError

Triple = tuple[float, float, float]
# Their classifiers are convolutions, so there is no pooled feature vector in front of a last linear layer.
_WITHOUT_FEATURES = {"squeezenet1_0", "squeezenet1_1"}
# Attributes under which torchvision keeps the classifier of a model.
_HEADS = ("fc", "classifier", "heads", "head")
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone says about itself: feature dimension F, input side in pixels, normalisation of pixels in 0..1."""

    name: str
    feature_dim: int
    input_size: int
    mean: Triple
    std: Triple


@dataclass(frozen=True)
class _Recipe:
    """How to make a network: `make(pretrained)` without its classifier, whose state-dict names are `dropped`."""

    spec: BackboneSpec
    make: Callable[[bool], nn.Module]
    dropped: tuple[str, ...]
    download: str


class Backbone(nn.Module):
    """pixels (B, H, W, 3) uint8 -> features (B, F) float32, normalised inside, global average pooled.

    Batch normalisation always runs on its stored statistics, in training too: a pre-trained network keeps them, and
    batch statistics would make the gradient of a global batch depend on how its rows fall on workers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, model: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.model = model.to(memory_format=torch.channels_last)
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels_BHW3: Tensor) -> Tensor:
        """Features (B, F) float32.

        Raises:
            ValueError: the pixels are not (B, H, W, 3) uint8.
        """
        if pixels_BHW3.dtype != torch.uint8 or pixels_BHW3.ndim != 4 or pixels_BHW3.shape[-1] != 3:
            raise ValueError(f"pixels must be uint8 (B, H, W, 3), not {pixels_BHW3.dtype} {tuple(pixels_BHW3.shape)}")
        # The permuted view of contiguous (B, H, W, 3) is channels_last already: no copy but the cast.
        x_BCHW = (pixels_BHW3.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        return self.model(x_BCHW).to(self.mean.dtype)

    def train(self, mode: bool = True) -> Backbone:
        """As `nn.Module.train`, with batch normalisation kept on its stored statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def backbone_spec(name: str, *, input_size: int | None = None) -> BackboneSpec:
    """What `name` says about itself; needs no weights.

    Raises:
        ConfigError: an unknown name.
        WeightsError: a timm name without the timm extra.
    """
    spec = _recipe(name).spec
    return replace(spec, input_size=input_size) if input_size else spec


def build_backbone(
    name: str, *, weights: Path | None = None, pretrained: bool = False, input_size: int | None = None
) -> Backbone:
    """A backbone with weights from a local file, from its library's own download, or random.

    Args:
        name: `tiny`, a torchvision name, or `timm/NAME`.
        weights: a .safetensors, .pth or .pt file; classifier weights in it are ignored.
        pretrained: let torchvision or timm download their weights where no file is given.
        input_size: side in pixels (default: the backbone's own).

    Raises:
        ConfigError: an unknown name.
        WeightsError: weights are missing, unreadable, of another architecture or cannot be downloaded.
    """
    recipe = _recipe(name)
    if weights is None and pretrained:
        model = _download(name, recipe)
    else:
        model = recipe.make(False)
        if weights is not None:
            load_into(model, weights, name=name, dropped=recipe.dropped, download=recipe.download)
    return Backbone(replace(recipe.spec, input_size=input_size or recipe.spec.input_size), model)


def _download(name: str, recipe: _Recipe) -> nn.Module:
    if name == "tiny":
        raise WeightsError(
            "encode.backbone tiny has no pre-trained weights",
            "set encode.weights to none and cluster.mode to finetune, or encode.weights to a file",
        )
    try:
        return recipe.make(True)
    except Exception as error:
        raise WeightsError(
            f"encode.weights: the weights of {name} could not be downloaded ({type(error).__name__}: {error})",
            f"where the network allows, run `{recipe.download}`, then set encode.weights to that file",
        ) from error


def _recipe(name: str) -> _Recipe:
    if name == "tiny":
        spec = BackboneSpec(name, TINY_FEATURES, 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        return _Recipe(spec, lambda pretrained: TinyCNN(), (), "vgse demo")
    if name.startswith("timm/"):
        return _timm_recipe(name)
    return _torchvision_recipe(name)


# ---- torchvision
def _torchvision_recipe(name: str) -> _Recipe:
    known = set(torchvision.models.list_models(module=torchvision.models)) - _WITHOUT_FEATURES
    if name not in known:
        _unknown(name, ["tiny", *sorted(known)], "torchvision")
    preset = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    with torch.device("meta"):
        _, dropped, feature_dim = _without_classifier(_torchvision_model(name, None))
    crop = preset.crop_size
    spec = BackboneSpec(
        name, feature_dim, int(crop[0] if isinstance(crop, (list, tuple)) else crop), _triple(preset.mean),
        _triple(preset.std),
    )  # fmt: skip
    download = (
        f"python -c \"import torch, torchvision; torch.save(torchvision.models.get_model('{name}', "
        f"weights='DEFAULT').state_dict(), '{name}.pth')\""
    )
    return _Recipe(
        spec,
        lambda pretrained: _without_classifier(_torchvision_model(name, "DEFAULT" if pretrained else None))[0],
        (dropped, *_AUXILIARY.get(name, ())),
        download,
    )


def _torchvision_model(name: str, weights: str | None) -> nn.Module:
    # With weights, torchvision builds the auxiliary classifiers itself and drops those of googlenet again.
    options: dict[str, Any] = {"aux_logits": False} if name in _AUXILIARY and weights is None else {}
    model = torchvision.models.get_model(name, weights=weights, **options)
    if name in _AUXILIARY:
        model.aux_logits = False
        for auxiliary in _AUXILIARY[name]:
            setattr(model, auxiliary, None)
    return model


def _without_classifier(model: nn.Module) -> tuple[nn.Module, str, int]:
    """The model with its last linear layer replaced by the identity, that layer's name and its input dimension."""
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in _HEADS
    ]
    assert linear, f"{type(model).__name__} has no linear classifier"
    name, last = linear[-1]
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model, name, last.in_features


# ---- timm
def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        raise WeightsError(
            "encode.backbone asks for a timm network, but timm is not installed", "pip install vgse[timm]"
        ) from None
    return timm


def _timm_recipe(name: str) -> _Recipe:
    timm = _timm()
    short = name.removeprefix("timm/")
    if not timm.is_model(short):
        _unknown(name, ["timm/" + known for known in timm.list_models()], "timm")
    with torch.device("meta"):
        model = timm.create_model(short, pretrained=False, num_classes=0)
        whole_dim = int(model(torch.empty(1, *model.pretrained_cfg["input_size"])).shape[1])
    cfg = model.pretrained_cfg
    spec = BackboneSpec(name, whole_dim, int(cfg["input_size"][-1]), _triple(cfg["mean"]), _triple(cfg["std"]))
    classifier = cfg.get("classifier") or ()
    download = (
        f"python -c \"import timm; from safetensors.torch import save_file; save_file(timm.create_model('{short}', "
        f"pretrained=True).state_dict(), '{short}.safetensors')\""
    )
    return _Recipe(
        spec,
        lambda pretrained: timm.create_model(short, pretrained=pretrained, num_classes=0),
        (classifier,) if isinstance(classifier, str) else tuple(classifier),
        download,
    )


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _unknown(name: str, known: list[str], library: str) -> None:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "use tiny, a torchvision name such as resnet50, or timm/NAME"
    raise ConfigError(f"encode.backbone: {library} has no feature backbone {name!r}", hint)
