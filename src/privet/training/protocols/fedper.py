"""FedPer: the last layers stay on the device, the layers before them are learnt together.

Cost: that of federated averaging without the bytes of the head. The head never leaves its device; the body's updates
still meet the raw inputs and labels.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privet.errors import PartError
from privet.parts import Grade, part
from privet.tensors import State, clone, flatten
from privet.training.contract import Lesson, Protocol
from privet.training.protocols.fedavg import Fedavg


@part
class Fedper(Fedavg):
    """Federated averaging of all layers but the last, which every device keeps to itself.

    The global model's own head is never trained, so that only each device's own accuracy means anything.

    Attributes:
        personal_layers: how many layers with parameters, from the last, stay on the device.

    References:
        Arivazhagan et al., Federated Learning with Personalization Layers, 2019, section 3.
    """

    grade: ClassVar[Grade] = "measured"
    personalises: ClassVar[bool] = True

    personal_layers: Annotated[int, Field(ge=1, le=1000)] = 1

    def alone(self) -> Protocol:
        return self.plain()

    def fits(self, network: nn.Sequential) -> None:
        super().fits(network)
        if len(_layers(network)) <= self.personal_layers:
            raise PartError(
                f"training.personal_layers: nothing is left to share of a model of {len(_layers(network))} layer(s)",
                do="take a deeper model, or lower training.personal_layers",
            )

    def head(self, network: nn.Sequential) -> list[str]:
        """Returns the names of the values that stay on the device."""
        own = _layers(network)[-self.personal_layers :]
        return [name for name in network.state_dict() if name.rpartition(".")[0] in own]

    def download(self, model: State, network: nn.Sequential) -> State:
        head = self.head(network)
        return {name: value for name, value in model.items() if name not in head}

    def train(self, lesson: Lesson) -> float:
        live, head = lesson.bench.network.state_dict(), self.head(lesson.bench.network)
        before = clone({name: live[name] for name in head})
        self.personal(lesson)
        loss = self.descend(lesson)
        lesson.kept.update(clone({name: live[name] for name in head}))
        for name, value in before.items():
            live[name].copy_(value)
        return loss

    def upload(self, sent: Tensor, lesson: Lesson) -> tuple[Tensor, State]:
        live, head = lesson.bench.network.state_dict(), self.head(lesson.bench.network)
        body = flatten({name: torch.full(value.shape, name not in head) for name, value in live.items()}).bool()
        return sent * body, {"update": sent[body]}

    def personal(self, lesson: Lesson) -> None:
        live = lesson.bench.network.state_dict()
        for name, value in lesson.memory.items():
            live[name].copy_(value)


def _layers(network: nn.Sequential) -> list[str]:
    """Returns the names of the layers that have parameters, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters()))
