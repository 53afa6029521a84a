"""The contract of an answer: a noisy figure about a data set of one device or of a trusted collector.

A mechanism changes each vector that leaves; an answer looks at all records together, so it has a
contract of its own. No plan names answers yet.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from dp_accounting.dp_event import DpEvent

from privet.accounting import Relation
from privet.parts import Part
from privet.randomness import Source


class Answer(Part):
    """Answers a question about records; one record is the unit of privacy."""

    @abstractmethod
    def __call__(self, records: Any, rng: Source) -> Any:
        """Returns the answer."""

    @abstractmethod
    def event(self, relation: Relation) -> DpEvent:
        """Returns what one answer costs each record."""
