"""Ditto: every device trains a model of its own beside the global one, pulled towards it.

Cost: twice the computing of federated averaging, the same bytes, one model kept on each device. The own model leaves
no device; what hostile devices do to the global model reaches it only through the pull.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.parts import Grade, part
from privet.training.contract import Lesson, Protocol
from privet.training.protocols.fedavg import Fedavg


@part
class Ditto(Fedavg):
    """Federated averaging beside which each device trains a model of its own, pulled towards the global one.

    Attributes:
        proximal: lambda, the strength of the pull; at 0 each device is alone.

    References:
        Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, algorithm 1.
    """

    grade: ClassVar[Grade] = "measured"
    personalises: ClassVar[bool] = True

    proximal: Annotated[float, Field(ge=0, le=1e6)] = 0.1

    @property
    def epochs(self) -> int:
        return 2 * self.local_epochs

    def alone(self) -> Protocol:
        return self.plain()

    def train(self, lesson: Lesson) -> float:
        bench, sent = lesson.bench, lesson.bench.descent.values.clone()
        start = bench.read()
        loss = self.descend(lesson)
        trained = bench.read()
        bench.descent.reset()
        bench.write(lesson.memory.get("own", start))
        self.descend(lesson, towards=sent, pull=self.proximal)
        lesson.kept["own"] = bench.read()
        bench.write(trained)
        return loss

    def personal(self, lesson: Lesson) -> None:
        if "own" in lesson.memory:
            lesson.bench.write(lesson.memory["own"])
