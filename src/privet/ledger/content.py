"""Content addresses: the CIDv1 that IPFS gives a file, worked out without IPFS.

A file is cut into chunks; each chunk is a block of raw bytes; blocks are linked, a fixed number at a time, by UnixFS
nodes of a balanced tree whose leaves all lie equally deep; the address is the sha256 of the root. So the address
depends on the bytes and on two numbers, chunk size and links of a node, which have a name: the profile. Store the
profile's name beside the address. Bytes that fit one chunk have one address under every profile.

References: multiformats CIDv1; IPLD dag-pb (canonical: links before data); UnixFS v1; IPIP-499 for the profiles.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from privet.errors import ContentError, nearest

RAW, DAG_PB = 0x55, 0x70
"""Codecs: a block of bytes as they are, and a node with links."""

_HEADS = {codec: bytes([1, codec, 0x12, 32]) for codec in (RAW, DAG_PB)}
CID_BYTES = 36


@dataclass(frozen=True)
class Profile:
    """How a file becomes a tree.

    Attributes:
        name: stored beside each address.
        chunk: bytes in a leaf.
        links: most links in a node.
    """

    name: str
    chunk: int
    links: int


PROFILES = {
    profile.name: profile
    for profile in (Profile("unixfs-v0-2015", 256 * 1024, 174), Profile("unixfs-v1-2025", 1024 * 1024, 1024))
}
"""Chunk size and links of IPIP-499's two profiles. Both give CIDv1 with raw leaves here, as ``ipfs add
--cid-version=1`` does; IPIP-499 itself writes the older one's addresses as CIDv0 with wrapped leaves."""

DEFAULT = "unixfs-v0-2015"


def profile_of(name: str) -> Profile:
    """Returns the profile of a name.

    Raises:
        ContentError: there is none.
    """
    if name not in PROFILES:
        raise ContentError(f"no profile called {name!r}", allowed=", ".join(PROFILES), do=nearest(name, list(PROFILES)))
    return PROFILES[name]


def cid_of(data: bytes, profile: str = DEFAULT) -> str:
    """Returns the address of bytes.

    Raises:
        ContentError: there is no such profile.
    """
    shape = profile_of(profile)
    return cid_of_chunks(chunks(io.BytesIO(data), shape), shape)


def cid_of_file(path: Path, profile: str = DEFAULT) -> str:
    """Returns the address of a file, holding one chunk of it at a time.

    Raises:
        ContentError: there is no such profile, or ``path`` is no file.
    """
    shape = profile_of(profile)
    if not path.is_file():
        raise ContentError(f"{path} is not a file")
    with path.open("rb") as file:
        return cid_of_chunks(chunks(file, shape), shape)


def chunks(file: BinaryIO, profile: Profile) -> Iterator[bytes]:
    """Yields what is left of a file in chunks of the profile."""
    while chunk := file.read(profile.chunk):
        yield chunk


def cid_of_chunks(pieces: Iterable[bytes], profile: Profile) -> str:
    """Returns the address of what :func:`chunks` yields, for whoever also does something else with each chunk."""
    level = [_Block(_cid(RAW, piece), len(piece), len(piece)) for piece in pieces]
    level = level or [_Block(_cid(RAW, b""), 0, 0)]
    while len(level) > 1:
        level = [_node(level[at : at + profile.links]) for at in range(0, len(level), profile.links)]
    return encode_cid(level[0].cid)


def encode_cid(cid: bytes) -> str:
    """Returns an address as text: base32 in small letters, after a ``b``."""
    return "b" + base64.b32encode(cid).decode("ascii").lower().rstrip("=")


def decode_cid(text: str) -> bytes:
    """Returns the 36 bytes of an address: 1, codec, 0x12, 32, sha256. Compare addresses by these.

    Raises:
        ContentError: it is not a CIDv1 in base32 of a raw block or dag-pb node, hashed by sha256; or it is written
            in another way than :func:`encode_cid` writes it.
    """
    upper = text[1:].upper()
    try:
        cid = base64.b32decode(upper + "=" * (-len(upper) % 8))
    except ValueError:
        cid = b""
    if len(cid) != CID_BYTES or cid[:4] not in _HEADS.values() or encode_cid(cid) != text:
        raise ContentError(f"{text[:80]!r} is not an address", allowed="CIDv1 in base32: raw or dag-pb, sha2-256")
    return cid


@dataclass(frozen=True)
class _Block:
    """What a link says of a block: its address, the file's bytes below it, the bytes of all blocks below it."""

    cid: bytes
    content: int
    stored: int


def _cid(codec: int, block: bytes) -> bytes:
    return _HEADS[codec] + hashlib.sha256(block).digest()


def _node(below: list[_Block]) -> _Block:
    content = sum(block.content for block in below)
    unixfs = b"\x08\x02" + _number(3, content) + b"".join(_number(4, block.content) for block in below)
    links = (_bytes(1, block.cid) + _bytes(2, b"") + _number(3, block.stored) for block in below)
    block = b"".join(_bytes(2, link) for link in links) + _bytes(1, unixfs)
    return _Block(_cid(DAG_PB, block), content, len(block) + sum(each.stored for each in below))


def _bytes(field: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    """A protobuf field that is a number."""
    return bytes([field << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
