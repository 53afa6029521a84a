"""Bounded normalisation: min-max to a fixed range, which gives noise its sensitivity.

Paper: Zhao et al., Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices,
section IV.C. Assumes messages of at most ``batch_size`` vectors where it works over the batch.
Cost: four passes over the values.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.errors import InputError
from privet.mechanisms.contract import Mechanism
from privet.normalisation import min_max
from privet.parts import Grade, part
from privet.randomness import Source


def as_batch(value: Tensor, batch_size: int) -> Tensor:
    """Returns a message as rows (n, d), where the batch has a range and the derived bound holds.

    Raises:
        InputError: the message has fewer than 2 vectors or more than ``batch_size``.
    """
    rows = value.reshape(-1, value.shape[-1])
    if not 2 <= rows.shape[0] <= batch_size:
        raise InputError(
            f"normalising over the batch got {rows.shape[0]} vector(s)",
            allowed=f"2 to {batch_size} (batch_size)",
            do="normalise over the sample, or send batches of that size",
        )
    return rows


@part
class BoundedNormalisation(Mechanism):
    """Maps values linearly to [-sqrt(N-1), sqrt(N-1)] by their minimum and maximum, N = batch_size.

    A constant becomes 0, and so does what is not finite. Over the batch, one record moves the rows of
    all others: its l1 sensitivity is N * d * 2 sqrt(N-1) (3.98 million for 64 vectors of 3,920), and
    a batch of one has no range.

    The coordinate's bound, 2 sqrt(N-1), is the paper's claim. It is about one value after
    normalising, everything else held fixed; it says nothing of how that value moves the range.

    Attributes:
        batch_size: N, which sets the range; over the batch also the most vectors in a message.
        over: ``batch``: minimum and maximum of each dimension over all vectors of the message, as in
            the paper; ``sample``: of each vector by itself, which other records can't move.

    Raises:
        InputError: over the batch, a message has fewer than 2 vectors or more than ``batch_size``.

    References:
        Zhao et al., section IV.C.
    """

    grade: ClassVar[Grade] = "derived"

    batch_size: Annotated[int, Field(ge=2)]
    over: Literal["batch", "sample"] = "sample"

    @property
    def couples_records(self) -> bool:
        """Whether it works over the batch."""
        return self.over == "batch"

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        edge = math.sqrt(self.batch_size - 1)
        if self.over == "sample":
            return min_max(value, edge, -1)
        return min_max(as_batch(value, self.batch_size), edge, 0).reshape(value.shape)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        edge = math.sqrt(self.batch_size - 1)
        if sensitivity.unit == "coordinate":
            return replace(sensitivity, spread=False).bounded(linf=2 * edge)
        if self.over == "batch":
            rows = self.batch_size if math.isfinite(sensitivity.vectors) else math.inf
            sensitivity = replace(sensitivity, vectors=rows, spread=True)
        return sensitivity.bounded(linf=sensitivity.neighbours * edge)
