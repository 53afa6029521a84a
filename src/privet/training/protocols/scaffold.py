"""SCAFFOLD: control variates that undo the drift of devices whose rows differ.

Cost: twice the bytes of federated averaging both ways, one vector of the model's size a device. A device that never
comes back does no harm; one that comes seldom has an old control variate.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from privet.parts import Grade, part
from privet.tensors import State
from privet.training.contract import Lesson
from privet.training.protocols.fedavg import Fedavg


@part
class Scaffold(Fedavg):
    """Federated averaging whose devices correct their gradients by how they differ from the fleet's.

    A device's step goes along its gradient - c_i + c, where c_i is the mean gradient of its last round (kept on the
    device) and c the fleet's. A reply holds two vectors, the model's change and ``learning_rate`` times the change of
    c_i, and both pass the plan's mechanisms and the combining rule as one.

    Attributes:
        momentum: none; a control variate corrects plain gradients.
        server_learning_rate: factor of the combined update.

    References:
        Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020,
        algorithm 1, option II.
    """

    grade: ClassVar[Grade] = "measured"
    vectors: ClassVar[int] = 2
    buffers: ClassVar[bool] = False

    momentum: Literal[0] = 0
    server_learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def shared(self, memory: State) -> State:
        return memory

    def train(self, lesson: Lesson) -> float:
        own, fleet = lesson.memory.get("control"), lesson.shared.get("control")
        drift = _or_zeros(fleet, lesson.bench.read()) - _or_zeros(own, lesson.bench.read())
        return self.descend(lesson, drift=lesson.bench.laid_out(drift))

    def reply(self, update: Tensor, lesson: Lesson) -> Tensor:
        steps = self.local_epochs * -(-len(lesson.labels) // self.batch_size)
        own = _or_zeros(lesson.memory.get("control"), update)
        fresh = own - _or_zeros(lesson.shared.get("control"), update) - update / (steps * self.learning_rate)
        lesson.kept["control"] = fresh
        return torch.cat([update, self.learning_rate * (fresh - own)])

    def serve(self, combined: Tensor, memory: State, share: float) -> tuple[Tensor, State]:
        update, change = combined.chunk(2)
        control = _or_zeros(memory.get("control"), update) + share / self.learning_rate * change
        return self.server_learning_rate * update, {"control": control}


def _or_zeros(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value
