"""The contract of an aggregator: it combines what devices send."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from privet.accounting.sensitivity import Sensitivity
from privet.errors import InputError, RefusedError
from privet.parts import Part, name_of
from privet.tensors import State


@dataclass(frozen=True)
class Circumstances:
    """What a rule may know besides the updates.

    Attributes:
        identities: whose update each row is, in the order of the rows; empty if not known.
        memory: what the rule asked to be given again, in :attr:`Combined.memory` of the round before; empty
            in the first round.
        trusted: the update (d,) that the coordinator made from rows of its own; see :attr:`Aggregator.trusts`.
    """

    identities: tuple[str, ...] = ()
    memory: State = field(default_factory=dict)
    trusted: Tensor | None = None


NOTHING_KNOWN = Circumstances()
"""A first round of strangers."""


@dataclass(frozen=True)
class Combined:
    """What an aggregator made of a round.

    Attributes:
        update: the combined update, shape (d,), float64.
        selected: which updates took part, shape (n,), bool.
        scores: the rule's own score of each update, shape (n,); None where it has none.
        memory: what the rule wants to be given in the next round, by flat name; nothing else survives a round.
    """

    update: Tensor
    selected: Tensor
    scores: Tensor | None = None
    memory: State = field(default_factory=dict)


class Running(ABC):
    """Combines updates one at a time, so that memory does not grow with the fleet."""

    @abstractmethod
    def add(self, update: Tensor, weight: float) -> None:
        """Takes one finite update, shape (d,), with a weight above 0."""

    @abstractmethod
    def combined(self) -> Combined:
        """Returns what the rule makes of all updates so far; the same bits as :meth:`Aggregator.combine`."""


class Aggregator(Part):
    """Combines the updates of a round.

    Updates arrive as rows of a (n, d) tensor, finite, sorted by device identity (so ties go to the
    first); weights (n,) are positive and come from what the coordinator knows. Arithmetic is float64.

    Attributes:
        anchored: whether the rule looks at updates from a point of its own (0, a memory, a trusted update). A rule
            that isn't moves with its updates: the same vector added to all is added to the result.
    """

    anchored: ClassVar[bool] = False

    @property
    def absent_is_zero(self) -> bool:
        """Whether a device that does not answer counts exactly as one whose update is 0.

        Only then does the number of replies tell nothing about who is there: no reply at all is a round
        like any other, and sampling devices by chance amplifies privacy.
        """
        return False

    @property
    def trusts(self) -> int:
        """How many training rows the coordinator sets aside, to make a trusted update from; 0 for none."""
        return 0

    def stands(self, n: int) -> int:
        """Returns how many of n updates may be anything at all, and the result stays near the other ones.

        Near: its distance from their mean is at most 10 times that of the farthest of them; for an anchored rule
        its length is at most 10 times that of the longest of them, of the trusted update and of the memory.
        0 unless a rule says otherwise. It is about size only: what stays near may still do harm.
        """
        return 0

    @abstractmethod
    def combine(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Combined:
        """Returns the combined update, with who took part.

        Raises:
            RefusedError: there are too few updates for what the rule promises.
            InputError: an update is not finite, or shapes or weights are wrong.
        """

    def running(self) -> Running | None:
        """Returns a fresh running combination, or None for a rule that needs all updates at once."""
        return None

    def __call__(self, updates: Tensor, weights: Tensor, around: Circumstances = NOTHING_KNOWN) -> Tensor:
        """Returns only the combined update, shape (d,), float64."""
        return self.combine(updates, weights, around).update

    def check(self, updates: Tensor, weights: Tensor) -> Tensor:
        """Checks what arrived; every rule calls it first.

        Returns:
            Each update's share of all weights, shape (n,), float64.

        Raises:
            RefusedError: there are fewer updates than :meth:`minimum`.
            InputError: an update is not finite, or shapes or weights are wrong.
        """
        if updates.ndim != 2 or weights.shape != updates.shape[:1]:
            raise InputError(
                f"updates of shape {tuple(updates.shape)} with weights of shape {tuple(weights.shape)}",
                allowed="(n, d) and (n,)",
            )
        n = updates.shape[0]
        if n < self.minimum():
            raise RefusedError(
                f"{name_of(self)} got {n} update(s)",
                allowed=f"{self.minimum()} or more with these settings",
                do="let more devices take part, or take another rule",
            )
        shares = weights.double() / weights.double().sum()
        if not bool((shares > 0).all()):  # also false where a weight or their sum is not finite
            raise InputError(f"the weights {weights.tolist()} can't be shares", allowed="finite numbers above 0")
        # A sum is 30 times faster than isfinite; only where it overflows is every value looked at.
        broken = [
            row
            for row in (~updates.sum(1).isfinite()).nonzero().flatten().tolist()
            if not updates[row].isfinite().all()
        ]
        if broken:
            raise InputError(
                f"updates {broken} hold values that are not finite", do="leave them out before they are combined"
            )
        return shares

    def minimum(self) -> int:
        """Returns the fewest updates for which the rule's promise holds."""
        return 1

    def prepare(self, update: Tensor, round: int) -> Tensor:
        """Changes an update on the device before it is sent; the identity unless a rule says otherwise."""
        return update

    def bound(self, sensitivity: Sensitivity, n: int) -> Sensitivity:
        """Returns what combining n updates makes of the sensitivity; unbounded unless the rule says otherwise.

        What comes out is one vector that changes, whoever is added or removed.
        """
        return replace(sensitivity.unbounded(), vectors=1, spread=True)
