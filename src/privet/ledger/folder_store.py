"""A folder of contents by address: written whole or not at all, and checked whenever they are read."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from privet.errors import ContentError
from privet.ledger.content import DEFAULT, chunks, cid_of, cid_of_chunks, decode_cid, profile_of
from privet.transport.durable import sync_folder


class FolderStore:
    """Contents in a folder: ``PROFILE/LAST TWO LETTERS/ADDRESS``.

    Several processes may share it. Nothing that it hands out is other than its address says. A crash can leave a file
    whose name begins with ``.part-``, which nobody reads.

    Args:
        folder: made when something is first put there.
        profile: how addresses are worked out; stores with other profiles may share the folder.

    Raises:
        ContentError: there is no such profile.
    """

    def __init__(self, folder: Path, profile: str = DEFAULT) -> None:
        self.folder = folder
        self.profile = profile_of(profile)

    def put(self, data: bytes) -> str:
        """Stores bytes and returns their address, once they are on the disk."""
        return self._store(io.BytesIO(data))

    def put_file(self, path: Path) -> str:
        """Stores a copy of a file and returns its address, once it is on the disk; holds one chunk at a time.

        Raises:
            ContentError: ``path`` is not a file.
        """
        if not path.is_file():
            raise ContentError(f"{path} is not a file")
        with path.open("rb") as file:
            return self._store(file)

    def get(self, cid: str) -> bytes:
        """Returns the bytes of an address.

        Raises:
            ContentError: it is no address, nothing is stored under it, or what is stored is something else.
        """
        place = self._place(cid)
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            raise ContentError(f"no content {cid} in {self.folder}", do="bring it, then try again") from None
        if cid_of(data, self.profile.name) != cid:
            raise ContentError(
                f"the content {cid} in {self.folder} is damaged", do=f"delete {place}, then bring it again"
            )
        return data

    def has(self, cid: str) -> bool:
        """Returns whether something is stored under an address, without reading it.

        Raises:
            ContentError: it is no address.
        """
        return self._place(cid).is_file()

    def open(self, cid: str) -> BinaryIO:
        """Opens what is stored under an address, unchecked, for whoever hands it on in pieces.

        Raises:
            ContentError: it is no address, or nothing is stored under it.
        """
        try:
            return self._place(cid).open("rb")
        except FileNotFoundError:
            raise ContentError(f"no content {cid} in {self.folder}", do="ask another miner") from None

    def _place(self, cid: str) -> Path:
        decode_cid(cid)  # an address that a stranger sent becomes a path
        return self.folder / self.profile.name / cid[-2:] / cid

    def _store(self, source: BinaryIO) -> str:
        shelf = self.folder / self.profile.name
        shelf.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=shelf)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                cid = cid_of_chunks(_copied(chunks(source, self.profile), file), self.profile)
                file.flush()
                os.fsync(file.fileno())
            place = self._place(cid)
            place.parent.mkdir(exist_ok=True)
            part.replace(place)  # also mends what was damaged
        finally:
            part.unlink(missing_ok=True)
        for folder in (place.parent, shelf):
            sync_folder(folder)
        return cid


def _copied(pieces: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    for piece in pieces:
        file.write(piece)
        yield piece
