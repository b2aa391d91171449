"""Reading a backbone's weights from a file: safetensors, or a .pth/.pt read with `weights_only=True`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vgse.errors import WeightsError

# Where training programs put the model in a checkpoint of more than weights.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_SHOWN = 3


def load_into(model: nn.Module, path: Path, *, name: str, dropped: tuple[str, ...], download: str) -> None:
    """Loads the weights of backbone `name` from `path` into `model`.

    Args:
        model: the network without its classifier.
        path: a .safetensors, .pth or .pt file.
        name: the backbone's name, for messages.
        dropped: names of the classifier layers, whose weights in the file are ignored.
        download: a command that makes such a file, for messages.

    Raises:
        WeightsError: the file is missing, unreadable or belongs to another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"encode.weights: {path} does not exist",
            f"to make it, run `{download}` where the network allows and set encode.weights to the file",
        )
    tensors = {key: value for key, value in _read(path).items() if not _belongs_to(key, dropped)}
    expected = model.state_dict()
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in tensors if key not in expected]
    shapes = [
        f"{key} is {tuple(tensors[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        found = [("missing", missing), ("unexpected", unexpected), ("shapes", shapes)]
        detail = "; ".join(f"{what} ({len(keys)}): {', '.join(keys[:_SHOWN])}" for what, keys in found if keys)
        raise WeightsError(
            f"encode.weights: {path} does not fit encode.backbone {name}: {detail}",
            "set encode.backbone to the network the file was made for, or encode.weights to a file of this network",
        )
    model.load_state_dict(tensors, strict=False)


def _belongs_to(key: str, layers: tuple[str, ...]) -> bool:
    return any(key.startswith(layer + ".") for layer in layers)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # pickle.UnpicklingError: a file with code in it, refused on purpose
        raise _unreadable(path, error) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise _unreadable(path, ValueError("it holds something else than named tensors"))
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = str(error).split("\n")[0]
    return WeightsError(
        f"encode.weights: {path} cannot be read: {reason}",
        "give a .safetensors file, or a .pth/.pt that holds tensors only (no pickled objects)",
    )
