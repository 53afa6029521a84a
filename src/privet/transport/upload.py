"""Uploads over a link that is slow or often down: cut into chunks, named by content, gone on with where they broke.

The sender offers a list of the chunks' digests; the receiver says which it lacks; the sender sends these, one a call.
A call that breaks costs one chunk at most, and a process that dies costs nothing that had arrived. The sender keeps
what it owes in a folder until the receiver has it all.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import InputError, RefusedError, UnreachableError
from privet.transport.durable import replace_file

CHUNK = 4096
"""Bytes of a chunk: 3.3 s at 10 kbit/s, with 32 bytes of digest in the list."""

Call = Callable[[str, bytes], bytes]
"""Sends a method's name and bytes to the receiver, and returns its answer, or raises UnreachableError."""


@dataclass(frozen=True)
class Sent:
    """What an upload cost.

    Attributes:
        name: of the upload, sha256 of its list, hexadecimal.
        bytes: of the calls that came through.
        chunks: that had to be sent.
        broken: calls that broke.
    """

    name: str
    bytes: int
    chunks: int
    broken: int


def send(
    data: bytes, call: Call, *, chunk: int = CHUNK, most_failures: int = 1000, wait: Callable[[int], None]
) -> Sent:
    """Brings bytes to the receiver, however often the link breaks.

    Args:
        data: what to send.
        call: of the link.
        chunk: bytes of a chunk.
        most_failures: calls that may break in a row before it gives up; what arrived stays there.
        wait: waits after so many failures in a row.

    Raises:
        UnreachableError: too many calls broke in a row.
        RefusedError: the receiver refuses the upload.
    """
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    digests = [hashlib.sha256(piece).digest() for piece in pieces]
    listed = b"".join([len(data).to_bytes(8), chunk.to_bytes(4), *digests])
    name = hashlib.sha256(listed).digest()
    line = _Line(call, most_failures, wait)
    lacking: list[int] = json.loads(line("offer", listed))
    sent = len(lacking)
    while lacking:
        for number in lacking:
            line("chunk", name + number.to_bytes(4) + pieces[number])
        lacking = json.loads(line("offer", listed))
    return Sent(name.hex(), line.bytes, sent, line.broken)


class _Line:
    """A call that is tried again when it breaks; trying twice does no harm, since each names its content."""

    def __init__(self, call: Call, most_failures: int, wait: Callable[[int], None]) -> None:
        self._call, self._most, self._wait = call, most_failures, wait
        self.bytes = self.broken = 0

    def __call__(self, method: str, body: bytes) -> bytes:
        for failures in range(1, self._most + 1):
            try:
                answer = self._call(method, body)
            except UnreachableError:
                self.broken += 1
                if failures == self._most:
                    raise
                self._wait(failures)
            else:
                self.bytes += len(body)
                return answer
        raise UnreachableError("no call is allowed to break")


class Inbox:
    """The receiver's side for one sender; answers the calls of :func:`send`.

    Args:
        folder: private to this sender, made when absent.
        done: called once with the bytes and the name of each upload that is whole.
        largest: bytes of one upload.
        most: uploads that may be begun at once; the oldest is dropped for a new one.
    """

    def __init__(
        self, folder: Path, done: Callable[[bytes, str], None], *, largest: int = 2**28, most: int = 4
    ) -> None:
        self.folder, self._done, self._largest, self._most = folder, done, largest, most
        self._guard = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def answer(self, method: str, body: bytes) -> bytes:
        """Answers one call.

        Raises:
            InputError: it is malformed, or the chunk is not the one that was listed.
            RefusedError: the upload is too large.
        """
        with self._guard:  # a call that was tried again may run beside the first
            if method == "offer":
                return json.dumps(self._offer(body)).encode()
            if method == "chunk":
                return self._chunk(body)
        raise InputError("an upload knows two calls", allowed="offer, chunk")

    def _offer(self, listed: bytes) -> list[int]:
        """Returns the chunks that are lacking; hands the upload over when none is."""
        digests = self._read(listed)
        place = self.folder / hashlib.sha256(listed).hexdigest()
        if (place / "done").exists():
            return []
        if not place.is_dir():
            self._make_room()
            place.mkdir()
            replace_file(place / "list", listed)
        lacking = [number for number in range(len(digests)) if not (place / str(number)).exists()]
        if not lacking:
            data = b"".join((place / str(number)).read_bytes() for number in range(len(digests)))
            self._done(data, place.name)  # before it counts as done: a crash in between hands it over twice
            replace_file(place / "done", b"")
            for number in range(len(digests)):
                (place / str(number)).unlink()
        return lacking

    def _read(self, listed: bytes) -> list[bytes]:
        """Returns the digests in a list of chunks."""
        length, chunk, rest = int.from_bytes(listed[:8]), int.from_bytes(listed[8:12]), listed[12:]
        if length > self._largest:
            raise RefusedError(f"an upload of {length} bytes", allowed=f"{self._largest}")
        if len(listed) < 12 or not 256 <= chunk <= 2**20 or len(rest) != 32 * -(-length // chunk):
            raise InputError("this is no list of chunks")
        return [rest[at : at + 32] for at in range(0, len(rest), 32)]

    def _chunk(self, body: bytes) -> bytes:
        place, number, piece = self.folder / body[:32].hex(), int.from_bytes(body[32:36]), body[36:]
        if len(body) < 36 or not (place / "list").exists():
            raise InputError("this chunk belongs to no upload that was offered")
        if (place / "done").exists():
            return b""
        digests = self._read((place / "list").read_bytes())
        if number >= len(digests) or hashlib.sha256(piece).digest() != digests[number]:
            raise InputError(f"chunk {number} is not the one that was listed")
        replace_file(place / str(number), piece)
        return b""

    def _make_room(self) -> None:
        begun = sorted(self.folder.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in begun[: max(0, len(begun) - self._most + 1)]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()


class Outbox:
    """What a device owes, in a folder, until the receiver has it.

    Args:
        folder: made when absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, data: bytes) -> None:
        """Keeps bytes to send, through to the disk; the same bytes are kept once."""
        name = hashlib.sha256(data).hexdigest()
        if not any(path.name.endswith(name) for path in self.folder.iterdir()):
            replace_file(self.folder / f"{time.time_ns():020d}-{name}", data)

    def waiting(self) -> list[Path]:
        """Returns the files that are still owed, oldest first."""
        return sorted(path for path in self.folder.iterdir() if not path.name.endswith(".part"))

    def forward(self, call: Call, **options: Any) -> list[Sent]:
        """Sends what is owed, oldest first, and forgets each once the receiver has it.

        Args:
            call: of the link.
            options: as :func:`send` takes them.

        Raises:
            UnreachableError, RefusedError: as :func:`send`; what was not sent stays.
        """
        done = []
        for path in self.waiting():
            done.append(send(path.read_bytes(), call, **options))
            path.unlink()
        return done
