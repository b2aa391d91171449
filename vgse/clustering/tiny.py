"""The small CNN of the demo: about a quarter of a million parameters, trained from scratch."""

from __future__ import annotations

from torch import Tensor, nn

TINY_FEATURES = 128


class TinyCNN(nn.Module):
    """Four 3x3 convolutions and global average pooling: x_BCHW float -> features (B, 128).

    Group normalisation instead of batch normalisation: no statistic crosses rows, so that the gradient of a global
    batch does not depend on how its rows fall on workers.
    """

    def __init__(self) -> None:
        super().__init__()
        widths, strides = (3, 32, 64, TINY_FEATURES, TINY_FEATURES), (2, 2, 2, 1)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.ReLU(inplace=True),
                )
                for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            )
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pooled features (B, 128)."""
        return self.layers(x_BCHW).mean(dim=(2, 3))
