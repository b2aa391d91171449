"""torch.compile of a backbone, where it works."""

from __future__ import annotations

import torch

from vgse.clustering.backbones import Backbone
from vgse.clustering.precision import backbone_precision

# Two sizes, so that batches of different numbers of rows are met before training, with one graph for all of them.
_TRIAL_ROWS = (4, 6)


def compile_backbone(backbone: Backbone, mixed_precision: str = "auto") -> str | None:
    """Compiles the backbone in place, on the device where it is; its state keeps its names.

    A forward and backward pass of a few rows is tried, since compilers (a C++ compiler on a CPU, Triton on a GPU) fail
    at the first call only.

    Returns:
        None, or why it could not be compiled; the backbone is then as it was.
    """
    model = backbone.model
    size = backbone.spec.input_size
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    try:
        model.compile(dynamic=True)
        for rows in _TRIAL_ROWS:
            pixels = torch.zeros(rows, size, size, 3, dtype=torch.uint8, device=backbone.mean.device)
            with backbone_precision(backbone.mean.device, mixed_precision):
                features_BF = backbone(pixels)
            features_BF.sum().backward()
        return None
    except Exception as error:
        # nn.Module.compile keeps what it made in this attribute, and calls it where it is not None.
        model._compiled_call_impl = None
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}"
    finally:
        backbone.zero_grad(set_to_none=True)
        backbone.load_state_dict(state)
