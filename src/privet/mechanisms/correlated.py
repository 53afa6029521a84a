"""Gaussian noise that is correlated over the rounds of a run, and drawn again exactly when a run is resumed."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from dp_accounting.dp_event import DpEvent, GaussianDpEvent, NonPrivateDpEvent, NoOpDpEvent
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.errors import InputError
from privet.mechanisms.contract import Mechanism, Stream
from privet.parts import part
from privet.randomness import Source


class Rounds:
    """The noise of one run: it remembers what later rounds take back.

    Each round draws from the run's stream under its number. A run that goes on after an interruption
    therefore draws the rounds before again, and continues with the same noise.

    Args:
        sigma: standard deviation of what is drawn in each round.
        run: the run's own stream.
    """

    def __init__(self, sigma: float, run: Source) -> None:
        self._sigma, self._run, self._round = sigma, run, 0

    def __call__(self, value: Tensor, round: int) -> Tensor:
        """Returns the value of a round with its noise.

        Raises:
            InputError: a round comes twice or out of order, or its past can't be drawn again.
        """
        if round <= self._round:
            raise InputError(f"round {round} after round {self._round}: its noise was given before")
        if not self._round and round > 1 and not self._run.repeats:
            raise InputError(
                f"the noise of the rounds before {round} can't be drawn again",
                do="take a stream that repeats (randomness.keyed)",
            )
        noise = torch.empty(0)
        while self._round < round:
            self._round += 1
            noise = self.next(self._run.child(self._round).normal(tuple(value.shape)), self._round)
        return torch.add(value, noise.to(value), alpha=self._sigma)

    @abstractmethod
    def next(self, fresh: Tensor, round: int) -> Tensor:
        """Returns a round's noise, made of a fresh standard normal draw and what is remembered."""


@part
class CorrelatedGaussian(Mechanism):
    """Gaussian noise whose sum over rounds grows slower than that of independent noise.

    The whole run is one Gaussian release of the factor C in A = B C, where A adds up rounds: round t gets
    the t-th row of inv(C) z. A unit that takes part in several rounds moves several columns of C.

    Attributes:
        sigma: standard deviation of the fresh draw of a round, in units of the values.
    """

    adds_noise: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    sigma: Annotated[float, Field(gt=0)]

    @abstractmethod
    def stream(self, run: Source) -> Stream:
        """Returns the noise of one run."""

    @abstractmethod
    def factor(self, rounds: int, separation: int) -> float:
        """Returns the l2 norm by which a unit of norm 1 a round moves C, over all its rounds, at most.

        Args:
            rounds: of the run.
            separation: rounds after which the unit takes part again at the earliest.
        """

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        """Returns the value with the noise of a first round."""
        return self.stream(rng)(value, 1)

    def bound(self, sensitivity: Sensitivity) -> Sensitivity:
        """Returns the sensitivity unchanged: the same noise moves neighbours alike."""
        return sensitivity

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one round alone costs; ``NonPrivateDpEvent`` where l2 is unbounded."""
        return self.run_event(sensitivity, 1, 1)

    def run_event(self, sensitivity: Sensitivity, rounds: int, separation: int) -> DpEvent:
        l2 = sensitivity.tightened().l2
        if math.isinf(l2):
            return NonPrivateDpEvent()
        return GaussianDpEvent(self.sigma / (l2 * self.factor(rounds, separation))) if l2 > 0 else NoOpDpEvent()
