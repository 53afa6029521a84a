"""How much one unit of privacy can move a message, before noise is added."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["coordinate", "record", "device"]
"""Who is protected. ``coordinate``: one value of one vector as the last normalisation made it (without
one, as it arrived), everything else held fixed; ``record``: one record with all that it moves;
``device``: all records of one device."""

Relation = Literal["add-or-remove-one", "replace-one"]
"""Which two data sets count as neighbours."""


@dataclass(frozen=True)
class Sensitivity:
    """The largest change of a message between neighbours, in three norms.

    Attributes:
        unit: the unit of privacy.
        relation: which data sets are neighbours.
        dimension: values in one vector (the last dimension of the message).
        vectors: vectors of the message that one unit moves: 1 for a record, ``math.inf`` if unknown.
        l1, l2, linf: bounds on the change of the whole message; ``math.inf`` when nothing bounds it.
        spread: whether an earlier mechanism lets the unit also move values that are not its own: the
            rest of its vector for a coordinate, the vectors of others for a record or device. Such
            values change, also where the unit itself is only added or removed.
    """

    unit: Unit
    relation: Relation = "replace-one"
    dimension: int = 1
    vectors: float = 1
    l1: float = math.inf
    l2: float = math.inf
    linf: float = math.inf
    spread: bool = False

    def unbounded(self) -> Sensitivity:
        """Returns the same unit and relation with no bound at all."""
        return replace(self, l1=math.inf, l2=math.inf, linf=math.inf)

    def bounded(self, *, l1: float = math.inf, l2: float = math.inf, linf: float = math.inf) -> Sensitivity:
        """Returns these bounds in place of the old ones, each tightened as :meth:`tightened` does."""
        return replace(self, l1=l1, l2=l2, linf=linf).tightened()

    def tightened(self) -> Sensitivity:
        """Returns each bound as small as the two others and the number of moved values imply."""
        linf = min(self.linf, self.l2, self.l1)
        if linf == 0:
            return replace(self, l1=0.0, l2=0.0, linf=0.0)
        l1 = min(self.l1, self.moved * linf)
        l2 = min(self.l2, l1, math.sqrt(self.moved) * linf, math.sqrt(l1 * linf))
        l1 = min(l1, math.sqrt(self.moved) * l2)
        return replace(self, l1=l1, l2=l2, linf=linf)

    @property
    def moved(self) -> float:
        """Values of the message that one unit can move."""
        if self.unit == "coordinate":
            return self.dimension if self.spread else 1
        return self.dimension * self.vectors

    @property
    def neighbours(self) -> int:
        """How many norm bounds of one vector add up in its change.

        2 when the vector changes; 1 when it is there or not, which only the vectors of an added or
        removed unit are.
        """
        comes_or_goes = self.relation == "add-or-remove-one" and self.unit != "coordinate" and not self.spread
        return 1 if comes_or_goes else 2
