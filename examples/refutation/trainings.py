"""DP-SGD in twenty lines on plain gradients, right or wrong in one place: what an audit should tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from privet.randomness import Source


@dataclass(frozen=True)
class Training:
    """Returns the noisy sum of each step, shape (steps, d), of records whose gradients are given.

    Attributes:
        steps: how many.
        rate: probability of each record in a step, or the share of a batch.
        noise_multiplier: standard deviation of the noise; the clipping norm is 1.
        clips: whether gradients are clipped.
        noise: fresh in every step, the same in every step, or in the first step only.
        sampler: Poisson samples, or batches of a fixed size, shuffled anew in every epoch.
    """

    steps: int
    rate: float
    noise_multiplier: float
    clips: bool = True
    noise: Literal["fresh", "the same", "first"] = "fresh"
    sampler: Literal["poisson", "shuffled"] = "poisson"

    def __call__(self, gradients: Tensor, rng: Source) -> Tensor:
        """Trains on gradients of shape (n, d), the same in every step."""
        rows, values = gradients.shape
        draw, noise = rng.child("sample"), rng.child("noise")
        if self.clips:
            gradients = gradients / gradients.norm(dim=1, keepdim=True).clamp_min(1)
        first, turns, sums = self.noise_multiplier * noise.normal((values,)), round(1 / self.rate), []
        for step in range(self.steps):
            if self.sampler == "poisson":
                batch = (draw.uniform((rows,)) <= self.rate).nonzero().flatten()
            else:
                order = order if step % turns else draw.permutation(rows)  # noqa: F821
                batch = order.split(-(-rows // turns))[step % turns]
            total = gradients[batch].sum(0)
            if self.noise == "fresh":
                total = total + self.noise_multiplier * noise.normal((values,))
            elif self.noise == "the same" or step == 0:
                total = total + first
            sums.append(total)
        return torch.stack(sums)
