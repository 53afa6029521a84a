"""The weighted mean of all updates: federated averaging.

Paper: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
AISTATS 2017, algorithm 1. Assumes that every device is honest. Cost: one pass.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances, Combined, Running
from privet.parts import Grade, part


def weighted_mean(updates: Tensor, shares: Tensor) -> Tensor:
    """Returns the sum of the rows of ``updates`` (n, d), each times its share (n,), as (d,) float64.

    Row by row, so that float32 updates need no float64 copy.
    """
    total = torch.zeros(updates.shape[1], dtype=torch.float64)
    for row, share in zip(updates, shares.tolist(), strict=True):
        if share:
            total.add_(row, alpha=share)
    return total


class RunningMean(Running):
    """A weighted mean that takes its updates one at a time.

    Args:
        equal_weights: count every update the same.
        expected: divide by this number in place of the sum of the weights.
    """

    def __init__(self, equal_weights: bool, expected: float | None = None) -> None:
        self._equal, self._expected = equal_weights, expected
        self._total, self._weight, self._count = torch.zeros(0), 0.0, 0

    def add(self, update: Tensor, weight: float) -> None:
        """Adds the update, times its weight, to a float64 sum."""
        weight = 1.0 if self._equal else weight
        if not self._count:
            self._total = torch.zeros(len(update), dtype=torch.float64)
        self._total.add_(update, alpha=weight)
        self._weight, self._count = self._weight + weight, self._count + 1

    def combined(self) -> Combined:
        """Returns the sum over the sum of the weights, or over the expected number of updates."""
        return Combined(self._total / (self._expected or self._weight), torch.ones(self._count, dtype=torch.bool))


@part
class Mean(Aggregator):
    """Averages all updates by weight; one hostile device can move the result anywhere.

    Attributes:
        equal_weights: count every update the same, whatever its weight. Only then does the sensitivity
            shrink with the number of devices: a device's share is 1 / n and not what it has data for.
        expected: divide the plain sum of the updates by this fixed number, for example the sampling rate
            times the fleet, however many answered; each update then counts the same. A device that is
            absent counts as an update of 0, so one that comes or goes moves nobody else's share.

    References:
        McMahan et al., AISTATS 2017, algorithm 1; McMahan et al., Learning Differentially Private
        Recurrent Language Models, ICLR 2018, section 2.2 (the fixed denominator).
    """

    grade: ClassVar[Grade] = "derived"

    equal_weights: bool = False
    expected: Annotated[float, Field(gt=0)] | None = None

    @property
    def absent_is_zero(self) -> bool:
        return self.expected is not None

    def minimum(self) -> int:
        return 0 if self.absent_is_zero else 1

    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        self.check(updates, weights)
        running = self.running()
        for update, weight in zip(updates, weights.tolist(), strict=True):
            running.add(update, weight)
        return running.combined()

    def running(self) -> RunningMean:
        return RunningMean(self.equal_weights or self.absent_is_zero, self.expected)

    def bound(self, sensitivity: Sensitivity, n: int) -> Sensitivity:
        """Returns the sensitivity of the mean of n updates, of which the unit moves one.

        With equal weights a changed update moves the mean by 1 / n of its change; with others by at
        most all of it. A device that is added or removed also moves the shares of the others, which
        costs twice its bound; this assumes that all updates passed the same bound. A record that is
        added or removed changes the weights by an unknown amount, unless they are equal.

        With ``expected`` the sum is divided by a number that no device moves: the unit's change over it,
        and no factor 2, whatever n.

        Args:
            sensitivity: of one device's update.
            n: how many updates are averaged at least; the larger of the two numbers when one is added or removed.
        """
        added = sensitivity.relation == "add-or-remove-one"
        if added and sensitivity.unit == "record" and not (self.equal_weights or self.absent_is_zero):
            return super().bound(sensitivity, n)
        factor = (2 if added and sensitivity.unit == "device" else 1) / (n if self.equal_weights else 1)
        factor = factor if self.expected is None else 1 / self.expected
        spread = sensitivity.spread or sensitivity.unit != "coordinate"
        return replace(sensitivity, vectors=1, spread=spread).bounded(
            l1=factor * sensitivity.l1, l2=factor * sensitivity.l2, linf=factor * sensitivity.linf
        )
