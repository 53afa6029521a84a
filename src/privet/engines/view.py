"""A View: all that one party saw of a run, and what it knows besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from privet.randomness import Source

Query = Callable[[Tensor], Tensor]
"""Inputs (n, ...) -> logits (n, classes): the model a party may ask."""

Train = Callable[[Tensor, Tensor, Source], Query]
"""Inputs, labels, randomness -> a model trained the way the run's model was, with no noise."""


@dataclass(frozen=True)
class View:
    """All that one party saw, as stacked rows; an attack gets this and nothing else.

    Attributes:
        party: who saw it, for example ``edge-server``.
        seen: by name, what crossed to the party: ``features`` (n, d), ``labels`` (n,), or, for a party
            that holds candidates and wants to know whether they were trained on, ``inputs`` (n, ...).
        knows: by name, what the party can make itself: ``inputs`` (m, ...), their ``labels`` (m,), and
            the ``features`` (m, d) that the known mechanism makes of them.
        query: the model the party may ask, if any.
        train: how the party trains reference models of its own, if it can.
        shape: shape of one input, for example (1, 28, 28).
        classes: number of classes.
    """

    party: str
    seen: dict[str, Tensor]
    knows: dict[str, Tensor] = field(default_factory=dict)
    query: Query | None = None
    train: Train | None = None
    shape: tuple[int, ...] = ()
    classes: int = 0
