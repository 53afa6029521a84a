"""RMIA: is the model surer of a candidate, relative to reference models, than of strangers?

Reference models are trained on random halves of a pool: the candidates and the attacker's own
rows. Every row is in half of the references and out of the other half, so the mean over all
references is the paper's average of IN and OUT models.

Cost: ``references`` trainings on half the pool each; 32 multilayer perceptrons of 784-128-10 on 500 rows
take eight CPU-seconds together.

References:
    Zarifzadeh, Liu, Shokri, Low-Cost High-Power Membership Inference Attacks (ICML 2024):
    the online form with the direct likelihood ratio.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.confidence import log_confidence
from privet.attacks.contract import Attack, Scores, Target, rows
from privet.attacks.shadow import halves, train_shadows
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Rmia(Attack):
    """Compares the model's confidence in a candidate with reference models and with strangers.

    Needs ``view.query``, ``view.train_many`` or ``view.train``, and ``inputs`` and ``labels`` in both ``seen`` (the
    candidates) and ``knows`` (the attacker's own rows, which are not members).

    Attributes:
        references: how many reference models to train; an even number.
        gamma: how many times a candidate's ratio must be a stranger's to count.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "members"

    references: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    gamma: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, view: View, rng: Source) -> Scores:
        inputs, labels = rows(view.seen, "inputs", "labels")
        own_inputs, own_labels = rows(view.knows, "inputs", "labels")
        if view.query is None:
            raise InputError("the view has no model to ask", do="attack from a party that may query the model")
        pool, pool_labels = torch.cat((inputs, own_inputs)), torch.cat((labels, own_labels))
        references = train_shadows(view, pool, pool_labels, halves(self.references, len(pool), rng), rng)
        target = log_confidence(view.query, pool, pool_labels)
        usual = log_confidence(references.ask, pool, pool_labels)
        log_ratio = target - (usual.logsumexp(0) - math.log(len(usual)))
        candidates, strangers = log_ratio[: len(inputs)], log_ratio[len(inputs) :]
        return Scores(_share_below(candidates - math.log(self.gamma), strangers))


def _share_below(values: Tensor, others: Tensor) -> Tensor:
    """Returns, for each value, the share of the others that are at most as large."""
    return torch.searchsorted(others.sort().values, values, right=True).double() / len(others)
