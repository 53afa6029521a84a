"""Which rows a private step takes, and what that makes of the step's cost.

The list is closed: a sampler's event may be claimed only because its ``draw`` really draws so. The laws of
protocols count the batches of a run and refute a sampler that draws otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dp_accounting.dp_event import DpEvent, PoissonSampledDpEvent
from torch import Tensor

from privet.randomness import Source


@dataclass(frozen=True)
class Poisson:
    """Takes each row independently with one probability; a batch may be empty.

    References:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016, section 3.1 ("lots").
    """

    name: ClassVar[str] = "Poisson sampling"

    def draw(self, rows: int, rate: float, noise: Source) -> Tensor:
        """Returns the indices of the rows taken, in order, int64.

        Args:
            rows: how many there are.
            rate: the probability of each.
            noise: the source that the noise comes from too: who can guess the batch gets no amplification.
        """
        return (noise.uniform((rows,)) <= rate).nonzero().flatten()

    def event(self, rate: float, step: DpEvent) -> DpEvent:
        """Returns what a step costs whose event on the sampled rows is ``step``; add-or-remove-one only."""
        return PoissonSampledDpEvent(rate, step) if rate < 1 else step
