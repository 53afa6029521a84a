"""A View: all that one party saw of a run, and what it knows besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from privet.randomness import Source

Query = Callable[[Tensor], Tensor]
"""Inputs (n, ...) -> logits (n, classes): the model a party may ask."""

Train = Callable[[Tensor, Tensor, Source], Query]
"""Inputs, labels, randomness -> a model trained the way the run's model was, with no noise."""

TrainMany = Callable[[Tensor, Tensor, Tensor, Source], Query]
"""Inputs (n, ...), labels (n,), which rows each of m models trains on (m, n) bool, randomness -> one Query that
answers for all of them at once: inputs (q, ...) -> logits (m, q, classes)."""


@dataclass(frozen=True)
class View:
    """All that one party saw, as stacked rows; an attack gets this and nothing else.

    Which names ``seen`` and ``knows`` hold depends on what is attacked;
    :class:`privet.attacks.contract.Attack` lists them, a target at a time.

    Attributes:
        party: who saw it, for example ``edge-server``.
        seen: by name, what crossed to the party, or the candidates that it wants to know more about.
        knows: by name, what the party can make itself: ``inputs`` (m, ...), their ``labels`` (m,), and
            whatever the known mechanism makes of them.
        query: the model the party may ask, if any.
        train: how the party trains reference models of its own, if it can.
        train_many: how it trains many of them in one go, if it can; each is trained as ``train`` trains.
        release: what the known mechanism makes of inputs (c, ...), its noise left out, (c, d), if the party can
            compute it: with it, a candidate is recognised without undoing anything. Of a mechanism that draws a
            symbol, the probabilities of the symbols. (c, t, d) if one of t mechanisms was picked and the party
            does not know which.
        network: gives a fresh copy of the network with the values that the party was sent, if it holds
            them: in evaluation mode, to be changed at will.
        shape: shape of one input, for example (1, 28, 28).
        classes: number of classes.
    """

    party: str
    seen: dict[str, Tensor]
    knows: dict[str, Tensor] = field(default_factory=dict)
    query: Query | None = None
    train: Train | None = None
    train_many: TrainMany | None = None
    release: Callable[[Tensor], Tensor] | None = None
    network: Callable[[], nn.Sequential] | None = None
    shape: tuple[int, ...] = ()
    classes: int = 0
