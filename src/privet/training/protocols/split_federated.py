"""Split federated learning with noisy features, the smart-home document's training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from privet.accounting import Guarantee
from privet.models import Model
from privet.parts import Grade, part
from privet.training.contract import Lesson, Promise, Protocol
from privet.training.guarantees import of_features

EDGE = "edge-server"


@part
class SplitFederated(Protocol):
    """The phone runs the front and releases noisy features; the edge server trains the head; both are averaged.

    For each batch the device normalises and noises the features, sends them with the labels, gets
    back the gradient and trains its front with it. Front and head together are the device's local
    model. Labels reach the edge server in the clear, and the uploaded front's gradients meet the raw
    inputs: no mechanism covers these two.

    Attributes:
        cut: after which stage the model is cut; the model's own default when empty.

    References:
        Zhao et al., Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices,
        sections IV.A (steps 1 to 4) and IV.C.
    """

    grade: ClassVar[Grade] = "measured"
    cuts: ClassVar[bool] = True

    cut: str | None = None

    def split(self, model: Model, network: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
        return model.cut(network, self.cut)

    def train(self, lesson: Lesson) -> float:
        bench, channel, edge = lesson.bench, lesson.channel, lesson.bench.edge
        assert edge is not None  # noqa: S101 - the bench of a protocol that meets an edge server has one
        head = dict(bench.head.state_dict())
        channel.send(channel.device, EDGE, "head", head)
        edge.open(head)

        def learn(rows: Tensor, number: int) -> Tensor:
            labels = lesson.labels[rows]
            with bench.precision.autocast():
                features = bench.front(lesson.inputs[rows])
            released = lesson.mechanisms(features.flatten(1).float(), lesson.noise)
            channel.send(channel.device, EDGE, "features and labels", {"f": released, "l": labels})
            if channel.keeps(EDGE):
                channel.remember("features", released, rows, number)
                channel.remember("labels", labels, rows, number)
            gradient, loss = edge.train(released.view(features.shape), labels)
            channel.send(EDGE, channel.device, "gradient", {"g": gradient})
            if released.requires_grad:
                released.backward(gradient.flatten(1))
            return loss

        mean = self.passes(lesson, learn)
        trained = edge.close()
        channel.send(EDGE, channel.device, "head", trained)
        bench.head.load_state_dict(trained)
        return mean

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_features(promise, self.rounds * self.local_epochs)
