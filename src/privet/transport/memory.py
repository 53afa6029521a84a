"""Services in this process: the same calls, limits and errors as over a network, without one."""

from __future__ import annotations

from privet.errors import RefusedError, UnreachableError
from privet.transport.contract import LIMIT, Peer, Service, answer, fits, opened


class Exchange:
    """Where services of this process find each other.

    A call runs in the caller's thread. ``cut`` holds pairs between which nothing goes through, for tests.
    """

    def __init__(self) -> None:
        self.services: dict[Peer, Service] = {}
        self.cut: set[frozenset[Peer]] = set()

    def client(self, caller: Peer, peer: Peer, limit: int = LIMIT) -> MemoryClient:
        """Returns the way of one peer to another, which may come later."""
        return MemoryClient(self, caller, peer, limit)


class MemoryClient:
    """The way to a peer in this process.

    Args:
        exchange: where the peer is found.
        caller: who calls.
        peer: who answers.
        limit: longest body, both ways.
    """

    def __init__(self, exchange: Exchange, caller: Peer, peer: Peer, limit: int) -> None:
        self._exchange, self._caller, self._peer, self._limit = exchange, caller, peer, limit
        self._open = True

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        """Returns the peer's answer; as :meth:`privet.transport.contract.Client.call`, but never gives up in time."""
        if not self._open:
            raise RefusedError("this client is closed")
        service = self._exchange.services.get(self._peer)
        if service is None or frozenset((self._caller, self._peer)) in self._exchange.cut:
            raise UnreachableError(f"{self._peer} does not answer")
        return fits(opened(self._peer, answer(service, self._caller, method, fits(body, self._limit))), self._limit)

    def close(self) -> None:
        """Lets the way go."""
        self._open = False
