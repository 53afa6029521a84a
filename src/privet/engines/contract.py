"""The contract of an engine: ask devices to do work, get replies in any order, some missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    """

    round: int
    tensors: State
    base: str = ""


@dataclass
class Reply:
    """What one device answers; nothing in it is trusted before the guard has seen it.

    Attributes:
        device: identity.
        round: which round it answers.
        tensors: its update, by name.
        fields: figures it reports (loss, seconds), for display only.
        delay: seconds (modelled) from the start of the round to its arrival.
        traffic: what crossed because of it.
        seen: what a View keeps of it.
        missing: why there is no answer; "" when there is one.
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
    base: str = ""


Work = Callable[[Device, Message, Channel], Reply]
"""The one local step that every engine runs."""


class Engine(Protocol):
    """Where devices compute."""

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device, in any order; a device that did not answer yields one that says why."""
        ...
