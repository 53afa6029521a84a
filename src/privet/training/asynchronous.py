"""One round of asynchronous training: devices push when their time is up, whatever model they began with.

Every device fetches the global model, trains, pushes its update, and fetches again at once; nobody waits for anybody.
In the simulation a device's training is computed when it fetches and counts when its modelled time is up. What is on
its way is part of the run's memory, so that a run goes on where it stopped. Across machines a push counts when it
arrives; a run that goes on asks every device for its next try.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from privet.engines import Message, OwnTime
from privet.fleet.device import Device
from privet.tensors import State, digest, flatten, unflatten
from privet.training.local import LocalStep
from privet.training.memory import SERVER, by_owner, joined

if TYPE_CHECKING:
    from privet.training.coordinator import Coordinator, Round

DUE, SINCE, TRIES, LOSS = range(4)


class Clock:
    """The clock of one round: what is on its way, and the model as it moves.

    Args:
        coordinator: of an asynchronous protocol; its work is a local step.
        done: the round, as it began; filled as pushes arrive.
    """

    def __init__(self, coordinator: Coordinator, done: Round) -> None:
        self.coordinator, self.done, self.base = coordinator, done, flatten(done.state)
        known = by_owner(done.memory).get(SERVER, {})
        self.now, self.pushed = known.get("clock", torch.zeros(2, dtype=torch.float64)).tolist()
        self.began = self.now
        self.rows = sum(device.examples for device in coordinator.devices)
        self.times = {name[:-6]: value.clone() for name, value in known.items() if name.endswith(".times")}
        self.coming = {name[:-7]: value for name, value in known.items() if name.endswith(".update")}

    def memory(self) -> State:
        """Returns all that the next round needs, under its owner's name."""
        state: State = {"clock": torch.tensor([self.now, self.pushed], dtype=torch.float64)}
        state |= {f"{identity}.times": value for identity, value in self.times.items()}
        return joined({SERVER: state | {f"{identity}.update": value for identity, value in self.coming.items()}})

    def fetch(self, devices: Sequence[Device]) -> None:
        """Lets devices, all at the same number of tries, train from the model as it is now."""
        one, work = self.coordinator, self.coordinator.work
        assert isinstance(work, LocalStep)  # noqa: S101 - else the protocol would not be asynchronous
        tries, message = self.tries(devices[0]), self.message(devices[0])
        by_identity = {device.identity: device for device in devices}
        for reply in one.engine.ask(devices, work, message):
            device = by_identity[reply.device]
            sound = one._accept(reply, self.base, message, self.done)
            takes = max(reply.delay, work.task.compute_seconds(device))
            loss = float(reply.fields.get("loss", 0.0))
            figures = [self.now + takes, self.pushed, tries, loss]
            self.times[reply.device] = torch.tensor(figures, dtype=torch.float64)
            if sound:
                self.coming[reply.device] = reply.tensors["update"]

    def tries(self, device: Device) -> float:
        """Returns how often a device has pushed, or failed to."""
        return float(self.times[device.identity][TRIES]) if device.identity in self.times else 0.0

    def message(self, device: Device) -> Message:
        """Returns what a device gets for its next try: the model as it is now."""
        state = unflatten(self.base, self.done.state)
        return Message(int(self.tries(device)) + 1, state, digest(state))

    def send(self, devices: Sequence[Device], engine: OwnTime) -> None:
        """Lets devices train from the model as it is now, in their own time."""
        for number in sorted({self.tries(device) for device in devices}):
            alike = [device for device in devices if self.tries(device) == number]
            engine.send(alike, self.coordinator.work, self.message(alike[0]))
            for device in alike:
                figures = [self.now, self.pushed, number, 0.0]
                self.times[device.identity] = torch.tensor(figures, dtype=torch.float64)

    def push(self, device: Device) -> Tensor | None:
        """Takes what a device sends when its time is up; returns its update, or None if nothing sound came."""
        times = self.times[device.identity]
        self.now = float(times[DUE])
        self.done.delays[device.identity] = self.now - self.began
        times[TRIES] += 1
        update = self.coming.pop(device.identity, None)
        if update is None:
            return None
        staleness = int(self.pushed - times[SINCE])
        weight = self.coordinator.protocol.pace(staleness) * device.examples / self.rows
        self.base = self.base + weight * update
        self.done.staleness.append((device.identity, staleness))
        self.done.loss += float(times[LOSS])
        self.pushed += 1
        return update


def asynchronous_round(coordinator: Coordinator, done: Round, updates: int) -> Round:
    """Runs as many pushes as there are devices, and returns the round; a device makes one try a round in the mean.

    No device tries more often than the protocol has rounds, so that no device releases more than that.

    Args:
        coordinator: of an asynchronous protocol.
        done: the round, as it began.
        updates: how many updates the coordinator's own View keeps.
    """
    clock, engine = Clock(coordinator, done), coordinator.engine
    pushes = _real(clock, engine) if isinstance(engine, OwnTime) else _modelled(clock)
    for device, update in pushes:
        if update is not None and len(done.updates) < updates:
            done.updates[device.identity] = update
    done.replies = done.selected = len(done.staleness)
    done.loss /= max(1, done.replies)
    done.state, done.memory = unflatten(clock.base, done.state), clock.memory()
    return done


def _modelled(clock: Clock) -> Iterator[tuple[Device, Tensor | None]]:
    """Yields the pushes of a round in the order of their modelled times."""
    done, fleet, most = clock.done, clock.coordinator.devices, clock.coordinator.protocol.rounds
    if not clock.times:
        clock.fetch(fleet)
    done.delays.clear()
    for _ in fleet:
        waiting = [one for one in fleet if clock.tries(one) < most]
        if not waiting:
            break
        first = min(waiting, key=lambda one: (float(clock.times[one.identity][DUE]), one.identity))
        yield first, clock.push(first)
        if clock.tries(first) < most:
            delays = dict(done.delays)
            clock.fetch([first])
            done.delays = delays


def _real(clock: Clock, engine: OwnTime) -> Iterator[tuple[Device, Tensor | None]]:
    """Yields the pushes of a round as they arrive; who has pushed is sent the model as it is then."""
    one, done, started = clock.coordinator, clock.done, time.monotonic()
    by_identity = {device.identity: device for device in one.devices}
    idle = [device for device in one.devices if device.identity not in engine.awaited()]
    clock.send([device for device in idle if clock.tries(device) < one.protocol.rounds], engine)
    for message, reply in islice(engine.arrivals(), len(one.devices)):
        device, times = by_identity[reply.device], clock.times[reply.device]
        times[DUE] = clock.began + time.monotonic() - started
        if one._accept(reply, clock.base, message, done):
            loss = float(reply.fields.get("loss", 0.0))
            times[LOSS] = loss if math.isfinite(loss) else 0.0
            clock.coming[device.identity] = reply.tensors["update"]
        yield device, clock.push(device)
        if clock.tries(device) < one.protocol.rounds:
            clock.send([device], engine)
