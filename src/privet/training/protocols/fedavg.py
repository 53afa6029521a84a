"""Federated averaging: devices train the whole model, the coordinator combines the updates."""

from __future__ import annotations

from collections.abc import Sequence
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
        bench, inputs, labels = lesson.bench, lesson.inputs, lesson.labels
        start = bench.descent.values.clone() if self.pull() else None

        def learn(rows: Tensor, number: int) -> Tensor:
            with bench.precision.autocast():
                logits = bench.network(inputs[rows])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows])
            loss.backward()
            if start is not None:
                bench.descent.gradients.add_(bench.descent.values - start, alpha=self.pull())
            return loss.detach()

        return self.passes(lesson, learn)

    def pull(self) -> float:
        """Returns how strongly a device is pulled back to the global model (FedProx's mu); 0 here."""
        return 0.0

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_updates(promise, self.rounds)
