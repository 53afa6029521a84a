"""A network that draws an image from features, coarse to fine, by convolutions."""

from __future__ import annotations

import math

from torch import Tensor, nn

_WIDE = 24  # channels


class ConvolutionalInverse(nn.Module):
    """One linear layer to a quarter of the image's side, then twice as large, twice, by convolutions.

    Neighbouring pixels are drawn by the same weights, which needs fewer pairs than a linear layer does.

    Args:
        given: how many numbers it is given.
        shape: of an image (channels, height, width).

    References:
        He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019), section 4:
        the inverse network.
    """

    def __init__(self, given: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._shape = shape
        channels, height, width = shape
        coarse = (_WIDE, math.ceil(height / 4), math.ceil(width / 4))
        self._layers = nn.Sequential(
            *(nn.Linear(given, math.prod(coarse)), nn.ReLU(), nn.Unflatten(1, coarse)),
            *(nn.Upsample(scale_factor=2), nn.Conv2d(_WIDE, _WIDE, 3, padding=1), nn.ReLU()),
            # Each place of half the size answers for its four pixels, which costs a quarter of doing it at full size.
            *(nn.Conv2d(_WIDE, 4 * channels, 3, padding=1), nn.PixelShuffle(2), nn.Sigmoid()),
        )

    def forward(self, given: Tensor) -> Tensor:
        """Returns pixels in [0, 1], flat (n, p), from what is given (n, given)."""
        _, height, width = self._shape
        drawn: Tensor = self._layers(given)[:, :, :height, :width].flatten(1)
        return drawn
