"""The contract of a training protocol: what one device does in one round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from privet.accounting import Guarantee, Relation, Sensitivity
from privet.engines import Channel
from privet.mechanisms.chain import Chain
from privet.models import Model
from privet.parts import Part, part
from privet.randomness import Source
from privet.training.cohort import Cohort
from privet.training.descent import Descent, batches
from privet.training.precision import Precision

MOST = 1_000_000
"""More rounds, epochs or rows in a batch are a slip of the finger."""


@dataclass(frozen=True)
class Bench:
    """A network laid out for training in this process, reused from device to device.

    Attributes:
        network: the whole network, its parameters views of ``descent.values``.
        front, head: the two sides of the cut; the head is empty when the protocol doesn't cut.
        descent: the optimiser over both.
        precision: how it computes.
        kept: by device, what a protocol makes once of the device's rows and needs in every round.
    """

    network: nn.Sequential
    front: nn.Sequential
    head: nn.Sequential
    descent: Descent
    precision: Precision
    kept: dict[str, tuple[float, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What one device trains with in one round.

    Attributes:
        bench: where it trains.
        inputs: shape (n, ...).
        labels: shape (n,).
        mechanisms: what features pass before they leave the device, if the protocol sends any.
        rng: shuffles.
        noise: the source of the mechanisms' noise.
        channel: what crosses to others goes through it.
    """

    bench: Bench
    inputs: Tensor
    labels: Tensor
    mechanisms: Chain
    rng: Source
    noise: Source
    channel: Channel


@dataclass(frozen=True)
class Promise:
    """What a protocol needs to derive its guarantees.

    Attributes:
        on_device, on_server: the plan's mechanisms.
        dimension: values in one vector that leaves a device.
        delta: of the plan.
        relation: of the plan.
        devices: updates combined in a round at least; fewer make it void.
        combine: what combining them makes of a sensitivity.
        coupled: how many records' features one record moves inside the model; 1 unless it normalises
            over the batch.
        cohort: who is asked in a round.
        absent_is_zero: whether combining counts a device that is absent as an update of 0.
        examples: rows of each device, empty if not known.
    """

    on_device: Chain
    on_server: Chain
    dimension: int
    delta: float
    relation: Relation
    devices: int
    combine: Callable[[Sensitivity, int], Sensitivity]
    coupled: int = 1
    cohort: Cohort = field(default_factory=Cohort)
    absent_is_zero: bool = False
    examples: tuple[int, ...] = ()


@part
class Protocol(Part):
    """How a fleet trains.

    Attributes:
        rounds: global epochs: how often the coordinator combines updates.
        local_epochs: passes of each device over its own rows in a round.
        batch_size: records in a batch.
        learning_rate: of the device's gradient descent.
        momentum: of the device's gradient descent, fresh in every round.
    """

    cuts: ClassVar[bool] = False
    """Whether the model is cut in two, with a head at an edge server."""

    once: ClassVar[bool] = False
    """Whether devices release their features once, before the rounds, to an edge server that trains from then on."""

    rounds: Annotated[int, Field(ge=1, le=MOST)] = 5
    local_epochs: Annotated[int, Field(ge=1, le=MOST)] = 1
    batch_size: Annotated[int, Field(ge=1, le=MOST)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    def split(self, model: Model, network: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
        """Returns the front on the device and the head at the edge; by default all is on the device."""
        return network, nn.Sequential()

    def quiet(self) -> Self:
        """Returns the same protocol without noise of its own: how whoever trains for himself trains."""
        return self

    @abstractmethod
    def train(self, lesson: Lesson) -> float:
        """Trains the bench's network on one device's rows for one round; returns the mean loss of the last epoch.

        Args:
            lesson: the device's rows; its bench holds the global model's values.
        """

    def passes(self, lesson: Lesson, learn: Callable[[Tensor, int], Tensor]) -> float:
        """Passes over a device's rows, a step of descent a batch; returns the mean loss of the last pass.

        Args:
            lesson: whose rows.
            learn: accumulates the gradients of one batch, given its rows and the number of the pass, and
                returns its loss, detached.
        """
        mean = torch.zeros(())
        for number in range(self.local_epochs):
            total, parts = torch.zeros(()), batches(len(lesson.labels), self.batch_size, lesson.rng)
            for rows in parts:
                total += learn(rows, number)
                lesson.bench.descent.step(self.learning_rate, self.momentum)
            mean = total / len(parts)
        return float(mean)

    @abstractmethod
    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        """Derives what the plan's mechanisms guarantee, the weakest statement last."""
