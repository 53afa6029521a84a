"""Nearest-neighbour mixing: every update becomes the mean of its neighbours before another rule sees it.

Paper: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, Fixing by Mixing: A Recipe for Optimal Byzantine ML
under Heterogeneity, AISTATS 2023. Assumes that at most ``byzantine`` of n > 2 byzantine updates are hostile; mixing
makes honest updates alike where data is not, so that the inner rule leaves fewer of them out. Cost: one Gram
product, one more product of that size for the mixing, and the inner rule.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema
from torch import Tensor

from privet import parts
from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined
from privet.aggregation.distances import BLOCK, squared_distances
from privet.aggregation.trimmed_mean import TrimmedMean
from privet.errors import PartError
from privet.parts import Grade, part


def _inner(value: Any) -> Aggregator:
    """Returns the rule that a nested table describes; a built one as it is."""
    if isinstance(value, Aggregator):
        return value
    if not isinstance(value, dict):
        raise PartError(f"nnm.inner: {value!r} is refused", allowed='a table such as {name = "trimmed-mean"}')
    inner: Aggregator = parts.build("aggregators", value)
    return inner


Inner = Annotated[
    Aggregator,
    PlainValidator(_inner),
    PlainSerializer(parts.to_table),
    WithJsonSchema({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}),
]
"""A rule inside a rule: a table with a name in the plan."""


@part
class Nnm(Aggregator):
    """Replaces each update by the mean of its n - f nearest, itself among them, then applies the inner rule.

    Attributes:
        byzantine: f, hostile updates to withstand; needs n >= 2 f + 1 updates, and what the inner rule needs.
        inner: the rule that combines the mixed updates, a table such as {name = "multi-krum", byzantine = 2}.

    References:
        Allouah et al., AISTATS 2023, algorithm 2.
    """

    grade: ClassVar[Grade] = "measured"

    byzantine: Annotated[int, Field(ge=0)] = 1
    inner: Inner = TrimmedMean()

    @property
    def trusts(self) -> int:
        return self.inner.trusts

    def minimum(self) -> int:
        """Returns 2 f + 1, or what the inner rule needs where that is more."""
        return max(2 * self.byzantine + 1, self.inner.minimum())

    def stands(self, n: int) -> int:
        """Returns ``byzantine``, or what the inner rule stands where that is less."""
        return min(self.byzantine, self.inner.stands(n))

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        n = len(self.check(updates, weights))
        nearest = squared_distances(updates).argsort(dim=1, stable=True)[:, : n - self.byzantine]
        shares = torch.zeros(n, n, dtype=torch.float64).scatter_(1, nearest, 1 / (n - self.byzantine))
        mixed = torch.empty_like(updates)
        for start in range(0, updates.shape[1], BLOCK):
            mixed[:, start : start + BLOCK] = (shares @ updates[:, start : start + BLOCK].double()).to(updates.dtype)
        return self.inner.combine(mixed, weights, around)
