"""Asking other miners for the data key of a sealed update, when a customer wrapped it wrongly for this one.

Nothing that comes is trusted: whoever opens the content compares a key with what the content commits to.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

from privet.errors import PrivetError
from privet.ledger.content import decode_cid
from privet.ledger.encoding import encode
from privet.ledger.wishes import Wishes
from privet.transport.contract import Client

LONGEST = 64
"""Longest answer that is kept, in bytes; a data key has 32."""

_MOST = 1 << 10
_TIMEOUT = 5.0


class DataKeys:
    """The data keys that other miners gave.

    Args:
        sources: gives the ways to the other miners.
        arrived: called after a key arrived, in another thread.
    """

    def __init__(self, sources: Callable[[], Iterable[Client]], arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._guard = threading.Lock()
        self._keys: dict[str, list[bytes]] = {}
        self._wishes = Wishes("privet-data-keys", self._look, sources, _MOST)

    def ask(self, address: str) -> list[bytes]:
        """Returns what the miners last said of a content, and begins to ask them again, at most once a second."""
        with self._guard:
            found = self._keys.get(address, [])
        self._wishes.add([address])
        return found

    def close(self) -> None:
        """Asks nobody any more."""
        self._wishes.close(_TIMEOUT)

    def _look(self, address: str, clients: Iterator[Client]) -> None:
        body, told = encode({"cid": decode_cid(address)}), list[bytes]()
        for client in clients:
            # Who is away or has none is followed by the next; all are asked, since one may send a wrong key.
            with contextlib.suppress(PrivetError):
                if 0 < len(found := client.call("data-key", body, _TIMEOUT)) <= LONGEST:
                    told.append(found)
                    self._keep(address, list(told))
                    self._arrived()

    def _keep(self, address: str, told: list[bytes]) -> None:
        with self._guard:
            self._keys[address] = told
            while len(self._keys) > _MOST:
                del self._keys[next(iter(self._keys))]
