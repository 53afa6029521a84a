"""A consortium's miners in one process, in time of their own: nothing waits, and nothing is sent over a network.

It is the same state machine that runs as a process of its own (:mod:`privet.ledger.consensus`), with real signatures
and proofs. What one miner has verified, the others take as verified. All miners of a process end together, with
everything that they said, so their sign-states need not outlive it; final blocks do, in one chain on the disk.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from privet.aggregation.exact import Steps
from privet.crypto.signatures import public_key
from privet.errors import RefusedError, RunError
from privet.ledger.chain import Chain
from privet.ledger.consensus import Consensus, Tempo
from privet.ledger.messages import Event, Final, Message, Offence, Send, Start, Stopped, Timer
from privet.ledger.sealing import EpochKeys
from privet.ledger.sign_state import SignState
from privet.ledger.state import State
from privet.ledger.transactions import FINDINGS, Transaction
from privet.ledger.votes import NOTHING, Vote
from privet.study.consensus_trials import KeptReplay, Memory
from privet.study.mining import Duty
from privet.study.openings import Record, Statement, steps
from privet.study.parties import Party
from privet.study.updates import Contents

LIES = ("wrong-mean", "wrong-scores", "drops-update", "wrong-shares", "double-votes", "silent")
"""What a miner can be told to do in a simulation."""

_PATIENCE = 3_600_000
_TEMPO = Tempo(open=300, soft=900, certify=1500, move=300, again=600, begin=0)


@dataclass(frozen=True)
class Keys:
    """A miner's secrets.

    Attributes:
        signing: seed of its signing key, 32 bytes.
        vrf: seed of its VRF key, 32 bytes.
        lie: one of :data:`LIES`; "" for an honest miner.
    """

    signing: bytes
    vrf: bytes
    lie: str = ""


class LyingDuty(Duty):
    """A miner that finds what it likes; it votes for its own results only."""

    lie = ""

    def _aggregated(self, updates: list[Steps], rule: str) -> tuple[list[int], Steps]:
        dropped = [np.zeros_like(updates[0]), *updates[1:]] if self.lie == "drops-update" else updates
        return super()._aggregated(dropped, rule)

    def _outcome(self, rows: list[dict[str, Any]], rule: str) -> tuple[list[int], Steps]:
        scores, update = super()._outcome(rows, rule)
        if self.lie == "wrong-mean":
            update = update.copy()
            update[0] += 1
        if self.lie == "wrong-scores" and rule != "mean":
            scores = [scores[-1], *scores[1:-1], scores[0]]
        return scores, update


class Member:
    """One miner of the process.

    Args:
        keys: its secrets, and whether it lies.
        archive: final blocks so far.
        contents: where bytes lie; shared by all.
        epochs: its keys for sealed updates, or None.
        profile: how addresses are worked out.
        shared: whether updates come as shares.
    """

    def __init__(
        self, keys: Keys, archive: Chain, contents: Contents, epochs: EpochKeys | None, profile: str, shared: bool
    ) -> None:
        self.key, self.lie, self._secret = public_key(keys.signing), keys.lie, keys.signing
        self.chain = KeptReplay(archive.genesis)
        for height in range(1, archive.state.height + 1):
            if (final := archive.final(height)) is not None:
                self.chain.append(final.block, final.certificate)
        kind = LyingDuty if keys.lie else Duty
        self.duty = kind(self.chain, keys.signing, contents, epochs, profile, shared=shared)
        if isinstance(self.duty, LyingDuty):
            self.duty.lie = keys.lie
        self.pool: dict[bytes, Transaction] = {}
        signs = SignState(Memory(), archive.genesis, keys.signing, 0)
        self.miner = Consensus(
            self.chain,
            keys.signing,
            keys.vrf,
            signs,
            transactions=lambda: self.duty.offer(self.pool.values()),
            in_hand=self.duty.in_hand,
            tempo=_TEMPO,
        )

    def says(self, message: Message, side: bool) -> list[Message]:
        """Returns what the miner sends to one half of the others in place of a message."""
        if self.lie == "silent":
            return []
        if self.lie == "double-votes" and side and isinstance(message, Vote):
            block = NOTHING if message.block != NOTHING else bytes(32)
            place = (message.chain, message.genesis, message.height, message.period, message.step)
            return [message, Vote.signed(self._secret, *place, block)]
        return [message]

    def states(self, party: Party, step: str) -> list[Statement]:
        """Returns what the miner says in a step of opening shares."""
        if self.lie == "silent":
            return []
        said = party.say(step)
        shares = said.value
        if self.lie == "wrong-shares" and step in ("distances", "sums") and type(shares) is bytes:
            wrong = bytes([shares[0] ^ 1]) + shares[1:]
            return [Statement.signed(self._secret, said.context, step, wrong)]
        return [said]


class Committee:
    """All miners of a chain.

    Args:
        keys: the secrets of each.
        archive: the chain on the disk, which every final block is added to.
        contents: where bytes lie.
        epochs: keys for sealed updates, one for each miner in the order of ``keys``; empty where nothing is sealed.
        profile: how addresses are worked out.
        shared: whether updates come as shares.

    Attributes:
        messages: how many miners sent each other.
        periods: how many were needed in all; one for a block when nobody lies.
        customers: what customers say in a step of opening what they shared.
        opened: task and round -> what came of opening what was shared.
    """

    def __init__(
        self,
        keys: Sequence[Keys],
        archive: Chain,
        contents: Contents,
        epochs: Sequence[EpochKeys],
        profile: str,
        *,
        shared: bool = False,
    ) -> None:
        self.archive, self.messages, self.periods = archive, 0, 0
        members = [
            Member(each, archive, contents, epochs[at] if epochs else None, profile, shared)
            for at, each in enumerate(keys)
        ]
        self.members: Mapping[bytes, Member] = {member.key: member for member in members}
        for member in members:
            member.duty.ask = partial(self._data_keys, member)
        self.customers: Callable[[str, Record], list[Statement]] = lambda step, record: []
        self.opened: dict[tuple[int, int], Record] = {}
        self._now, self._order = 0, itertools.count()
        self._queue: list[tuple[int, int, bytes, Event]] = []
        for key in self.members:
            self._later(0, key, Start())

    @property
    def state(self) -> State:
        """After the last final block."""
        return self.archive.state

    @property
    def wishes(self) -> bool:
        """Whether an honest miner still has something to put on the chain, such as who lied."""
        return any(member.duty.wishes for member in self.members.values() if not member.lie)

    def submit(self, *transactions: Transaction) -> None:
        """Gives transactions to every miner."""
        for member in self.members.values():
            for one in transactions:
                if one.kind not in FINDINGS:
                    member.pool[one.id] = one
                member.duty.heard(one)

    def grow(self, done: Callable[[State], bool]) -> None:
        """Lets the miners agree on blocks until the state is as wanted.

        Raises:
            RefusedError: it does not come about: too many miners lie, or what was submitted is refused.
        """
        end = self._now + _PATIENCE
        while not done(self.state):
            if not self._queue or self._now > end:
                raise RefusedError(
                    f"the miners agree on nothing more after height {self.state.height}",
                    allowed="less than a third of them silent or lying",
                )
            self._now, _, key, event = heapq.heappop(self._queue)
            self._handle(self.members[key], event)

    def _handle(self, member: Member, event: Event) -> None:
        for action in member.miner.handle(event):
            match action:
                case Timer():
                    self._later(action.milliseconds, member.key, action.timeout)
                case Send():
                    self._send(member, action)
                case Final():
                    self._final(member, action)
                case Offence():
                    member.duty.wish("evidence", dict(action.body()))
                case Stopped():
                    raise RunError(f"a miner of this process stopped: {action.reason}")

    def _send(self, member: Member, send: Send) -> None:
        others = [send.to] if send.to is not None else [key for key in self.members if key != member.key]
        for at, other in enumerate(others):
            for message in member.says(send.message, at % 2 == 0):
                self.messages += 1
                self._later(1, other, message)

    def _final(self, member: Member, final: Final) -> None:
        if final.block.header.height == self.state.height + 1:
            self.archive.append(final.block, final.certificate)
            self.periods += final.certificate.period + 1
        for one in final.block.transactions:
            member.pool.pop(one.id, None)
        self.submit(*member.duty.grown(final.block))
        self._meet()

    def _data_keys(self, asking: Member, address: str) -> Iterator[bytes]:
        """Yields the data keys that the other miners have of a content."""
        for member in self.members.values():
            if member is not asking and member.lie != "silent" and (key := member.duty.data_key(address)) is not None:
                yield key

    def _meet(self) -> None:
        """Has the miners open what a closed round shared, once all of them have the same last block.

        Raises:
            RefusedError: too many of them say nothing, or lie.
        """
        if len({member.chain.head for member in self.members.values()}) > 1:
            return
        for task, round in next(iter(self.members.values())).duty.meetings():
            parties = {key: member.duty.party(task) for key, member in self.members.items()}
            self.opened[task, round] = next(iter(parties.values())).record
            try:
                self._open(parties)
            except RefusedError as error:
                raise RefusedError(
                    f"the miners can't open what was shared in round {round}: {error.wrong}",
                    allowed="less than a quarter of them silent or lying",
                ) from None
            for member in self.members.values():
                self.submit(*member.duty.findings())

    def _open(self, parties: Mapping[bytes, Party]) -> None:
        for step in steps(next(iter(parties.values())).record.rule):
            said = [one for key, party in parties.items() for one in self.members[key].states(party, step)]
            said += self.customers(step, next(iter(parties.values())).record)
            self.messages += len(said) * (len(parties) - 1)
            for party in parties.values():
                party.close(step, said)

    def _later(self, wait: int, key: bytes, event: Event) -> None:
        heapq.heappush(self._queue, (self._now + wait, next(self._order), key, event))
