"""Federated averaging: devices train the whole model, the coordinator combines the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import ClassVar

import torch
from torch import Tensor

from privet.accounting import Guarantee
from privet.parts import Grade, part
from privet.training.contract import Lesson, Promise, Protocol
from privet.training.guarantees import of_updates


@part
class Fedavg(Protocol):
    """Each device trains the whole model on its own rows and sends the difference.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        2017, algorithm 1.
    """

    grade: ClassVar[Grade] = "measured"

    def train(self, lesson: Lesson) -> float:
        return self.descend(lesson)

    def descend(
        self, lesson: Lesson, *, towards: Tensor | None = None, pull: float = 0.0, drift: Tensor | None = None
    ) -> float:
        """Trains the bench's network by gradient descent on the mean cross-entropy; returns the last pass's loss.

        Args:
            lesson: whose rows.
            towards: a point in the order of ``descent.values``, to which ``pull / 2`` times the squared distance
                is added to the loss.
            pull: how strongly; 0 for not at all.
            drift: a vector of the same order that is added to every gradient.
        """
        bench, inputs, labels = lesson.bench, lesson.inputs, lesson.labels
        gradients, values = bench.descent.gradients, bench.descent.values

        def learn(rows: Tensor, number: int) -> Tensor:
            with bench.precision.autocast():
                logits = bench.network(inputs[rows])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows])
            loss.backward()
            if towards is not None and pull:
                gradients.add_(values - towards, alpha=pull)
            if drift is not None:
                gradients.add_(drift)
            return loss.detach()

        return self.passes(lesson, learn)

    def plain(self) -> Fedavg:
        """Returns federated averaging with the same rounds, epochs, batches and steps."""
        return Fedavg(**{field.name: getattr(self, field.name) for field in fields(Fedavg)})

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_updates(promise, self.rounds)
