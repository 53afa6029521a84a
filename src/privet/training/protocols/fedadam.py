"""FedAdam: the coordinator takes Adam steps along the combined updates.

Cost: nothing on the devices, two vectors of the model's size at the coordinator. Assumes as much as federated
averaging; the step is post-processing of what the mechanisms guarantee.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.parts import Grade, part
from privet.tensors import State
from privet.training.protocols.fedavg import Fedavg


@part
class Fedadam(Fedavg):
    """Federated averaging whose coordinator moves each weight by Adam: fast where updates differ in scale.

    With D the combined update: m = beta1 m + (1 - beta1) D, v = beta2 v + (1 - beta2) D^2, and the model moves by
    ``server_learning_rate * m / (sqrt(v) + tau)``. m starts at 0 and v at tau^2; there is no bias correction.

    Attributes:
        momentum: of the device's gradient descent.
        server_learning_rate: of the coordinator's steps.
        beta1: how much of the mean update is kept from round to round.
        beta2: how much of the mean squared update is kept.
        tau: adaptivity; a weight whose updates are far below it moves in proportion to them.

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2.
    """

    grade: ClassVar[Grade] = "measured"
    buffers: ClassVar[bool] = False

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    server_learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0, le=1e6)] = 1e-3

    def serve(self, combined: Tensor, memory: State, share: float) -> tuple[Tensor, State]:
        first = memory.get("first", torch.zeros_like(combined))
        second = memory.get("second", torch.full_like(combined, self.tau**2))
        first = self.beta1 * first + (1 - self.beta1) * combined
        second = self.second(second, combined.square())
        move = self.server_learning_rate * first / (second.sqrt() + self.tau)
        return move, {"first": first, "second": second}

    def second(self, second: Tensor, squared: Tensor) -> Tensor:
        """Returns the second moment (d,) after a round whose combined update has these squares (d,)."""
        return self.beta2 * second + (1 - self.beta2) * squared
