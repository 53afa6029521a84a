"""RMIA: is the model surer of a candidate, relative to reference models, than of strangers?

Reference models are trained on random halves of a pool: the candidates and the attacker's own
rows. Halves come in complementary pairs, so every row is in half of the references and out of the
other half, and the mean over all references is the paper's average of IN and OUT models.

Cost: ``references`` trainings on half the pool each.

References:
    Zarifzadeh, Liu, Shokri, Low-Cost High-Power Membership Inference Attacks (ICML 2024):
    the online form with the direct likelihood ratio.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.confidence import log_confidence
from privet.attacks.contract import Attack, Scores, rows
from privet.engines.view import Query, View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Rmia(Attack):
    """Compares the model's confidence in a candidate with reference models and with strangers.

    Needs ``view.query``, ``view.train``, and ``inputs`` and ``labels`` in both ``seen`` (the
    candidates) and ``knows`` (the attacker's own rows, which are not members).

    Attributes:
        references: how many reference models to train; an even number.
        gamma: how many times a candidate's ratio must be a stranger's to count.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Literal["features", "members"]] = "members"

    references: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    gamma: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, view: View, rng: Source) -> Scores:
        inputs, labels = rows(view.seen, "inputs", "labels")
        own_inputs, own_labels = rows(view.knows, "inputs", "labels")
        if view.query is None or view.train is None:
            raise InputError(
                "the view has no model to ask or no way to train references",
                do="attack from a party that may query the model and knows how it was trained",
            )
        pool, pool_labels = torch.cat((inputs, own_inputs)), torch.cat((labels, own_labels))
        references: list[Query] = []
        for pair in range(self.references // 2):
            order = rng.child("half", pair).permutation(len(pool))
            for side, half in enumerate((order[: len(pool) // 2], order[len(pool) // 2 :])):
                references.append(view.train(pool[half], pool_labels[half], rng.child("reference", pair, side)))

        target = log_confidence(view.query, pool, pool_labels)
        usual = torch.stack([log_confidence(model, pool, pool_labels) for model in references])
        log_ratio = target - (usual.logsumexp(0) - math.log(len(references)))
        candidates, strangers = log_ratio[: len(inputs)], log_ratio[len(inputs) :]
        return Scores(_share_below(candidates - math.log(self.gamma), strangers))


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Returns, for each value, the share of the others that are at most as large."""
    return torch.searchsorted(others.sort().values, values, right=True).double() / len(others)
