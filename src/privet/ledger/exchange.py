"""Contents between miners: handed out and taken in pieces, and fetched by whoever lacks what a block lists.

Bytes are kept only once their address is right, so it does not matter who brings them.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from privet.errors import ContentError, InputError, PrivetError, RefusedError, UnreachableError
from privet.ledger.content import PROFILES, cid_of_file, decode_cid, encode_cid
from privet.ledger.encoding import decode, encode
from privet.ledger.fields import binary, cid, one_of, read, whole
from privet.ledger.folder_store import FolderStore
from privet.ledger.transactions import Transaction
from privet.ledger.wishes import Wishes
from privet.transport.contract import Client, Peer
from privet.transport.pieces import PIECE, download, piece

LARGEST = 64 << 20
"""Longest content that is taken, in bytes."""

SPARE = 1 << 28
"""Bytes of the disk that contents leave free, for the chain and the sign-state."""

_UNDER_WAY = 64
_TIMEOUT = 20.0
_PATIENCE = 5.0

Wanted = tuple[str, str]
"""Profile and address of a content."""


def listed(transactions: Iterable[Transaction]) -> list[Wanted]:
    """Returns the contents that transactions list."""
    found = []
    for transaction in transactions:
        named, profile = transaction.body.get("cid", transaction.body.get("model")), transaction.body.get("profile")
        if isinstance(named, bytes) and isinstance(profile, str):
            found.append((profile, encode_cid(named)))
    return found


class Exchange:
    """The contents of one miner, as others see and fill them.

    Args:
        folder: of the contents.
        sources: gives the ways to the peers that may have something.
        arrived: called after something arrived, in another thread.
    """

    def __init__(self, folder: Path, sources: Callable[[], Iterable[Client]], arrived: Callable[[], None]) -> None:
        self.folder, self._arrived = folder, arrived
        self._parts = folder / ".parts"
        self._guard = threading.Condition()
        self._busy: set[str] = set()
        self._wishes = Wishes("privet-fetch", self._look, sources, most=1000)

    def missing(self, transactions: Iterable[Transaction]) -> list[Wanted]:
        """Returns which of the contents that transactions list are not here."""
        return [
            (profile, address)
            for profile, address in listed(transactions)
            if not FolderStore(self.folder, profile).has(address)
        ]

    def fetch(self, wanted: Iterable[Wanted]) -> None:
        """Begins to fetch contents, unless that was begun within the last second."""
        self._wishes.add(wanted)

    def close(self) -> None:
        """Fetches nothing more."""
        self._wishes.close(_TIMEOUT)

    # What peers call

    def content(self, peer: Peer, body: bytes) -> bytes:
        """Answers a request for a piece: profile, address and offset."""
        asked = read("content", decode(body), {"profile": one_of(*PROFILES), "cid": cid, "offset": whole()})
        with FolderStore(self.folder, asked["profile"]).open(encode_cid(asked["cid"])) as file:
            return piece(file, asked["offset"])

    def bring(self, peer: Peer, body: bytes) -> bytes:
        """Takes a piece of a content that somebody brings; answers with how many bytes are here, in 8 bytes."""
        fields = {"profile": one_of(*PROFILES), "cid": cid, "offset": whole(), "size": whole(1, LARGEST)}
        brought: dict[str, Any] = read("bring", decode(body), {**fields, "bytes": binary(0, PIECE)})
        store, address = FolderStore(self.folder, brought["profile"]), encode_cid(brought["cid"])
        if store.has(address):
            return brought["size"].to_bytes(8, "big")  # type: ignore[no-any-return]
        with self._part(brought["profile"], address) as part:
            if store.has(address):  # since then
                return brought["size"].to_bytes(8, "big")  # type: ignore[no-any-return]
            at = part.stat().st_size if part.exists() else 0
            if brought["offset"] == at and at + len(brought["bytes"]) <= brought["size"]:
                with part.open("ab") as file:
                    file.write(brought["bytes"])
                at += len(brought["bytes"])
            if at >= brought["size"]:
                self._keep(store, address, part)
        return at.to_bytes(8, "big")

    # Fetching

    def _look(self, wanted: Wanted, clients: Iterator[Client]) -> None:
        store, address = FolderStore(self.folder, wanted[0]), wanted[1]
        if store.has(address):
            return
        for client in clients:
            # Whoever hasn't got it, or sends something else, is followed by the next.
            with contextlib.suppress(PrivetError, OSError):
                self._download(client, store, address)
                self._arrived()
                return

    def _download(self, client: Client, store: FolderStore, address: str) -> None:
        with self._part(store.profile.name, address) as part:
            with part.open("ab+") as file:
                request: dict[str, Any] = {"profile": store.profile.name, "cid": decode_cid(address)}
                download(
                    client,
                    "content",
                    lambda offset: encode({**request, "offset": offset}),
                    file,
                    limit=LARGEST,
                    timeout=_TIMEOUT,
                )
            self._keep(store, address, part)

    def _keep(self, store: FolderStore, address: str, part: Path) -> None:
        try:
            if cid_of_file(part, store.profile.name) != address:
                raise ContentError(f"what was brought is not {address}", do="bring it again from its beginning")
            store.put_file(part)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _part(self, profile: str, address: str) -> Any:
        """Gives the file of what has come so far to one thread at a time.

        Raises:
            RefusedError: another thread has had it for long, or there is no room for another one.
        """
        name = f"{profile}-{address}"
        with self._guard:
            self._parts.mkdir(parents=True, exist_ok=True)
            # Others are soon done: they ask peers who haven't got it, or write a piece.
            if not self._guard.wait_for(lambda: name not in self._busy, _PATIENCE):
                raise RefusedError(f"{address} is being brought", do="wait for it")
            if shutil.disk_usage(self._parts).free < SPARE:
                raise RefusedError("the disk of this miner is nearly full", do="bring it to another miner")
            if not (self._parts / name).exists():
                self._make_room()
            self._busy.add(name)
        try:
            yield self._parts / name
        finally:
            with self._guard:
                self._busy.discard(name)
                self._guard.notify_all()

    def _make_room(self) -> None:
        # The busy ones are left alone, not even looked at: their threads take them away without the guard.
        idle = [path for path in self._parts.iterdir() if path.name not in self._busy]
        if len(idle) + len(self._busy) >= _UNDER_WAY:
            if not idle:
                raise RefusedError("too much is being brought at once", do="try again later")
            min(idle, key=lambda path: path.stat().st_mtime_ns).unlink()


def upload(client: Client, path: Path, profile: str, *, timeout: float = _TIMEOUT) -> str:
    """Brings a file to a miner, going on where an earlier attempt stopped; returns its address.

    Raises:
        InputError: the file is empty or too long.
        RefusedError: the miner takes nothing more for now.
        UnreachableError: the miner does not answer.
    """
    address, size, at = cid_of_file(path, profile), path.stat().st_size, 0
    if not 0 < size <= LARGEST:
        raise InputError(f"{path} has {size} bytes", allowed=f"1 to {LARGEST}")
    head: dict[str, Any] = {"profile": profile, "cid": decode_cid(address), "size": size}
    at = int.from_bytes(client.call("bring", encode({**head, "offset": size, "bytes": b""}), timeout), "big")
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            body = encode({**head, "offset": at, "bytes": file.read(PIECE)})
            before, at = at, int.from_bytes(client.call("bring", body, timeout), "big")
            if not before < at <= size:
                raise UnreachableError("the miner does not get further", do="try another miner")
    return address
