"""Devices that send noise, by malice or by a broken sensor."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Noise(Behaviour):
    """Sends Gaussian noise in place of its update.

    Attributes:
        scale: standard deviation of each coordinate.

    References:
        Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017, section 6 (Gaussian Byzantine workers).
    """

    grade: ClassVar[Grade] = "measured"

    scale: Annotated[float, Field(gt=0)] = 1.0

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns noise (d,)."""
        return rng.normal(tuple(update.shape)).to(update.dtype) * self.scale
