"""Tree aggregation: each sum over rounds carries the noise of a few blocks of rounds, not of every round.

Assumes a sensitivity that was bounded before, and devices that come back no sooner than said. Cost: one draw
a value and round, log2(rounds) vectors of memory.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from privet.mechanisms.contract import Stream
from privet.mechanisms.correlated import CorrelatedGaussian, Rounds
from privet.parts import Grade, part
from privet.randomness import Source


class _Tree(Rounds):
    """Replaces the noise of small blocks by that of the larger block that they make up."""

    def __init__(self, sigma: float, run: Source) -> None:
        super().__init__(sigma, run)
        self._blocks: dict[int, Tensor] = {}

    def next(self, fresh: Tensor, round: int) -> Tensor:
        level = (round & -round).bit_length() - 1  # round ends a block of 2^level rounds
        noise = fresh.clone()
        for smaller in range(level):
            noise.sub_(self._blocks.pop(smaller))
        self._blocks[level] = fresh
        return noise


@part
class TreeGaussian(CorrelatedGaussian):
    """Adds Gaussian noise so that the sum of t rounds carries that of at most log2(t) + 1 draws.

    Blocks of 1, 2, 4, ... rounds have one draw each; the sum of the first t rounds is made of the blocks
    that the binary digits of t name. A unit that takes part once is in at most one block a level. One that
    takes part k times, each ``separation`` apart, is at most min(k, ceil(2^l / separation)) times in a block
    of level l, which bounds its squares by k times that a level.

    References:
        Kairouz et al., Practical and Private (Deep) Learning without Sampling or Shuffling, ICML 2021,
        algorithm 2 and theorem 4.1; Dwork et al., Differential Privacy under Continual Observation, STOC 2010.
    """

    grade: ClassVar[Grade] = "derived"

    def stream(self, run: Source) -> Stream:
        return _Tree(self.sigma, run)

    def factor(self, rounds: int, separation: int) -> float:
        times = math.ceil(rounds / separation)
        levels = range(rounds.bit_length())
        return math.sqrt(times * sum(min(times, math.ceil(2**level / separation)) for level in levels))
