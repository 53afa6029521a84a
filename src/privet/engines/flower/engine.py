"""The engine across machines: a round's message goes to real devices over Flower's Grid, replies come as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Message as Mail
from flwr.serverapp import Grid
from torch import tensor

from privet.engines.channel import Keep, Traffic
from privet.engines.contract import Engine, Message, Reply, Work
from privet.engines.flower.wire import Letter, from_records, head_of, letter, to_records
from privet.errors import PrivetError, RefusedError
from privet.fleet.device import Device

ROUND = "round"
"""What stands at the coordinator for a device's memory, which never leaves it: of which round it is."""

LONGEST = 3600.0
"""Seconds that a device has at most where the plan sets no deadline."""

PAUSE = 0.2
"""Seconds between two looks for replies."""


@dataclass
class Flower:
    """Asks devices on other machines.

    Attributes:
        grid: of a run on a SuperLink.
        numbers: Flower's number of each device, by its identity in the run.
        describe: the table that names a piece of work for a remote device, or None for work that stays at home
            (baselines, the coordinator's own rows).
        sign: signs the head of what is sent.
        home: where work is done that stays at home.
        deadline: seconds after which a round waits for nobody; None waits for as long as a device has.
        enough: replies after which a round waits for no more (over-selection); None for all.
        tries: how often a message that could not be sent is sent again.
        late: devices whose reply came after its round was over, with the round, in the order of arrival.
        sent, received: bytes of the letters so far.
    """

    grid: Grid
    numbers: Mapping[str, int]
    describe: Callable[[Work], Mapping[str, Any] | None]
    sign: Callable[[bytes], bytes]
    home: Engine
    deadline: float | None = None
    enough: int | None = None
    tries: int = 3
    late: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    _over: dict[str, tuple[str, int]] = field(default_factory=dict)

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device as they arrive; who is late, gone or refuses yields one that says so.

        Raises:
            RefusedError: every device refused.
        """
        table = self.describe(work)
        if table is None or not any(device.identity in self.numbers for device in devices):
            yield from self.home.ask(devices, work, message, keep)
            return
        started = time.monotonic()
        waiting = self._send(devices, table, message, keep)
        refusals: list[str] = []
        for device in devices:
            if device.identity not in waiting.values():
                yield Reply(device.identity, message.round, missing="could not be reached")
        answered = 0
        for identity, mail in self._collect(waiting, started, message.round):
            reply = _read(identity, mail, message)
            self.received += _size(mail)
            reply.delay = time.monotonic() - started
            if reply.missing.startswith(REFUSED):
                refusals.append(f"{identity} {reply.missing}")
            answered += not reply.missing
            yield reply
            if self.enough is not None and answered >= self.enough:
                break
        if len(refusals) == len(devices):
            raise RefusedError(f"every device refused; {refusals[0]}")
        why = self._why(answered)
        for number, identity in waiting.items():  # whoever is left
            self._over[number] = (identity, message.round)
            yield Reply(identity, message.round, missing=why)

    def _why(self, answered: int) -> str:
        if self.enough is not None and answered >= self.enough:
            return f"not needed: {self.enough} others were faster"
        return f"late: no reply within {self.deadline or LONGEST:g} s"

    def _send(
        self, devices: Sequence[Device], table: Mapping[str, Any], message: Message, keep: Keep | None
    ) -> dict[str, str]:
        """Sends a round's message; returns the identity of each device by the number of its message."""
        base = letter({}, model=message.tensors, shared=message.shared)
        mails = {}
        for device in devices:
            if device.identity in self.numbers:
                fields = {
                    "device": device.identity,
                    "round": message.round,
                    "base": message.base,
                    "taken": _taken(message, device.identity),
                    "keep": None if keep is None else vars(keep),
                    "work": table,
                }
                head = head_of(fields, base.tensors)
                sealed = Letter(head, base.tensors, self.sign(head))
                self.sent += len(head) + len(base.tensors)
                mails[device.identity] = to_records(sealed)
        waiting: dict[str, str] = {}
        for attempt in range(self.tries):
            left = [identity for identity in mails if identity not in waiting.values()]
            if not left:
                break
            time.sleep(min(attempt, 5))
            letters = [
                Mail(
                    mails[identity],
                    dst_node_id=self.numbers[identity],
                    message_type="train",
                    ttl=(self.deadline or LONGEST) + 60,
                    group_id=str(message.round),
                )
                for identity in left
            ]
            try:
                numbers = list(self.grid.push_messages(letters))
            except httpx.HTTPError:
                continue
            waiting |= {number: identity for number, identity in zip(numbers, left, strict=False) if number}
        return waiting

    def _collect(self, waiting: dict[str, str], started: float, round: int) -> Iterator[tuple[str, Mail]]:
        """Yields replies as they arrive and takes them off ``waiting``, until the deadline."""
        until = started + (self.deadline or LONGEST)
        pause = PAUSE / 4
        while waiting and time.monotonic() < until:
            try:
                mails = list(self.grid.pull_messages([*waiting, *self._over]))
            except httpx.HTTPError:
                mails = []  # the next look may find it
            for mail in mails:
                number = mail.metadata.reply_to_message_id
                if number in self._over:
                    self.late.append(self._over.pop(number))
                elif number in waiting:
                    yield waiting.pop(number), mail
            if not mails:
                time.sleep(min(pause, max(0.0, until - time.monotonic())))
                pause = min(1.3 * pause, 5 * PAUSE)


REFUSED = "refused: "
"""How the reason of a device begins that says no."""

PARTIES = ("coordinator", "edge-server")
"""Who may stand at the other end of a device's traffic."""


def _taken(message: Message, identity: str) -> int:
    """Returns of which round the memory is that a device goes on with; 0 for none."""
    known = message.memory.get(identity, {})
    return int(known[ROUND]) if ROUND in known else 0


def _size(mail: Mail) -> int:
    try:
        found = from_records(mail.content)
    except (PrivetError, ValueError):
        return 0
    return len(found.head) + len(found.tensors)


def _traffic(entry: Mapping[str, Any], identity: str, round: int) -> Traffic:
    """Returns what a device says that it sent or received; what it says of other devices is refused."""
    ends = str(entry["sender"]), str(entry["receiver"])
    if any(end not in (identity, *PARTIES) for end in ends):
        raise ValueError("traffic of somebody else")
    return Traffic(*ends, str(entry["kind"])[:64], round, abs(int(entry["messages"])), abs(int(entry["bytes"])))


def _read(identity: str, mail: Mail, message: Message) -> Reply:
    """Returns the reply in a device's mail; what can't be read is missing, with the reason."""
    if mail.has_error():
        return Reply(identity, message.round, missing=f"no answer: {mail.error.reason or mail.error.code}"[:300])
    try:
        found = from_records(mail.content)
        head = found.fields()
        if head.get("device") != identity:
            return Reply(identity, message.round, missing="malformed: it answers for another device")
        if missing := str(head["missing"])[:300]:
            return Reply(identity, message.round, missing=missing)
        tensors, seen = found.states("tensors", "seen")
        return Reply(
            identity,
            int(head["round"]),
            tensors=tensors,
            seen=seen,
            fields={str(name): float(value) for name, value in head["fields"].items()},
            traffic=[_traffic(entry, identity, message.round) for entry in head["traffic"]],
            base=str(head["base"]),
            kept={ROUND: tensor(message.round)} if head["kept"] else {},
        )
    except (PrivetError, KeyError, ValueError, TypeError, AttributeError) as error:
        return Reply(identity, message.round, missing=f"malformed: {error}"[:300])
