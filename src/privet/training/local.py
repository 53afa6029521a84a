"""The one local step: what a device does with a round's message, whatever the engine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from privet.engines import Channel, Keep, Message, Reply
from privet.fleet.device import Device
from privet.mechanisms.chain import Chain
from privet.models import Model
from privet.randomness import Source, keyed, seeded, system
from privet.tensors import State, clone, flatten
from privet.training.contract import Bench, Lesson, Protocol
from privet.training.descent import Descent
from privet.training.edge import Edge, Session
from privet.training.precision import Precision
from privet.training.protocols.split_federated import EDGE

COORDINATOR = "coordinator"


@contextmanager
def drawing(source: Source) -> Iterator[None]:
    """Runs a block whose torch layers draw (first weights, dropout) from a source that carries no guarantee."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(
        source.generator().initial_seed()
    )  # torch.manual_seed walks the stack each time
    try:
        yield
    finally:
        torch.set_rng_state(before)


@dataclass(frozen=True, eq=False)
class Task:
    """All that a local step needs besides the message; a device has it before it is asked.

    Attributes:
        model, protocol, on_device: of the plan.
        inputs, labels: the rows of all simulated devices, float32 (n, ...) and int64 (n,).
        classes: number of classes.
        precision: how networks compute.
        multiplications: that the device does for one record's forward pass.
        seed: of shuffles, and of noise when ``reproducible``.
        reproducible: whether noise comes from the seed instead of the operating system.
        coupled: whether the network, as it trains, was found to mix the records of a batch.
        secret: of the run, for noise that must be drawn again exactly; see :meth:`once`.
    """

    model: Model
    protocol: Protocol
    on_device: Chain
    inputs: Tensor
    labels: Tensor
    classes: int
    precision: Precision
    multiplications: int
    seed: int
    reproducible: bool
    coupled: bool = False
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    @property
    def couples_records(self) -> bool:
        """Whether what is made of one record depends on the others of its batch."""
        return self.coupled or self.model.couples_records or self.on_device.couples_records

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    def network(self) -> nn.Sequential:
        """Returns a network with the initial values that the seed gives."""
        with drawing(seeded(self.seed, "initial weights")):
            return self.model.build(self.shape, self.classes)

    def bench(self) -> Bench:
        """Returns a network laid out for training."""
        network = self.network()
        self.precision.lay_out(network)
        front, head = self.protocol.split(self.model, network)
        if not self.protocol.meets_edge:
            return Bench(network, front, head, Descent(network.parameters()), self.precision)
        session = Session(head, self.precision, self.protocol.learning_rate, self.protocol.momentum)
        return Bench(network, front, head, Descent(front.parameters()), self.precision, session)

    def noise(self, *path: str | int) -> Source:
        """Returns the source of noise: the operating system, or the seed in a reproducible run."""
        return seeded(self.seed, "noise", *path) if self.reproducible else system()

    def once(self, *path: str | int) -> Source:
        """Returns a source of noise that is the same whenever this run asks for it: that of one release."""
        return seeded(self.seed, "noise", "once", *path) if self.reproducible else keyed(self.secret, *path)

    def quiet(self) -> Task:
        """Returns the same task with the noise left out: what a device trains for itself."""
        return replace(self, on_device=self.on_device.without_noise(), protocol=self.protocol.alone())

    def compute_seconds(self, device: Device) -> float:
        """Returns the seconds (modelled) that a round takes a device: three forward passes a record and epoch."""
        passes = 1 if self.protocol.once else 3 * self.protocol.epochs
        steps = passes * self.multiplications * device.examples
        return device.profile.compute_seconds(steps)


class LocalStep:
    """Answers a round's message with an update; keeps one network and reuses it from device to device."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._bench = task.bench()
        self._front = clone(self._bench.front.state_dict()) if task.protocol.once else {}
        self._live = self._bench.network.state_dict()  # shares memory with the network, so it is never built again
        counters = {name: torch.full(value.shape, not value.is_floating_point()) for name, value in self._live.items()}
        self._counters = flatten(counters).nonzero().flatten()

    def __call__(self, device: Device, message: Message, channel: Channel) -> Reply:
        """Trains on the device's rows and returns the difference to the global model as one vector."""
        task, started = self.task, time.process_time()
        own = seeded(task.seed, "device", device.identity, message.round)
        if channel.keep is not None:
            channel.keep = replace(channel.keep, rows=min(channel.keep.rows, device.examples))
        lesson = self._lesson(device, message, channel, own)
        learner = EDGE if task.protocol.once else device.identity
        channel.send(COORDINATOR, learner, "global model", task.protocol.download(message.tensors, self._bench.network))
        if message.shared:
            channel.send(COORDINATOR, learner, "shared", message.shared)
        before = self.load(message.tensors)
        with drawing(own.child("layers")):
            loss = task.protocol.train(lesson)
        update = flatten(self._live) - before
        # Batches that a layer has counted are no model: beside weights they would drown every distance and norm.
        if len(self._counters):
            update[self._counters] = 0
        update = task.protocol.reply(update, lesson)
        if not task.protocol.cuts:
            update = task.on_device(update, lesson.noise)
        update, carried = task.protocol.upload(update, lesson)
        sent = device.behaviour.update(update, message.round, own.child("update"))
        spent = {"loss": loss, "seconds": time.process_time() - started}
        reply = Reply(device.identity, message.round, fields=spent, base=message.base, kept=lesson.kept)
        if sent is None:
            reply.missing = "silent"
        else:
            reply.tensors = {"update": sent}
            channel.send(learner, COORDINATOR, "update", carried if sent is update else reply.tensors)
        crossed = sum(entry.bytes for ends, entry in channel.traffic.items() if device.identity in ends)
        reply.delay = task.compute_seconds(device) + device.profile.transfer_seconds(crossed)
        return reply

    def personal(self, device: Device, message: Message, channel: Channel) -> State:
        """Returns the model that a device makes for itself of the global one and of what it kept."""
        own = seeded(self.task.seed, "personal", device.identity, message.round)
        lesson = self._lesson(device, message, channel, own)
        self.load(message.tensors)
        with drawing(own.child("layers")):
            self.task.protocol.personal(lesson)
        return clone(self._live)

    def _lesson(self, device: Device, message: Message, channel: Channel, own: Source) -> Lesson:
        task, rows = self.task, torch.from_numpy(device.shard)
        inputs, labels = device.behaviour.examples(
            task.inputs[rows], task.labels[rows], task.classes, own.child("behaviour")
        )
        return Lesson(
            bench=self._bench,
            inputs=inputs,
            labels=labels,
            mechanisms=task.on_device,
            rng=own.child("shuffle"),
            noise=task.once(device.identity) if task.protocol.once else task.noise(device.identity, message.round),
            channel=channel,
            memory=message.memory.get(device.identity, {}),
            shared=message.shared,
        )

    def at(self, edge: Edge) -> LocalStep:
        """Returns the same step, on the same network, with its head trained by another edge server."""
        step = copy(self)
        step._bench = replace(self._bench, edge=edge)
        return step

    def load(self, state: Mapping[str, Tensor]) -> Tensor:
        """Puts a state into the network and returns it as one vector."""
        for name, value in self._live.items():
            value.copy_(state[name])
        if self._front:  # noise drawn once covers features of one front only, whatever model comes in
            self._bench.front.load_state_dict(self._front)
        self._bench.descent.reset()
        return flatten(state)


def keep_rows(party: str, records: int, devices: int, protocol: Protocol) -> Keep:
    """Returns what each device keeps so that a View holds about so many records."""
    return Keep(party, max(1, -(-records // devices)), 1 if protocol.once else protocol.local_epochs)
