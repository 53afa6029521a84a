"""FedProx: federated averaging with a pull towards the global model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.parts import Grade, part
from privet.training.contract import Lesson
from privet.training.protocols.fedavg import Fedavg


@part
class Fedprox(Fedavg):
    """Federated averaging whose devices are pulled back to the global model, for fleets that differ.

    Attributes:
        proximal: mu, the strength of the pull.

    References:
        Li et al., Federated Optimization in Heterogeneous Networks, 2020, equation 2.
    """

    grade: ClassVar[Grade] = "measured"

    proximal: Annotated[float, Field(ge=0, le=1e6)] = 0.01

    def train(self, lesson: Lesson) -> float:
        return self.descend(lesson, towards=lesson.bench.descent.values.clone(), pull=self.proximal)
