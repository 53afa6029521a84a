"""Batch normalisation without learned scale: what bounded normalisation is compared with.

Paper: Zhao et al., section IV.C, after Jiang et al. Assumes messages of at most ``batch_size``
vectors. Cost: six passes over the values.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.bounded_normalisation import BoundedNormalisation, as_batch
from privet.mechanisms.contract import Mechanism
from privet.normalisation import standardise
from privet.parts import Grade, part
from privet.randomness import Source


@part
class BatchNormalisation(Mechanism):
    """Gives each dimension mean 0 and variance 1 over the batch, which keeps it in [-sqrt(N-1), sqrt(N-1)].

    The range follows from mean 0 and variance 1 by Cauchy-Schwarz; results are clamped to it, so that
    it also holds for rounding and for smaller batches. A constant dimension becomes 0, and so does
    one with a value that is not finite. Bounds are those of bounded normalisation over the batch.

    Attributes:
        batch_size: N, the most vectors in a message.

    Raises:
        InputError: a message has fewer than 2 vectors or more than ``batch_size``.

    References:
        Zhao et al., section IV.C.
    """

    grade: ClassVar[Grade] = "derived"

    batch_size: Annotated[int, Field(ge=2)]

    @property
    def couples_records(self) -> bool:
        """True: mean and variance are those of the batch."""
        return True

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        rows = as_batch(value, self.batch_size)
        return standardise(rows, math.sqrt(self.batch_size - 1), 0).reshape(value.shape)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        return BoundedNormalisation(self.batch_size, "batch").bound(sensitivity)
