"""Labels that somebody got wrong."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.fleet.imperfections.contract import Imperfection
from privet.parts import Grade, part
from privet.randomness import Source


@part
class NoisyLabels(Imperfection):
    """Some of the labels are wrong: each of them any other class, equally likely.

    Attributes:
        share: of the device's rows whose label is wrong.

    References:
        Natarajan et al., Learning with Noisy Labels, NIPS 2013 (symmetric noise).
    """

    grade: ClassVar[Grade] = "derived"

    share: Annotated[float, Field(gt=0, le=1)] = 0.2

    def spoil(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the same inputs, and labels of which some are wrong."""
        wrong = rng.permutation(len(labels))[: round(self.share * len(labels))]
        away = torch.from_numpy(rng.child("away").integers(max(1, classes - 1), len(wrong))) + 1
        spoilt = labels.clone()
        spoilt[wrong] = (labels[wrong] + away) % classes
        return inputs, spoilt
