"""How miners' messages travel: canonical bytes, bounded before anything is built from them.

What is decoded is well-formed and nothing more; whether it is authentic and fits is for the consensus to check. A lock
holds a block and votes and no further lock, so nothing nests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from privet.errors import InputError
from privet.ledger.blocks import MAX_BYTES, Block
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, binary, key, one_of, read, whole
from privet.ledger.genesis import MINERS
from privet.ledger.messages import Final, Lock, Message, Opening, Proposal
from privet.ledger.votes import Certificate, Vote

LIMIT = MAX_BYTES + (1 << 18)
"""Longest message, and longest batch of messages: a block with its votes."""

BATCH = 64
"""Messages that travel together at most."""

_VOTE, _CERTIFICATE, _BLOCK = binary(1, 1 << 10), binary(1, 1 << 15), binary(1, MAX_BYTES)


def _lock(value: Value) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and _BLOCK(value[0]) and _CERTIFICATE(value[1])
    )


def _votes(value: Value) -> bool:
    return isinstance(value, list) and len(value) <= MINERS and all(map(_VOTE, value))


_FIELDS: dict[str, dict[str, Field]] = {
    "opening": {
        "miner": key,
        "height": whole(1),
        "period": whole(),
        "proof": binary(80),
        "entry": _votes,
        "lock": _lock,
    },
    "proposal": {
        "block": _BLOCK,
        "vote": _VOTE,
        "proof": binary(80),
        "certificate": lambda value: value is None or _CERTIFICATE(value),
    },
    "vote": {"vote": _VOTE},
    "final": {"block": _BLOCK, "certificate": _CERTIFICATE},
}
_KIND = one_of(*_FIELDS)


def encode_message(message: Message) -> bytes:
    """Returns the canonical bytes of a message."""
    return encode(_table(message))


def decode_message(data: bytes) -> Message:
    """Returns the message that ``data`` is the one encoding of.

    Raises:
        InputError: it is longer than :data:`LIMIT`, or no message.
    """
    if len(data) > LIMIT:
        raise InputError(f"a message of {len(data)} bytes is oversize", allowed=f"up to {LIMIT}")
    value = decode(data)
    if not isinstance(value, list) or len(value) != 2 or not _KIND(value[0]):
        raise InputError("no message", allowed=f"a kind ({', '.join(_FIELDS)}) and its fields")
    kind: Any = value[0]
    return _BUILD[kind](read(kind, value[1], _FIELDS[kind]))


def encode_batch(messages: Iterable[bytes]) -> bytes:
    """Returns the bytes of several encoded messages."""
    return encode(list(messages))


def decode_batch(data: bytes) -> list[Message]:
    """Returns the messages of a batch, all or none.

    Raises:
        InputError: it is too long, holds none or more than :data:`BATCH`, or one of them is wrong.
    """
    if len(data) > LIMIT + 16 * BATCH:
        raise InputError(f"a batch of {len(data)} bytes is oversize", allowed=f"up to {LIMIT + 16 * BATCH}")
    listed = decode(data)
    if not isinstance(listed, list) or not 0 < len(listed) <= BATCH:
        raise InputError("no batch of messages", allowed=f"1 to {BATCH} messages")
    return [decode_message(each if type(each) is bytes else b"") for each in listed]


def encode_final(final: Final | None) -> bytes:
    """Returns the bytes of a final block, or none where there is no such block."""
    return b"" if final is None else encode_message(final)


def decode_final(data: bytes) -> Final | None:
    """Returns what :func:`encode_final` wrote.

    Raises:
        InputError: the bytes are anything else.
    """
    message = decode_message(data) if data else None
    if message is not None and not isinstance(message, Final):
        raise InputError("another message than a final block")
    return message


def _table(message: Message) -> Value:
    match message:
        case Opening():
            lock: Value = None
            if message.lock is not None:
                lock = [message.lock.block.encode(), message.lock.certificate.encode()]
            entry: list[Value] = [vote.encode() for vote in message.entry]
            return ["opening", {**vars(message), "entry": entry, "lock": lock}]
        case Proposal():
            fields: dict[str, Value] = {
                "block": message.block.encode(),
                "vote": message.vote.encode(),
                "proof": message.proof,
                "certificate": None if message.certificate is None else message.certificate.encode(),
            }
            return ["proposal", fields]
        case Vote():
            return ["vote", {"vote": message.encode()}]
        case _:
            return ["final", {"block": message.block.encode(), "certificate": message.certificate.encode()}]


def _opening(table: dict[str, Any]) -> Message:
    entry = tuple(Vote.decode(vote) for vote in table["entry"])
    lock = None
    if table["lock"] is not None:
        block, certificate = table["lock"]
        lock = Lock(Block.decode(block), Certificate.decode(certificate))
    return Opening(table["miner"], table["height"], table["period"], table["proof"], entry, lock)


def _proposal(table: dict[str, Any]) -> Message:
    certificate = None if table["certificate"] is None else Certificate.decode(table["certificate"])
    return Proposal(Block.decode(table["block"]), Vote.decode(table["vote"]), table["proof"], certificate)


_BUILD: dict[str, Callable[[dict[str, Any]], Message]] = {
    "opening": _opening,
    "proposal": _proposal,
    "vote": lambda table: Vote.decode(table["vote"]),
    "final": lambda table: Final(Block.decode(table["block"]), Certificate.decode(table["certificate"])),
}
