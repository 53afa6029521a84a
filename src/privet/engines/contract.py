"""The contract of an engine: ask devices to do work, get replies in any order, some missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from privet.engines.channel import Channel, Keep, Traffic
from privet.fleet.device import Device
from privet.tensors import State


@dataclass(frozen=True)
class Message:
    """What the coordinator sends to every device of a round.

    Attributes:
        round: number of the round, from 1.
        tensors: the global model.
        base: its digest; a reply names the model that it started from.
        shared: further tensors that come with the model.
        memory: what each device kept for itself from earlier rounds, by identity. It is no part of what is
            sent: a simulated device has nowhere else to keep it.
    """

    round: int
    tensors: State
    base: str = ""
    shared: State = field(default_factory=dict)
    memory: Mapping[str, State] = field(default_factory=dict)


@dataclass
class Reply:
    """What one device answers; nothing in it is trusted before the guard has seen it.

    Attributes:
        device: identity.
        round: which round it answers.
        tensors: its update, by name.
        kept: what the device keeps for itself for the next round; it never leaves it.
        fields: figures it reports (loss, seconds), for display only.
        delay: seconds (modelled) from the start of the round to its arrival.
        traffic: what crossed because of it.
        seen: what a View keeps of it.
        missing: why there is no answer; "" when there is one.
        refusal: its kind, where the device said no; "" where it did not.
        base: digest of the global model that it started from.
    """

    device: str
    round: int
    tensors: State = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    delay: float = 0.0
    traffic: list[Traffic] = field(default_factory=list)
    seen: State = field(default_factory=dict)
    missing: str = ""
    refusal: str = ""
    base: str = ""
    kept: State = field(default_factory=dict)


Work = Callable[[Device, Message, Channel], Reply]
"""The one local step that every engine runs."""


class Engine(Protocol):
    """Where devices compute."""

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device, in any order; a device that did not answer yields one that says why."""
        ...


@runtime_checkable
class OwnTime(Engine, Protocol):
    """An engine whose devices take the time that they take, so that nobody has to wait for the slowest."""

    def send(self, devices: Sequence[Device], work: Work, message: Message) -> None:
        """Sends a message and does not wait for the replies."""
        ...

    def awaited(self) -> set[str]:
        """Returns the identities of the devices that were sent a message and have not replied."""
        ...

    def arrivals(self) -> Iterator[tuple[Message, Reply]]:
        """Yields replies as they arrive, with what they answer, until none is awaited; a later call goes on.

        Whatever is sent meanwhile is awaited too. The message is without tensors. A device that does not answer in
        time yields a reply that says so.

        Raises:
            RefusedError: every device refused.
        """
        ...
