"""The engine across machines: a round's message goes to real devices over Flower's Grid, replies come as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import Message as Mail
from flwr.app import RecordDict
from flwr.serverapp import Grid
from torch import tensor

from privet.engines.channel import Keep, Traffic
from privet.engines.contract import Engine, Message, Reply, Work
from privet.engines.flower.wire import Letter, from_records, head_of, letter, to_records
from privet.engines.packing import pack_all, unpack_all
from privet.errors import PrivetError, RefusedError
from privet.fleet.device import Device
from privet.tensors import size_in_bytes

ROUND = "round"
"""What stands at the coordinator for a device's memory, which never leaves it: of which round it is."""

LONGEST = 3600.0
"""Seconds that a device has at most where the plan sets no deadline."""

PAUSE = 0.2
"""Seconds between two looks for replies."""

VECTORS = 4
"""Vectors of the model's size that an update holds at most, when it is unpacked."""

LOOK = 5.0
"""Seconds between two looks whether a device has come back, and forgotten what it was asked."""


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
        edge: port of the edge server on the coordinator's host; 0 where devices train a split model's head themselves.
        tries: how often a message that could not be sent is sent again.
        activated: when each device came last, by identity. One that comes anew in a round is asked again: it may have
            been killed with the message in its hands, and answers what it has answered with the same bytes.
        late: devices whose reply came after its round was over, with the round, in the order of arrival.
        sent, received: bytes of the letters so far.
        saved: bytes that replies took less because their updates were packed.
    """

    grid: Grid
    numbers: Mapping[str, int]
    describe: Callable[[Work], Mapping[str, Any] | None]
    sign: Callable[[bytes], bytes]
    home: Engine
    deadline: float | None = None
    enough: int | None = None
    tries: int = 3
    edge: int = 0
    activated: Callable[[], Mapping[str, str]] = dict
    late: list[tuple[str, int]] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    saved: int = 0
    _mails: dict[str, RecordDict] = field(default_factory=dict)
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
        started, came = time.monotonic(), self.activated()
        waiting = self._send(devices, table, message, keep)
        refusals: list[str] = []
        for device in devices:
            if device.identity not in waiting.values():
                yield Reply(device.identity, message.round, missing="could not be reached")
        answered = 0
        for identity, mail in self._collect(waiting, started, message.round, came):
            reply = _read(identity, mail, message)
            self.received += _size(mail)
            self.saved += size_in_bytes(reply.tensors.values()) - size_in_bytes(pack_all(reply.tensors).values())
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
        self._mails = {}
        for device in devices:
            if device.identity in self.numbers:
                fields = {
                    "device": device.identity,
                    "round": message.round,
                    "base": message.base,
                    "taken": _taken(message, device.identity),
                    "edge": self.edge,
                    "keep": None if keep is None else vars(keep),
                    "work": table,
                }
                head = head_of(fields, base.tensors)
                sealed = Letter(head, base.tensors, self.sign(head))
                self.sent += len(head) + len(base.tensors)
                self._mails[device.identity] = to_records(sealed)
        return self._push(list(self._mails), message.round)

    def _push(self, identities: Sequence[str], round: int) -> dict[str, str]:
        """Sends devices their mail of this round, more often if need be; returns identities by numbers of messages."""
        waiting: dict[str, str] = {}
        for attempt in range(self.tries):
            left = [identity for identity in identities if identity not in waiting.values()]
            if not left:
                break
            time.sleep(min(attempt, 5))
            letters = [
                Mail(
                    self._mails[identity],
                    dst_node_id=self.numbers[identity],
                    message_type="train",
                    ttl=(self.deadline or LONGEST) + 60,
                    group_id=str(round),
                )
                for identity in left
            ]
            try:
                numbers = list(self.grid.push_messages(letters))
            except httpx.HTTPError:
                continue
            waiting |= {number: identity for number, identity in zip(numbers, left, strict=False) if number}
        return waiting

    def _collect(
        self, waiting: dict[str, str], started: float, round: int, came: Mapping[str, str]
    ) -> Iterator[tuple[str, Mail]]:
        """Yields replies as they arrive and takes them off ``waiting``, until the deadline."""
        until = started + (self.deadline or LONGEST)
        pause, looked = PAUSE / 4, time.monotonic()
        while waiting and time.monotonic() < until:
            if time.monotonic() - looked > LOOK:
                came, looked = self._ask_again(waiting, round, came), time.monotonic()
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

    def _ask_again(self, waiting: dict[str, str], round: int, came: Mapping[str, str]) -> Mapping[str, str]:
        """Sends the round's message again to devices that have come anew; returns when each came last."""
        try:
            now = self.activated()
        except PrivetError:
            return came  # the next look may find it
        anew = [identity for identity in waiting.values() if now.get(identity) != came.get(identity)]
        if anew:
            fresh = self._push(anew, round)
            for number in [number for number, identity in waiting.items() if identity in fresh.values()]:
                del waiting[number]
            waiting |= fresh
        return now


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
        packed, seen = found.states("tensors", "seen")
        most = VECTORS * sum(value.numel() for value in message.tensors.values())
        return Reply(
            identity,
            int(head["round"]),
            tensors=unpack_all(packed, most),
            seen=seen,
            fields={str(name): float(value) for name, value in head["fields"].items()},
            traffic=[_traffic(entry, identity, message.round) for entry in head["traffic"]],
            base=str(head["base"]),
            kept={ROUND: tensor(message.round)} if head["kept"] else {},
        )
    except (PrivetError, KeyError, ValueError, TypeError, AttributeError) as error:
        return Reply(identity, message.round, missing=f"malformed: {error}"[:300])
