"""A guarantee as it is printed: never an epsilon without its unit, relation and releases."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from privet.accounting.sensitivity import Relation, Unit


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
    """

    claim: str
    unit: Unit
    relation: Relation
    epsilon: float
    delta: float
    releases: int
    accountant: str

    @property
    def formal(self) -> bool:
        """Whether there is any formal guarantee."""
        return math.isfinite(self.epsilon)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields; an infinite epsilon is ``null``, which JSON can say."""
        return asdict(self) | {"epsilon": self.epsilon if self.formal else None}
