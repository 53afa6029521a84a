"""The engine across machines: a round's message goes to real devices over Flower's Grid, replies come as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from flwr.app import Message as Mail
from flwr.app import RecordDict
from flwr.serverapp import Grid

from privet.engines.channel import Keep
from privet.engines.contract import Engine, Message, Reply, Work
from privet.engines.flower.replies import ROUND, read_reply, size_of
from privet.engines.flower.wire import Letter, head_of, letter, to_records
from privet.engines.packing import pack_all
from privet.errors import PlanError, PrivetError, RefusedError
from privet.fleet.device import Device
from privet.tensors import size_in_bytes

LONGEST = 3600.0
"""Seconds that a device has at most where the plan sets no deadline."""

PAUSE = 0.2
"""Seconds between two looks for replies."""

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
        late: devices whose reply came when nobody waited for it, with the round, in the order of arrival.
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
    _mails: dict[str, tuple[RecordDict, int]] = field(default_factory=dict)
    _over: dict[str, tuple[str, int]] = field(default_factory=dict)
    _came: Mapping[str, str] = field(default_factory=dict)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _waiting: dict[str, str] = field(default_factory=dict)
    _arrived: dict[str, Mail | str] = field(default_factory=dict)
    _lost: dict[str, float] = field(default_factory=dict)
    _no: dict[str, str] = field(default_factory=dict)
    _someone: bool = False

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device as they arrive; who is late, gone or refuses yields one that says so.

        Raises:
            RefusedError: every device refused.
        """
        table = self.describe(work)
        if table is None or not any(device.identity in self.numbers for device in devices):
            yield from self.home.ask(devices, work, message, keep)
            return
        started, self._came, self._mails = time.monotonic(), self.activated(), {}
        waiting = self._send(devices, table, message, keep)
        values = _values(message)
        refusals: list[str] = []
        for device in devices:
            if device.identity not in waiting.values():
                yield Reply(device.identity, message.round, missing="could not be reached")
        answered = 0
        for identity, mail in self._collect(waiting, started):
            reply = self._take(identity, mail, message.round, values)
            reply.delay = time.monotonic() - started
            if _declines(reply):
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

    def send(self, devices: Sequence[Device], work: Work, message: Message) -> None:
        """Sends devices a message without waiting; :meth:`arrivals` yields what comes back.

        Raises:
            PlanError: devices elsewhere are not asked for such work.
        """
        table = self.describe(work)
        if table is None:
            raise PlanError("devices elsewhere are not asked for this work")
        if not self._asked:
            self._came = self.activated()
        reached = self._send(devices, table, message, None)
        light = replace(message, tensors={}, shared={})
        for device in devices:
            self._asked[device.identity] = Asked(light, _values(message), time.monotonic())
        lost = [device.identity for device in devices if device.identity not in reached.values()]
        self._waiting |= reached
        self._lost |= dict.fromkeys(lost, time.monotonic())

    def awaited(self) -> set[str]:
        """Returns the devices that were sent a message by :meth:`send` and have not replied."""
        return {*self._waiting.values(), *self._arrived, *self._lost}

    def arrivals(self) -> Iterator[tuple[Message, Reply]]:
        """Yields replies to what was sent, as they arrive, until none is awaited; a later call goes on.

        Raises:
            RefusedError: every device refused, and none has answered.
        """
        looked, pause = time.monotonic(), PAUSE / 4
        while self._waiting or self._arrived or self._lost:
            if time.monotonic() - looked > LOOK:
                self._ask_again(self._waiting)
                looked = time.monotonic()
            self._arrived |= dict(self._pull(self._waiting))
            self._give_up()
            pause = PAUSE / 4 if self._arrived else min(1.3 * pause, 5 * PAUSE)
            if not self._arrived:
                time.sleep(pause)
            while self._arrived:
                identity = next(iter(self._arrived))
                yield self._asked[identity].message, self._arrival(identity, self._arrived.pop(identity))

    def _arrival(self, identity: str, mail: Mail | str) -> Reply:
        """Returns the reply in a mail, or why there is none."""
        asked = self._asked[identity]
        number = asked.message.round
        reply = (
            Reply(identity, number, missing=mail)
            if isinstance(mail, str)
            else self._take(identity, mail, number, asked.values)
        )
        # What came while nobody looked, between two rounds, came in time.
        reply.delay = min(time.monotonic() - asked.since, self.deadline or LONGEST)
        if not self._someone:
            self._no |= {identity: reply.missing} if _declines(reply) else {}
            self._someone = not _declines(reply)
            if len(self._no) == len(self._asked):
                raise RefusedError(f"every device refused; {identity} {reply.missing}")
        return reply

    def _give_up(self) -> None:
        """Waits no more for devices that were asked too long ago, or could not be."""
        longest = self.deadline or LONGEST
        for identity in [one for one, since in self._lost.items() if time.monotonic() - since > LOOK]:
            del self._lost[identity]  # not at once: its tries would be over before any other device has answered
            self._arrived[identity] = "could not be reached"
        for number, identity in list(self._waiting.items()):
            asked = self._asked[identity]
            if time.monotonic() - asked.since > longest:
                del self._waiting[number]
                self._over[number] = (identity, asked.message.round)
                self._arrived[identity] = f"late: no reply within {longest:g} s"

    def _why(self, answered: int) -> str:
        if self.enough is not None and answered >= self.enough:
            return f"not needed: {self.enough} others were faster"
        return f"late: no reply within {self.deadline or LONGEST:g} s"

    def _send(
        self, devices: Sequence[Device], table: Mapping[str, Any], message: Message, keep: Keep | None
    ) -> dict[str, str]:
        """Sends a round's message; returns the identity of each device by the number of its message."""
        base = letter({}, model=message.tensors, shared=message.shared)
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
                self._mails[device.identity] = to_records(sealed), message.round
        return self._push([device.identity for device in devices if device.identity in self.numbers])

    def _push(self, identities: Sequence[str]) -> dict[str, str]:
        """Sends devices their mail, more often if need be; returns identities by numbers of messages."""
        waiting: dict[str, str] = {}
        for attempt in range(self.tries):
            left = [identity for identity in identities if identity not in waiting.values()]
            if not left:
                break
            time.sleep(min(attempt, 5))
            letters = [
                Mail(
                    self._mails[identity][0],
                    dst_node_id=self.numbers[identity],
                    message_type="train",
                    ttl=(self.deadline or LONGEST) + 60,
                    group_id=str(self._mails[identity][1]),
                )
                for identity in left
            ]
            try:
                numbers = list(self.grid.push_messages(letters))
            except httpx.HTTPError:
                continue
            waiting |= {number: identity for number, identity in zip(numbers, left, strict=False) if number}
        return waiting

    def _collect(self, waiting: dict[str, str], started: float) -> Iterator[tuple[str, Mail]]:
        """Yields replies as they arrive and takes them off ``waiting``, until the deadline."""
        until = started + (self.deadline or LONGEST)
        pause, looked = PAUSE / 4, time.monotonic()
        while waiting and time.monotonic() < until:
            if time.monotonic() - looked > LOOK:
                self._ask_again(waiting)
                looked = time.monotonic()
            before = len(waiting)
            yield from self._pull(waiting)
            if len(waiting) == before:
                time.sleep(min(pause, max(0.0, until - time.monotonic())))
                pause = min(1.3 * pause, 5 * PAUSE)

    def _pull(self, waiting: dict[str, str]) -> Iterator[tuple[str, Mail]]:
        """Yields what has arrived, one by one taken off ``waiting``; counts what nobody waits for any more."""
        try:
            mails = list(self.grid.pull_messages([*waiting, *self._over]))
        except httpx.HTTPError:
            return  # the next look may find it
        for mail in mails:
            number = mail.metadata.reply_to_message_id
            if number in self._over:
                self.late.append(self._over.pop(number))
            elif number in waiting:
                yield waiting.pop(number), mail

    def _ask_again(self, waiting: dict[str, str]) -> None:
        """Sends the message again to devices that have come anew."""
        try:
            came, self._came = self._came, self.activated()
        except PrivetError:
            return  # the next look may find it
        anew = [identity for identity in waiting.values() if self._came.get(identity) != came.get(identity)]
        if anew:
            fresh = self._push(anew)
            for number in [number for number, identity in waiting.items() if identity in fresh.values()]:
                del waiting[number]
            waiting |= fresh

    def _take(self, identity: str, mail: Mail, round: int, values: int) -> Reply:
        """Returns the reply in a device's mail, and counts its bytes."""
        reply = read_reply(identity, mail, round, values)
        self.received += size_of(mail)
        self.saved += size_in_bytes(reply.tensors.values()) - size_in_bytes(pack_all(reply.tensors).values())
        return reply


@dataclass(frozen=True)
class Asked:
    """What a device was sent that answers in its own time.

    Attributes:
        message: without its tensors.
        values: in the model.
        since: when, by the monotonic clock.
    """

    message: Message
    values: int
    since: float


PAST = "round"
"""The kind of refusal of a round that a device is past; it says nothing against the run."""


def _declines(reply: Reply) -> bool:
    """Whether a device says no to the run."""
    return reply.refusal not in ("", PAST)


def _values(message: Message) -> int:
    return sum(value.numel() for value in message.tensors.values())


def _taken(message: Message, identity: str) -> int:
    """Returns of which round the memory is that a device goes on with; 0 for none."""
    known = message.memory.get(identity, {})
    return int(known[ROUND]) if ROUND in known else 0
