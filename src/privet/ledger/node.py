"""A miner at work: one thread owns its state machine; what comes over the network only waits in a queue for it.

What a miner does besides voting (opening updates, working out a round) is its :class:`Duty`. What others may ask of it
is the service in :mod:`privet.ledger.service`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from privet.errors import PrivetError, RefusedError
from privet.ledger.blocks import Block
from privet.ledger.chain import Chain
from privet.ledger.consensus import Consensus, Tempo
from privet.ledger.data_keys import DataKeys
from privet.ledger.encoding import Value
from privet.ledger.exchange import Exchange, listed
from privet.ledger.folder_store import FolderStore
from privet.ledger.links import Links
from privet.ledger.messages import Action, Event, Final, Look, Offence, Proposal, Send, Start, Stopped, Timeout, Timer
from privet.ledger.pool import Pool
from privet.ledger.sign_state import SignState, Storage
from privet.ledger.transactions import FINDINGS, Transaction
from privet.ledger.verification import CONTENTS
from privet.ledger.votes import Vote
from privet.ledger.wire import encode_message
from privet.transport.contract import Client

EVENTS = 8192
"""What waits for the state machine at most; more is turned away."""

_NOTICE = 0.2
"""Seconds within which a stop is noticed. A signal's handler must not touch the queue, whose lock it may interrupt."""

IDLE = Tempo(begin=5000)
"""As :class:`Tempo`, with an empty block only every 5 s. Whatever is to be done ends the wait."""


class Duty(Protocol):
    """What a miner does besides voting. Called by the thread that owns the state machine; ``data_key`` by any.

    Attributes:
        ask: set by the node: asks the other miners for the data key of a content, without waiting for the answer.
    """

    ask: Callable[[str], Iterable[bytes]]

    def in_hand(self, block: Block) -> bool:
        """Returns whether every byte that a block lists is here, opened and right; asked before each vote for it."""

    def offer(self, pool: Iterable[Transaction]) -> list[Transaction]:
        """Returns what this miner would put into a block, of what waits and of its own findings."""

    def grown(self, block: Block) -> Iterable[Transaction]:
        """Takes note of a final block; returns transactions of this miner that go to all others."""

    def heard(self, one: Transaction) -> None:
        """Takes note of another miner's finding."""

    def wish(self, kind: str, body: Mapping[str, Value]) -> None:
        """Remembers something to put into a block, such as evidence of a double vote."""

    def data_key(self, address: str) -> bytes | None:
        """Returns the data key of an update that is in a block, final or proposed; None where there is none."""


class NoDuty:
    """No task is worked on: a block is voted for when what it lists is here.

    Args:
        contents: folder of the contents.

    Attributes:
        ask: never used.
    """

    def __init__(self, contents: Path) -> None:
        self._contents = contents
        self.ask: Callable[[str], Iterable[bytes]] = lambda address: ()

    def in_hand(self, block: Block) -> bool:
        """Returns whether what a block lists is here; that it is undamaged was checked when it came."""
        return all(FolderStore(self._contents, profile).has(address) for profile, address in listed(block.transactions))

    def offer(self, pool: Iterable[Transaction]) -> list[Transaction]:
        """Returns all that waits."""
        return list(pool)

    def grown(self, block: Block) -> Iterable[Transaction]:
        """Returns nothing."""
        return ()

    def heard(self, one: Transaction) -> None:
        """Forgets it."""

    def wish(self, kind: str, body: Mapping[str, Value]) -> None:
        """Forgets it."""

    def data_key(self, address: str) -> bytes | None:
        """Returns None: it opens nothing."""
        return None


class Node:
    """One miner.

    Args:
        chain: what it has so far; opened by the thread that will run it.
        secret: seed of its signing key, 32 bytes.
        vrf_secret: seed of its VRF key, 32 bytes.
        storage: of its sign-state.
        links: the ways to the other miners.
        duty: (chain, contents' folder) -> what it does besides voting.
        tempo: how long it waits; ``begin`` is how long an idle chain rests between empty blocks.

    Attributes:
        chain: grows while the node runs.
        pool: transactions that wait.
        contents: what updates and models consist of.
        data_keys: what other miners gave to open updates with.
        duty: what it does besides voting.
        stopped: why the miner votes no more, or "".

    Raises:
        RunError: the sign-state is missing, old, damaged or another's.
    """

    def __init__(
        self,
        chain: Chain,
        secret: bytes,
        vrf_secret: bytes,
        storage: Storage,
        links: Links,
        *,
        duty: Callable[[Chain, Path], Duty] = lambda chain, contents: NoDuty(contents),
        tempo: Tempo = IDLE,
    ) -> None:
        signs = SignState(storage, chain.genesis, secret, chain.state.height)  # refuses before any thread runs
        self.chain, self.links, self.stopped = chain, links, ""
        self.pool = Pool(chain)
        self.contents = Exchange(chain.folder / CONTENTS, self._clients, self.look)
        self.duty = duty(chain, chain.folder / CONTENTS)
        self.data_keys = DataKeys(self._clients, self.look)
        self.duty.ask = self.data_keys.ask
        self.miner = Consensus(
            chain,
            secret,
            vrf_secret,
            signs,
            transactions=lambda: self.duty.offer(self.pool.listed(chain.state)),
            in_hand=self._in_hand,
            tempo=tempo,
        )
        self._events: queue.Queue[Event | Transaction] = queue.Queue(maxsize=EVENTS)
        self._timers: list[tuple[float, int, Timeout]] = []
        self._order = itertools.count()
        self._resting: Timeout | None = None
        self._held: list[Timer] = []
        self._news = False
        self._ending, self._closed = threading.Event(), False

    # For other threads

    def take(self, event: Event) -> None:
        """Queues a message for the state machine.

        Raises:
            RefusedError: too much waits already.
        """
        self._put(event)

    def submit(self, transaction: Transaction, *, spread: bool) -> None:
        """Takes a transaction into the pool, or a finding of another miner.

        Args:
            transaction: from anybody.
            spread: whether the other miners don't have it yet.

        Raises:
            InputError: it is oversize.
            RefusedError: it is stale, not authentic, ..., or too much waits.
        """
        if transaction.kind not in FINDINGS:
            if not self.pool.add(transaction):
                return
            self.contents.fetch(self.contents.missing([transaction]))
        if spread:
            self.links.send("transaction", transaction.encode())
        self._put(transaction)

    def look(self) -> None:
        """Has the state machine look again, since something arrived that it may have waited for."""
        with contextlib.suppress(queue.Full):  # it will look anyway
            self._events.put_nowait(Look())

    def stop(self) -> None:
        """Ends :meth:`run` within a fraction of a second; may be called by a signal's handler."""
        self._ending.set()

    def close(self) -> None:
        """Closes the chain and what sends and fetches, in order once nobody calls any more."""
        if not self._closed:
            self._closed = True
            self.links.close()
            self.contents.close()
            self.data_keys.close()
            self.chain.close()

    # The thread that owns the state machine

    def run(self) -> None:
        """Works until :meth:`stop`.

        Raises:
            OSError: the disk failed; the miner must be started anew.
        """
        self._handle(Start())
        while not self._ending.is_set():
            self._step()

    def _step(self) -> None:
        now = time.monotonic()
        if self._timers and self._timers[0][0] <= now:
            self._expire(heapq.heappop(self._timers)[2])
            return
        try:
            wait = self._timers[0][0] - now if self._timers else _NOTICE
            event = self._events.get(timeout=min(wait, _NOTICE))
        except queue.Empty:
            return
        if isinstance(event, Transaction):
            self._news = True
            if event.kind in FINDINGS:
                self.duty.heard(event)
            self._wake()
        else:
            vote = event.vote if isinstance(event, Proposal) else event
            if isinstance(vote, Vote) and vote.height == self.miner.height:
                self._wake()  # somebody has something to do
            self._handle(event)

    def _expire(self, due: Timeout) -> None:
        if due == self._resting:
            self._resting, held, self._held = None, self._held, []
            for timer in held:  # the times of the new period run from now
                self._set(timer)
        self._handle(due)

    def _wake(self) -> None:
        """Ends the rest between two blocks at once, if there is one."""
        if self._resting is not None:
            heapq.heappush(self._timers, (0.0, next(self._order), self._resting))

    def _handle(self, event: Event) -> None:
        actions = self.miner.handle(event)
        begins = [each.timeout for each in actions if isinstance(each, Timer) and each.timeout.name == "begin"]
        if begins:
            self._resting, self._held = begins[-1], []
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Send():
                self.links.send("message", encode_message(action.message), action.to)
            case Timer():
                rest, due = self._resting, action.timeout
                here = rest is not None and (due.height, due.period) == (rest.height, rest.period)
                if here and due.name not in ("begin", "again"):
                    self._held.append(action)
                else:
                    self._set(action)
            case Offence():
                self.duty.wish("evidence", dict(action.body()))
            case Final():
                self._grow(action.block)
            case Stopped():
                self.stopped = action.reason

    def _grow(self, block: Block) -> None:
        self.pool.drop(block)
        self.contents.fetch(self.contents.missing(block.transactions))
        for own in self.duty.grown(block):
            with contextlib.suppress(PrivetError):
                if own.kind not in FINDINGS:
                    self.pool.add(own)
                self.links.send("transaction", own.encode())
                self._news = True
        # What waits although the last block took nothing would be refused again: it must not keep an idle chain awake.
        if (self._news or block.transactions) and len(self.pool):
            self._wake()
        self._news = False

    def _in_hand(self, block: Block) -> bool:
        missing = self.contents.missing(block.transactions)
        self.contents.fetch(missing)
        return self.duty.in_hand(block)

    def _set(self, timer: Timer) -> None:
        at = time.monotonic() + timer.milliseconds / 1000
        heapq.heappush(self._timers, (at, next(self._order), timer.timeout))

    def _put(self, item: Event | Transaction) -> None:
        try:
            self._events.put_nowait(item)
        except queue.Full:
            raise RefusedError("this miner has too much to do", do="try again later") from None

    def _clients(self) -> list[Client]:
        found = [self.links.client(peer) for peer in self.links.peers.values()]
        return [client for client in found if client is not None]
