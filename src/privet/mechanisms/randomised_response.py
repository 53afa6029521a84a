"""Randomised response: a category that is true with a known probability, else uniform.

Assumes that every vector is one category in one-hot form (any other vector counts as the place of its
largest value). The kept probability is a multiple of 2^-53 and drawn exactly. Cost: two uniforms a vector.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import (
    DpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    RandomizedResponseDpEvent,
    SelfComposedDpEvent,
)
from pydantic import Field
from torch import Tensor, nn

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.parts import Grade, part
from privet.randomness import Source


@part
class RandomisedResponse(Mechanism):
    """Keeps each vector's category, or replaces it by a uniform one: labels in one-hot form that protect themselves.

    A vector (d values) is the category of its largest value among d, whatever it holds, so the
    guarantee needs no bound before it. With probability d / (e^epsilon + d - 1), rounded up to a multiple
    of 2^-53, the answer is uniform over all d; the event is derived from that probability. A record that
    is added or removed shows by its answer alone that it is there, so only replaced units are protected.
    The gradient is that of the identity.

    Attributes:
        epsilon: the pure loss of one answer, from which the probability is set.

    References:
        Warner, Randomized Response, JASA 1965; Kairouz, Oh, Viswanath, Extremal Mechanisms for Local
        Differential Privacy, NeurIPS 2014, section 2.
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True
    straight_through: ClassVar[bool] = True

    epsilon: Annotated[float, Field(gt=0, le=30)]

    def uniform_part(self, categories: int) -> float:
        """Returns the probability with which the answer is uniform over all categories."""
        return min(1.0, math.ceil(categories / (math.expm1(self.epsilon) + categories) * 2**53) / 2**53)

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        count = value.shape[-1]
        chosen = value.detach().argmax(-1)
        uniform = rng.uniform(tuple(chosen.shape)) <= self.uniform_part(count)
        other = torch.from_numpy(rng.integers(count, chosen.numel())).reshape(chosen.shape)
        answer = torch.where(uniform, other, chosen.cpu()).to(chosen.device)
        return self.passing_gradient(value, nn.functional.one_hot(answer, count))

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where vectors come and go, or are of unknown number."""
        vectors = 1 if sensitivity.unit == "coordinate" else sensitivity.vectors
        comes_or_goes = sensitivity.relation == "add-or-remove-one" and sensitivity.unit != "coordinate"
        if comes_or_goes or math.isinf(vectors) or math.isinf(sensitivity.dimension):
            return NonPrivateDpEvent()
        if sensitivity.tightened().linf == 0:
            return NoOpDpEvent()
        one = RandomizedResponseDpEvent(self.uniform_part(sensitivity.dimension), sensitivity.dimension)
        return one if vectors == 1 else SelfComposedDpEvent(one, int(vectors))
