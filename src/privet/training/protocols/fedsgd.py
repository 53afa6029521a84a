"""FedSGD: one gradient over all of a device's rows each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from privet.accounting import Guarantee
from privet.parts import Grade, part
from privet.training.contract import MOST, Lesson, Promise, Protocol
from privet.training.descent import batches
from privet.training.guarantees import of_updates


@part
class Fedsgd(Protocol):
    """Each device sends one step along the gradient over all its rows; the coordinator combines them.

    Attributes:
        batch_size: rows in memory at once; the gradient is over all rows whatever it is.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        2017, section 2.
    """

    grade: ClassVar[Grade] = "measured"

    rounds: Annotated[int, Field(ge=1, le=MOST)] = 50
    local_epochs: Literal[1] = 1
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    momentum: Literal[0] = 0

    def train(self, lesson: Lesson) -> float:
        bench, inputs, labels = lesson.bench, lesson.inputs, lesson.labels
        total = torch.zeros(())
        for rows in batches(len(labels), self.batch_size):
            with bench.precision.autocast():
                logits = bench.network(inputs[rows])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows], reduction="sum") / len(labels)
            loss.backward()
            total += loss.detach()
        bench.descent.step(self.learning_rate, 0.0)
        return float(total)

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_updates(promise, self.rounds)
