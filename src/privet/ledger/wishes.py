"""What a miner looks for at its peers, one thing after the other, in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from privet.transport.contract import Client

AGAIN = 1.0
"""Seconds within which a thing that was wished for is not wished for again."""

Thing = TypeVar("Thing")


class Wishes(Generic[Thing]):
    """Things to look for. Several threads may wish; what there is no room for is dropped, and may be wished for again.

    Args:
        name: of the thread.
        look: looks for one thing at peers, in that thread; it takes as many of them as it needs.
        peers: gives the ways to the peers.
        most: how many things wait at most.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[Thing, Iterator[Client]], None],
        peers: Callable[[], Iterable[Client]],
        most: int,
    ) -> None:
        self._look, self._peers = look, peers
        self._guard, self._closed = threading.Lock(), threading.Event()
        self._waiting: queue.Queue[Thing | None] = queue.Queue(maxsize=most)
        self._wished: dict[Thing, float] = {}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, things: Iterable[Thing]) -> None:
        """Wishes for things, except those that were wished for within the last :data:`AGAIN` seconds."""
        now = time.monotonic()
        with self._guard:
            self._wished = {one: at for one, at in self._wished.items() if at + AGAIN > now}
            for one in things:
                if one not in self._wished:
                    self._wished[one] = now
                    with contextlib.suppress(queue.Full):
                        self._waiting.put_nowait(one)

    def close(self, patience: float) -> None:
        """Looks for nothing more, and waits for the call that is under way."""
        self._closed.set()
        with contextlib.suppress(queue.Full):  # who has enough to do looks at the event
            self._waiting.put_nowait(None)
        self._thread.join(patience)

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None and not self._closed.is_set():
            self._look(one, self._asked())

    def _asked(self) -> Iterator[Client]:
        for peer in self._peers():
            if self._closed.is_set():
                return
            yield peer
