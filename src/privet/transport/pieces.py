"""What is too long for one message, piece by piece; a download that broke off goes on where it stopped.

The service answers a request that names an offset with :func:`piece`; :func:`download` asks until all is there. The
pieces are not to be believed before the whole has been checked, by its content address for example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from privet.errors import InputError, UnreachableError
from privet.transport.contract import Client

PIECE = 2 << 20
"""Longest piece in bytes."""


def piece(file: BinaryIO, offset: int, most: int = PIECE) -> bytes:
    """Returns the answer to a request for what a file has from an offset on: its size in 8 bytes, then a piece.

    Raises:
        InputError: the offset is not within the file.
    """
    size = file.seek(0, 2)
    if not 0 <= offset <= size:
        raise InputError(f"offset {offset} is outside", allowed=f"0 to {size}")
    file.seek(offset)
    return size.to_bytes(8, "big") + file.read(min(most, PIECE))


def download(
    client: Client, method: str, ask: Callable[[int], bytes], into: BinaryIO, *, limit: int, timeout: float
) -> int:
    """Appends what is missing to a file, and returns its whole size.

    Args:
        client: the way to whoever has it.
        method: which answers with :func:`piece`.
        ask: offset -> body of the request for what comes from there on.
        into: what is there of it already; opened for reading and writing.
        limit: the most bytes that are taken.
        timeout: seconds for one piece.

    Raises:
        UnreachableError: the peer went silent, or sent pieces that don't fit; what came before stays in the file.
        InputError: the peer says it is longer than ``limit``, or has not got it.
        RefusedError: the peer refused.
    """
    at, size = into.seek(0, 2), None
    while size is None or at < size:
        reply = client.call(method, ask(at), timeout)
        told, part = int.from_bytes(reply[:8], "big"), reply[8:]
        if told > limit:
            raise InputError(f"the peer offers {told} bytes", allowed=f"up to {limit}")
        if len(reply) < 8 or size not in (None, told) or at + len(part) > told or (not part and at < told):
            raise UnreachableError("the peer sent pieces that don't fit together", do="ask another peer")
        size = told
        into.write(part)
        at += len(part)
    return size
