"""Consensus ADMM: each device solves its own problem, pulled to the fleet's model and pushed by what it disagreed on.

Cost: the bytes of federated averaging, one vector of the model's size a device. Exact for convex losses solved
exactly; here the local problem gets ``local_epochs`` passes of gradient descent, from the global model.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.parts import Grade, part
from privet.tensors import State
from privet.training.contract import Lesson
from privet.training.protocols.fedavg import Fedavg


@part
class Admm(Fedavg):
    """Federated averaging whose devices also remember, as a dual, how they disagreed with the fleet.

    Device i minimises its loss + penalty / 2 |x - z + u_i|^2 around the global model z, and then u_i grows by x - z.
    The dual stays on the device, as the sum of z and u_i: the first z it met plus all changes it has sent since. Each
    reply counts with its share of the fleet, so that the global model stays the mean of these sums where some devices
    are absent.

    Attributes:
        penalty: rho, how strongly devices are held together.

    References:
        Boyd et al., Distributed Optimization and Statistical Learning via the Alternating Direction Method of
        Multipliers, 2011, section 7.1 (scaled duals); Zhou, Li, Federated Learning via Inexact ADMM, 2022.
    """

    grade: ClassVar[Grade] = "measured"

    penalty: Annotated[float, Field(gt=0, le=1e6)] = 0.1

    def train(self, lesson: Lesson) -> float:
        bench = lesson.bench
        model = bench.read()
        dual = lesson.memory.get("sum", model) - model
        return self.descend(lesson, towards=bench.laid_out(model - dual), pull=self.penalty)

    def reply(self, update: Tensor, lesson: Lesson) -> Tensor:
        before = lesson.memory.get("sum")
        lesson.kept["sum"] = lesson.bench.read() if before is None else before + update
        return update

    def serve(self, combined: Tensor, memory: State, share: float) -> tuple[Tensor, State]:
        return share * combined, {}
