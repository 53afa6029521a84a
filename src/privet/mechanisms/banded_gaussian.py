"""Banded matrix noise for sums over rounds: each round takes back a part of the noise of the rounds before.

Assumes a sensitivity that was bounded before, and devices that come back no sooner than said. Cost: one draw
a value and round, ``bands`` passes over the values, as many vectors of memory.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from privet.mechanisms.contract import Stream
from privet.mechanisms.correlated import CorrelatedGaussian, Rounds
from privet.parts import Grade, part
from privet.randomness import Source


def square_root(bands: int) -> np.ndarray:
    """Returns the first coefficients of 1 / sqrt(1 - x): binom(2k, k) / 4^k, the square root of adding up."""
    steps = np.arange(1, bands)
    return np.cumprod(np.concatenate(([1.0], (2 * steps - 1) / (2 * steps))))


class _Banded(Rounds):
    """Solves C w = z row by row."""

    def __init__(self, sigma: float, bands: int, run: Source) -> None:
        super().__init__(sigma, run)
        self._coefficients = square_root(bands).tolist()
        self._past: deque[Tensor] = deque(maxlen=bands - 1)

    def next(self, fresh: Tensor, round: int) -> Tensor:
        for coefficient, before in zip(self._coefficients[1:], self._past, strict=False):
            fresh.sub_(before, alpha=coefficient)
        self._past.appendleft(fresh)
        return fresh


@part
class BandedGaussian(CorrelatedGaussian):
    """Adds Gaussian noise of which later rounds take a part back, for a server that adds up rounds.

    C is the Toeplitz matrix of binom(2k, k) / 4^k, the square root of adding up, cut to ``bands`` bands. As
    its coefficients fall and are not negative, a unit moves C most when it takes part in the first round
    and then as often as it may.

    Attributes:
        bands: how many rounds remember a round's noise; as many as the separation of the devices' turns,
            or all rounds for devices that come once, is a good choice.

    References:
        Fichtenberger, Henzinger, Upadhyay, Constant Matters, ICML 2023 (the square root); Choquette-Choo et
        al., (Amplified) Banded Matrix Factorization, NeurIPS 2023; Kalinin, Lampert, Banded Square Root
        Matrix Factorization, NeurIPS 2024, theorem 2 (the sensitivity); Denisov et al., Improved
        Differential Privacy for SGD via Optimal Private Linear Operators, NeurIPS 2022, theorem 2.1.
    """

    grade: ClassVar[Grade] = "derived"

    bands: Annotated[int, Field(ge=1, le=10_000)] = 16

    def stream(self, run: Source) -> Stream:
        return _Banded(self.sigma, self.bands, run)

    def factor(self, rounds: int, separation: int) -> float:
        column, total = square_root(min(self.bands, rounds)), np.zeros(rounds)
        for start in range(0, rounds, separation):
            end = min(rounds, start + len(column))
            total[start:end] += column[: end - start]
        return math.sqrt(float(total @ total))
