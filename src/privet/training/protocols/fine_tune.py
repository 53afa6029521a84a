"""Fine-tuning: every device goes on from the public model on its own rows, for itself.

Cost: a few passes on the device after the last round. What a device makes for itself stays there: nothing is released
by it, and nothing hides it from whoever can use the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from privet.parts import Grade, part
from privet.training.contract import MOST, Lesson, Protocol
from privet.training.protocols.fedavg import Fedavg


@part
class FineTune(Fedavg):
    """Federated averaging; in the end each device trains the global model on for itself.

    Attributes:
        personal_epochs: passes over its own rows that a device makes for itself after the last round.

    References:
        Yu, Bagdasaryan, Shmatikov, Salvaging Federated Learning by Local Adaptation, 2020, section 3.
    """

    grade: ClassVar[Grade] = "measured"
    personalises: ClassVar[bool] = True

    personal_epochs: Annotated[int, Field(ge=1, le=MOST)] = 5

    def alone(self) -> Protocol:
        return self.plain()

    def personal(self, lesson: Lesson) -> None:
        replace(self, local_epochs=self.personal_epochs).descend(lesson)
