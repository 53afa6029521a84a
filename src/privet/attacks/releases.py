"""Combining several releases of one record, so that their noise is averaged away."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.attacks.linear_inverse import class_means


class Squash:
    """Presses each coordinate through a tanh around its class mean.

    Under Laplace noise the best score of a weak signal is the sign, which holds twice the information
    of the mean; the tanh comes near it.

    Args:
        features: the attacker's own, shape (m, releases, d).
        labels: shape (m,).
        classes: number of classes.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self._centres = class_means(features.mean(1), labels, classes).float()
        first = features[:, 0] - self._centres[labels]
        self._spread = 0.7 * first.abs().mean().clamp_min(1e-12)

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """Returns one release, shape (m, d), pressed."""
        return torch.tanh((features - self._centres[labels]) / self._spread)


def gather(features: Tensor, labels: Tensor, squash: Squash | None) -> Tensor:
    """Returns the mean over releases, of (m, releases, d), as they are or each pressed first; float64 (m, d)."""
    releases = features.unbind(1)
    total = torch.zeros(features.shape[0], features.shape[2], dtype=torch.float64)
    for release in releases:
        total += release if squash is None else squash(release, labels)
    return total / len(releases)
