"""The contract of a behaviour: what a device does to its rows and to its update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from privet.parts import Part
from privet.randomness import Source


@dataclass(frozen=True, eq=False)
class Triggered:
    """Rows that carry a backdoor's trigger.

    Attributes:
        inputs: the rows, shape (n, ...), the trigger put in where it is artificial.
        carries: which of them carry it, shape (n,), bool.
        target: the class that they shall be taken for.
    """

    inputs: Tensor
    carries: Tensor
    target: int


class Behaviour(Part):
    """How a device behaves; the base class is honest.

    Attributes:
        hostile: whether it counts as a Byzantine device.
        colludes: whether devices of this behaviour know all updates of the round, and one another, before they
            send; see :meth:`together`.
    """

    hostile: ClassVar[bool] = True
    colludes: ClassVar[bool] = False

    def examples(self, inputs: Tensor, labels: Tensor, classes: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns the inputs (n, ...) and labels (n,) that the device trains on, as many as it was given."""
        return inputs, labels

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns the update (d,) that the device sends in place of its own; None to stay silent.

        Args:
            update: what it trained, (d,).
            round: number of the round, from 1.
            rng: of this device in this round.
        """
        return update

    def together(self, own: Tensor, all: Tensor, round: int, rng: Source) -> Tensor:
        """Returns what colluding devices send, (k, d), in place of what :meth:`update` said.

        Args:
            own: what they would have sent, (k, d), in order of identity.
            all: what all devices that answer would send, theirs among them, (n, d).
            round: number of the round, from 1.
            rng: of all of them in this round.
        """
        return own

    def trigger(self, inputs: Tensor) -> Triggered | None:
        """Returns rows (n, ...) with the backdoor's trigger; None for a behaviour without one."""
        return None
