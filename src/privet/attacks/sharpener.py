"""The network that corrects a linear guess of the inputs, and what it tries to make small."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

_WINDOW = 7  # side of the windows in which structure is compared


class Sharpener(nn.Module):
    """Two hidden layers whose answer corrects the linear guess; an image's pixels end in a sigmoid.

    Args:
        given: how many numbers it is given.
        size: how many numbers an input has.
        width: units in each hidden layer.
        dropout: share of hidden units left out in training.
        image: whether the inputs are pixels in [0, 1].
    """

    def __init__(self, given: int, size: int, width: int, dropout: float, image: bool) -> None:
        super().__init__()
        self._image = image
        self._slope = nn.Parameter(torch.tensor(4.0 if image else 1.0))
        self._layers = nn.Sequential(
            *(nn.Linear(given, width), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(width, size),
        )

    def forward(self, given: Tensor, start: Tensor) -> Tensor:
        """Returns inputs (n, size) from what is given (n, given) and the linear guess (n, size)."""
        if self._image:
            return torch.sigmoid(self._layers(given) + self._slope * (start - 0.5))
        out: Tensor = self._layers(given) + self._slope * start
        return out


def lost(guess: Tensor, truth: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the mean squared error, and for images besides it the structure lost, which the eye sees.

    Args:
        guess: shape (n, p), pixels in [0, 1].
        truth: shape (n, p).
        shape: shape of one input; (channels, height, width) is an image.

    References:
        Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment (IEEE TIP 2004), equation 13, in
        square windows of equal weights.
    """
    error = F.mse_loss(guess, truth)
    if len(shape) != 3 or min(shape[1:]) < _WINDOW:
        return error
    a, b = guess.reshape(-1, *shape), truth.reshape(-1, *shape)
    mean_a, mean_b, square_a, square_b, product = (
        F.avg_pool2d(values, _WINDOW, 1) for values in (a, b, a * a, b * b, a * b)
    )
    likeness = (2 * mean_a * mean_b + 1e-4) * (2 * (product - mean_a * mean_b) + 9e-4)
    likeness = likeness / (mean_a**2 + mean_b**2 + 1e-4)
    likeness = likeness / (square_a - mean_a**2 + square_b - mean_b**2 + 9e-4)
    return 5 * error + (1 - likeness.mean()) / 2
