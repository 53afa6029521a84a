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
from privet.errors import PartError
from privet.mechanisms.chain import Chain
from privet.models import Model
from privet.parts import Part, name_of, part
from privet.randomness import Source
from privet.tensors import State, flatten, unflatten
from privet.training.cohort import Cohort
from privet.training.descent import Descent, batches
from privet.training.edge import Edge
from privet.training.precision import Precision

MOST = 1_000_000
"""More rounds, epochs or rows in a batch are a slip of the finger."""


@dataclass(frozen=True)
class Bench:
    """A network laid out for training in this process, reused from device to device.

    Attributes:
        network: the whole network, its parameters views of ``descent.values``.
        front, head: the two sides of the cut; the head is empty when the protocol doesn't cut.
        descent: the optimiser of what the device trains: both, or the front where an edge server trains the head.
        precision: how it computes.
        edge: where the head is trained batch by batch; None where no edge server does so.
        kept: by device, what a protocol makes once of the device's rows and needs in every round.
    """

    network: nn.Sequential
    front: nn.Sequential
    head: nn.Sequential
    descent: Descent
    precision: Precision
    edge: Edge | None = None
    kept: dict[str, tuple[float, Tensor]] = field(default_factory=dict)

    def read(self) -> Tensor:
        """Returns the network's values as one vector (d,), in the order of :func:`privet.tensors.flatten`."""
        return flatten(self.network.state_dict())

    def write(self, vector: Tensor) -> None:
        """Puts a vector (d,) as :meth:`read` returns it into the network."""
        live = self.network.state_dict()
        for name, value in unflatten(vector, live).items():
            live[name].copy_(value)

    def laid_out(self, vector: Tensor) -> Tensor:
        """Returns a vector (d,) in the order of ``descent.values``, which depends on the memory layout."""
        before = self.read()
        self.write(vector)
        values = self.descent.values.clone()
        self.write(before)
        return values


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
        memory: what this device kept for itself from earlier rounds; it never leaves the device.
        shared: further tensors that came with the global model.
        kept: filled by the protocol: this device's memory after the round, all of it.
    """

    bench: Bench
    inputs: Tensor
    labels: Tensor
    mechanisms: Chain
    rng: Source
    noise: Source
    channel: Channel
    memory: State = field(default_factory=dict)
    shared: State = field(default_factory=dict)
    kept: State = field(default_factory=dict)


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

    vectors: ClassVar[int] = 1
    """How many vectors of the model's size a reply holds, one after the other; the first is the model's change."""

    personalises: ClassVar[bool] = False
    """Whether each device ends up with a model of its own."""

    asynchronous: ClassVar[bool] = False
    """Whether each device pushes in its own time; see :mod:`privet.training.asynchronous`."""

    buffers: ClassVar[bool] = True
    """Whether it can train models that keep buffers (running means of a normalisation)."""

    reports_loss: ClassVar[bool] = True
    """Whether devices tell their training loss."""

    rounds: Annotated[int, Field(ge=1, le=MOST)] = 5
    local_epochs: Annotated[int, Field(ge=1, le=MOST)] = 1
    batch_size: Annotated[int, Field(ge=1, le=MOST)] = 64
    learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9

    @property
    def meets_edge(self) -> bool:
        """Whether an edge server trains the head batch by batch while the device trains its front."""
        return self.cuts and not self.once

    def split(self, model: Model, network: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
        """Returns the front on the device and the head at the edge; by default all is on the device."""
        return network, nn.Sequential()

    def quiet(self) -> Self:
        """Returns the same protocol without noise of its own."""
        return self

    def alone(self) -> Protocol:
        """Returns how a device trains that trains for itself only; without noise of its own."""
        return self.quiet()

    @property
    def epochs(self) -> int:
        """Passes over its rows that a device makes in a round, whatever they train."""
        return self.local_epochs

    def shared(self, memory: State) -> State:
        """Returns further tensors that go to every device with the global model.

        Args:
            memory: what the coordinator remembers of this protocol.
        """
        return {}

    def fits(self, network: nn.Sequential) -> None:
        """Refuses a network that this protocol can't train.

        Raises:
            PartError: the network keeps buffers, or is too small.
        """
        if not self.buffers and (names := [name for name, _ in network.named_buffers()]):
            raise PartError(
                f"the model keeps {names[0]!r}, which is no parameter; {name_of(self)} moves parameters only",
                do="normalise by nn.GroupNorm or nn.LayerNorm, which keep nothing, or take training.name = 'fedavg'",
            )

    def download(self, model: State, network: nn.Sequential) -> State:
        """Returns the part of the global model that a device needs; all of it unless the protocol says otherwise."""
        return model

    def upload(self, sent: Tensor, lesson: Lesson) -> tuple[Tensor, State]:
        """Returns what of a device's vector arrives, and the tensors that carry it, which are metered.

        Comes after the mechanisms, so that it is post-processing of what they guarantee.

        Args:
            sent: ``vectors`` vectors one after the other, each (d,).
            lesson: of the device, for its memory.
        """
        return sent, {"update": sent}

    def reply(self, update: Tensor, lesson: Lesson) -> Tensor:
        """Returns the vector that leaves the device, (vectors * d,), before any mechanism.

        Args:
            update: what training changed in the model, (d,).
            lesson: of the device, after training.
        """
        return update

    def serve(self, combined: Tensor, memory: State, share: float) -> tuple[Tensor, State]:
        """Returns how far the global model moves, (d,), and what the coordinator remembers next.

        Comes after the mechanisms on the server, so that it is post-processing of what they guarantee.

        Args:
            combined: what the rule made of the replies, (vectors * d,).
            memory: what the coordinator remembers of this protocol; empty before the first round.
            share: of the fleet's devices whose replies were combined.
        """
        return combined, {}

    def pace(self, staleness: int) -> float:
        """Returns the factor of a push of an asynchronous protocol.

        Args:
            staleness: how many pushes came between the model that it began with and itself.
        """
        return 1.0

    def personal(self, lesson: Lesson) -> None:
        """Turns the bench's network, which holds the global model, into the device's own model.

        Args:
            lesson: of the device, with what it kept.
        """

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
