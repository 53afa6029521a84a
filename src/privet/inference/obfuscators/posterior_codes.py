"""A code for the device's own posterior, and nothing more, leaves the device: the leak is bounded by counting."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.inference.obfuscators.student import Distilled
from privet.parts import Grade, part


@part
class PosteriorCodes(Distilled):
    """One of few prototypes leaves, chosen by a small network on the device: at most log2 ``most`` bits a release.

    The posteriors of the training rows are rounded to ``levels`` levels, class by class; the commonest roundings
    become codes, and every other posterior goes to the nearest. What an attacker can do with it follows from the
    number of codes: see :class:`privet.accounting.release_bits.ReleaseBits`.

    Attributes:
        most: number of codes at most; fewer where the posteriors of the training rows have fewer roundings.
        levels: of a class's probability; 3 are none, half and all.
    """

    grade: ClassVar[Grade] = "derived"

    most: Annotated[int, Field(ge=2)] = 64
    levels: Annotated[int, Field(ge=2)] = 3

    def count(self, classes: int) -> int:
        return self.most

    def centres(self, posterior: Tensor) -> Tensor:
        rounded = (posterior * (self.levels - 1)).round()
        cells, member, sizes = rounded.unique(dim=0, return_inverse=True, return_counts=True)
        sums = posterior.new_zeros(cells.shape).index_add_(0, member, posterior)
        kept = sizes.argsort(descending=True, stable=True)[: self.most]
        means = sums[kept] / sizes[kept, None]
        # A network is built before its cells are known, so what is missing repeats the first, and is never nearest.
        return torch.cat([means, means[:1].expand(self.most - len(means), -1)])
