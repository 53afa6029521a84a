"""A guarantee as it is printed: never an epsilon without its unit, relation and releases."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from privet.accounting.sensitivity import Relation, Unit

if TYPE_CHECKING:
    from dp_accounting.dp_event import DpEvent  # its package takes most of a second to import


@dataclass(frozen=True)
class Guarantee:
    """One derived statement about a run.

    Attributes:
        claim: what is protected from whom, in words.
        unit: the unit of privacy.
        relation: which data sets are neighbours.
        epsilon: the privacy loss; ``math.inf`` means that there is no formal guarantee.
        delta: the probability that epsilon does not bound; 0 for pure differential privacy.
        releases: how often the protected thing was released.
        accountant: what derived the figure.
        event: all releases together, as a budget is charged for them; None where nothing bounds them.
    """

    claim: str
    unit: Unit
    relation: Relation
    epsilon: float
    delta: float
    releases: int
    accountant: str
    event: DpEvent | None = field(default=None, compare=False, repr=False)

    @property
    def formal(self) -> bool:
        """Whether there is any formal guarantee."""
        return math.isfinite(self.epsilon)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields; an infinite epsilon is ``null``, which JSON can say."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "event"}
        return told | {"epsilon": self.epsilon if self.formal else None}
