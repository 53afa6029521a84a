"""Loss threshold: a model's loss is lower on what it was trained on.

The cheapest membership attack and the yardstick for the others; weak where a model generalises.

References:
    Yeom, Giacomelli, Fredrikson, Jha, Privacy Risk in Machine Learning (CSF 2018).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from privet.attacks.confidence import log_confidence
from privet.attacks.contract import Attack, Scores, rows
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class LossThreshold(Attack):
    """Scores a candidate by minus the model's loss on it.

    Needs ``view.query`` and ``seen`` with ``inputs`` (n, ...) and ``labels`` (n,).
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Literal["features", "members"]] = "members"

    def __call__(self, view: View, rng: Source) -> Scores:
        inputs, labels = rows(view.seen, "inputs", "labels")
        if view.query is None:
            raise InputError("the view has no model to ask", do="attack from a party that may query the model")
        return Scores(log_confidence(view.query, inputs, labels))
