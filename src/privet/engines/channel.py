"""The channel that every message of a local step crosses: it meters, and keeps what a View needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from privet.tensors import State, size_in_bytes


@dataclass
class Traffic:
    """What crossed between two parties under one name in one round.

    Attributes:
        sender, receiver: identities.
        kind: what it was, for example ``features``.
        round: number of the round, from 1.
        messages: how many.
        bytes: how many, values only: framing and encryption are not counted.
    """

    sender: str
    receiver: str
    kind: str
    round: int
    messages: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Keep:
    """Which rows of what crosses to a party are kept for its View.

    Attributes:
        party: who sees them.
        rows: the first so many rows of the device's shard.
        releases: how often each row crosses in the round (local epochs).
    """

    party: str
    rows: int
    releases: int


@dataclass
class Channel:
    """The messages of one device in one round.

    Attributes:
        device: identity of the device.
        round: number of the round, from 1.
        keep: what to keep, or None.
    """

    device: str
    round: int
    keep: Keep | None = None
    traffic: dict[tuple[str, str, str], Traffic] = field(default_factory=dict)
    seen: State = field(default_factory=dict)

    def send(self, sender: str, receiver: str, kind: str, tensors: Mapping[str, Tensor]) -> None:
        """Counts one message."""
        entry = self.traffic.get((sender, receiver, kind))
        if entry is None:
            entry = self.traffic[sender, receiver, kind] = Traffic(sender, receiver, kind, self.round)
        entry.messages += 1
        entry.bytes += size_in_bytes(tensors.values())

    def keeps(self, receiver: str) -> bool:
        """Whether what crosses to a party is kept."""
        return self.keep is not None and self.keep.party == receiver

    def remember(self, name: str, value: Tensor, rows: Tensor, release: int) -> None:
        """Keeps the rows of a message that the View wants.

        Args:
            name: under which name, for example ``features``.
            value: shape (b, ...).
            rows: which rows of the device's shard they are, shape (b,).
            release: which release of these rows it is, from 0.
        """
        assert self.keep is not None  # noqa: S101 - only called after keeps()
        wanted = rows < self.keep.rows
        if name not in self.seen:
            self.seen[name] = torch.zeros(self.keep.rows, self.keep.releases, *value.shape[1:], dtype=value.dtype)
        self.seen[name][rows[wanted], release] = value.detach()[wanted]
