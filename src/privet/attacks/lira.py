"""LiRA: is a model's confidence in a candidate that of models trained on it, or of models that were not?

For every candidate, the log-odds that shadow models give its label are fitted by one normal for the
models trained on it and one for the others; the score is the likelihood ratio of the attacked model's
own log-odds. Offline, shadow models never see the candidates, so that one set of them serves for all
time, and the score is how far above the others' normal the attacked model lies. With few shadow models a
side, all candidates share one variance a side (section VI.C).

Assumes that the attacker can train as the attacked model was trained, on rows of the same kind.

Cost: ``references`` trainings on half the pool each; 32 multilayer perceptrons of 784-128-10 on 500
rows take eight CPU-seconds together.

References:
    Carlini, Chien, Nasr, Song, Terzis, Tramer, Membership Inference Attacks From First Principles
    (S&P 2022), algorithm 1 (online) and section VI.A (offline).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.confidence import log_odds
from privet.attacks.contract import Attack, Scores, Target, rows
from privet.attacks.shadow import halves, train_shadows
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_ENOUGH = 32  # shadow models on a side, from which on each candidate's own variance is the better one
_LEAST_VARIANCE = 1e-6


@part
class Lira(Attack):
    """Compares the model's confidence in a candidate with that of shadow models trained on it and without it.

    Needs ``view.query``, ``view.train_many`` or ``view.train``, and ``inputs`` and ``labels`` in both
    ``seen`` (the candidates) and ``knows`` (the attacker's own rows, which are not members).

    Attributes:
        references: how many shadow models to train; an even number.
        variant: ``online`` trains them on candidates too; ``offline`` on the attacker's own rows only.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "members"

    references: Annotated[int, Field(ge=4, multiple_of=2)] = 32
    variant: Literal["online", "offline"] = "online"

    def __call__(self, view: View, rng: Source) -> Scores:
        inputs, labels = rows(view.seen, "inputs", "labels")
        own_inputs, own_labels = rows(view.knows, "inputs", "labels")
        if view.query is None:
            raise InputError("the view has no model to ask", do="attack from a party that may query the model")
        met = log_odds(view.query, inputs, labels)
        if self.variant == "offline":
            kept = halves(self.references, len(own_inputs), rng)
            found = train_shadows(view, own_inputs, own_labels, kept, rng)
            mean, variance = _normal(log_odds(found.ask, inputs, labels), torch.ones(len(kept), len(inputs)))
            return Scores((met - mean) / variance.sqrt())
        pool, pool_labels = torch.cat((inputs, own_inputs)), torch.cat((labels, own_labels))
        found = train_shadows(view, pool, pool_labels, halves(self.references, len(pool), rng), rng)
        usual, inside = log_odds(found.ask, inputs, labels), found.kept[:, : len(inputs)].double()
        return Scores(_log_normal(met, *_normal(usual, inside)) - _log_normal(met, *_normal(usual, 1 - inside)))


def _normal(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and variance of the chosen values of each column, of (models, n), both (n,)."""
    counts = chosen.sum(0)
    mean = (values * chosen).sum(0) / counts
    variance = ((values - mean).square() * chosen).sum(0) / (counts - 1).clamp_min(1)
    if counts.min() < _ENOUGH:
        variance = variance.mean().expand_as(variance)
    return mean, variance.clamp_min(_LEAST_VARIANCE)


def _log_normal(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -(variance.log() + (values - mean).square() / variance) / 2
