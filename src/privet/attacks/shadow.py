"""Shadow models: models of the attacker's own, trained the way the attacked one was, on rows of which it knows whose.

They are trained on random halves of a pool. Halves come in complementary pairs, so that every row is in
half of the models and out of the other half.

References:
    Shokri, Stronati, Song, Shmatikov, Membership Inference Attacks Against Machine Learning Models (S&P 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.engines.view import Query, View
from privet.errors import InputError
from privet.randomness import Source


@dataclass(frozen=True)
class Shadows:
    """Trained shadow models.

    Attributes:
        kept: shape (models, n), bool: which rows of the pool each was trained on.
        ask: inputs (q, ...) -> logits (models, q, classes).
    """

    kept: Tensor
    ask: Query


def halves(models: int, rows: int, rng: Source) -> Tensor:
    """Returns which rows each of an even number of models is trained on, (models, rows) bool."""
    kept = torch.zeros(models, rows, dtype=torch.bool)
    for pair in range(models // 2):
        order = rng.child("half", pair).permutation(rows)
        kept[2 * pair, order[: rows // 2]] = True
        kept[2 * pair + 1, order[rows // 2 :]] = True
    return kept


def stream(rng: Source, model: int) -> Source:
    """Returns the randomness of one shadow model's training, whoever trains it and in which order."""
    return rng.child("reference", model // 2, model % 2)


def train_shadows(view: View, inputs: Tensor, labels: Tensor, kept: Tensor, rng: Source) -> Shadows:
    """Trains shadow models, all in one go where the party can.

    Args:
        view: of the party; its ``train_many`` trains, or its ``train``, one after the other.
        inputs: the pool, shape (n, ...).
        labels: shape (n,).
        kept: shape (models, n), bool.
        rng: of the trainings.

    Raises:
        InputError: the party can't train.
    """
    if view.train_many is not None:
        return Shadows(kept, view.train_many(inputs, labels, kept, rng))
    if view.train is None:
        raise InputError(
            "the view has no way to train shadow models", do="attack from a party that knows how the model was trained"
        )
    models = [view.train(inputs[mine], labels[mine], stream(rng, number)) for number, mine in enumerate(kept)]
    return Shadows(kept, lambda asked: torch.stack([model(asked) for model in models]))
