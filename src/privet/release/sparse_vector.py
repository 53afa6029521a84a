"""Sparse vector (AboveThreshold): the first of many questions whose answer reaches a threshold.

Assumes that no answer moves by more than ``sensitivity`` between neighbours. Noise is exact, on
answers rounded to a grid. Cost: one draw an answer.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import DpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting import Relation
from privet.accounting.pure import pure_event
from privet.mechanisms.integer_noise import Granularity, discrete_laplace, to_grid
from privet.parts import Grade, part
from privet.randomness import Source
from privet.release.contract import Answer


@part
class SparseVector(Answer):
    """Says which answer is the first to reach a noisy threshold; costs the same however many were below it.

    One draw of noise for the threshold, of scale 2 s / epsilon, and one of scale 4 s / epsilon for each answer,
    where s is the sensitivity in steps of the grid after rounding, as a published proof needs them: no answer's
    value is told, and it stops at the first that is above, where several unsound variants go on (Lyu et
    al., figure 1). For the next one, ask again and pay again.

    Attributes:
        threshold: in units of the answers.
        epsilon: the pure loss of one question for the first above, from which the noise is set.
        sensitivity: how far one record moves any answer at most.
        granularity: the step of the grid, a power of two.

    References:
        Dwork and Roth, The Algorithmic Foundations of Differential Privacy, algorithm 1 and theorem 3.23;
        Lyu, Su, Li, Understanding the Sparse Vector Technique, VLDB 2017.
    """

    grade: ClassVar[Grade] = "derived"

    threshold: float
    epsilon: Annotated[float, Field(gt=0, le=700)]
    sensitivity: Annotated[float, Field(gt=0)] = 1.0
    granularity: Granularity = 2.0**-10

    def __call__(self, records: Tensor, rng: Source) -> int | None:
        """Returns the place of the first answer above, None where none is.

        Args:
            records: the true answers, shape (k,), in the order they are asked.
            rng: where the noise comes from.
        """
        steps = math.floor(self.sensitivity / self.granularity) + 1
        limit = to_grid(torch.tensor([self.threshold], dtype=torch.float64), self.granularity)
        limit = limit + discrete_laplace(rng, 2 * steps / self.epsilon, (1,))
        noisy = to_grid(records, self.granularity)
        above = (noisy + discrete_laplace(rng, 4 * steps / self.epsilon, tuple(noisy.shape)) >= limit).nonzero()
        return int(above[0]) if len(above) else None

    def event(self, relation: Relation) -> DpEvent:
        return pure_event(self.epsilon)
