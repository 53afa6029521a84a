"""A miner's ways to the others: each has a queue and a thread, so that a silent peer holds up nobody else.

A peer without an address dials out and is called over that connection. Two such peers can't reach each other; what one
sends goes to all that have an address, and these pass it on. Messages prove themselves, so whoever passes them on need
not be trusted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from privet.errors import PrivetError, UnreachableError
from privet.ledger.wire import BATCH, LIMIT, encode_batch
from privet.transport.contract import Client, Peer, UnprovenError

WAITING = 512
"""Messages that wait for one peer at most; the oldest go first, and are sent again when they matter."""

TIMEOUT = 5.0
"""Seconds until a peer that does not answer is given up for this time."""


class Way(Protocol):
    """Gives the way to a peer, or None while there is none."""

    def __call__(self, peer: Peer) -> Client | None:
        """Returns it as it is now."""


class Links:
    """Sends to peers.

    Args:
        peers: signing key -> peer, of all other miners.
        way: how to reach one now.
        timeout: seconds that a call may take.
    """

    def __init__(self, peers: Mapping[bytes, Peer], way: Way, timeout: float = TIMEOUT) -> None:
        self.peers, self._way, self._timeout = dict(peers), way, timeout
        self._lines = {peer: _Line(peer, self._try, self.client) for peer in self.peers.values()}

    def send(self, method: str, body: bytes, to: bytes | None = None) -> None:
        """Queues an encoded item for one peer, or for all.

        Args:
            method: takes a batch of such items.
            body: one item.
            to: signing key of the peer; one that is not known, or None, stands for all.
        """
        peer = self.peers.get(to) if to is not None else None
        direct = peer is not None and self.client(peer) is not None
        for line in [self._lines[peer]] if peer is not None and direct else self._lines.values():
            line.put(method, body)

    def relay(self, method: str, batch: bytes, peers: frozenset[Peer]) -> None:
        """Passes a whole batch on to some peers, each in its turn."""
        for peer in peers & self._lines.keys():
            self._lines[peer].put(method, batch, whole=True)

    def client(self, peer: Peer) -> Client | None:
        """Returns the way to a peer as it is now."""
        return self._way(peer)

    def reachable(self) -> dict[str, bool]:
        """Returns of each peer whether it took what was last sent to it."""
        return {str(peer): line.reached for peer, line in self._lines.items()}

    def close(self) -> None:
        """Sends nothing more."""
        for line in self._lines.values():
            line.close()

    def _try(self, peer: Peer, method: str, body: bytes) -> bool:
        client = self.client(peer)
        if client is None:
            return False
        try:
            client.call(method, body, self._timeout)
        except (UnreachableError, UnprovenError):
            return False
        except PrivetError:
            return True  # it answered; what it does not want is dropped
        return True


class _Line:
    """What waits for one peer, and the thread that sends it."""

    def __init__(
        self, peer: Peer, send: Callable[[Peer, str, bytes], bool], client: Callable[[Peer], Client | None]
    ) -> None:
        self._peer, self._send, self._client = peer, send, client
        self.reached = False
        self._waiting: deque[tuple[str, bytes, bool]] = deque(maxlen=WAITING)
        self._more = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"privet-send-{peer}", daemon=True)
        self._thread.start()

    def put(self, method: str, body: bytes, *, whole: bool = False) -> None:
        if self._client(self._peer) is None:
            self.reached = False
            return
        with self._more:
            self._waiting.append((method, body, whole))
            self._more.notify()

    def close(self) -> None:
        with self._more:
            self._closed = True
            self._more.notify()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                method, body = self._taken()
            self.reached = self._send(self._peer, method, body)

    def _taken(self) -> tuple[str, bytes]:
        """Takes the next batch: items of one method, as many as may travel together."""
        method, body, whole = self._waiting.popleft()
        if whole:
            return method, body
        items, size = [body], len(body)
        while self._waiting and len(items) < BATCH:
            other, body, whole = self._waiting[0]
            if other != method or whole or size + len(body) > LIMIT:
                break
            self._waiting.popleft()
            items.append(body)
            size += len(body)
        return method, encode_batch(items)
