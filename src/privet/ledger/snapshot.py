"""Snapshots: the whole state at some heights, so that a new miner need not begin at the genesis.

The header of such a height commits to every entry of the state, and its certificate shows that miners of more than two
thirds of the weight computed the same. So a snapshot needs no trust in whoever hands it over. What it can't show are
the blocks before it: who wants those checked replays from the genesis.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from privet.errors import ContentError, InputError
from privet.ledger import state as rules
from privet.ledger.blocks import Block
from privet.ledger.encoding import decode, encode
from privet.ledger.replay import Replay
from privet.ledger.state import State
from privet.ledger.votes import Certificate
from privet.transport.durable import sync_folder

KEPT = 2
"""So many of the newest snapshots a miner keeps for others."""


def newest(height: int) -> int:
    """Returns the last height up to ``height`` that has a snapshot; 0 where there is none yet."""
    return height - height % rules.SNAPSHOTS


def pack(state: State) -> bytes:
    """Returns the canonical bytes of a state's entries; where there is a snapshot, the header holds their sha256."""
    return encode(dict(state.entries))


def begin(replay: Replay, block: Block, certificate: Certificate, data: bytes) -> None:
    """Puts a replay that stands at the genesis behind the block of a snapshot.

    Args:
        replay: at the genesis of the same chain.
        block: the block at the height of the snapshot.
        certificate: what makes it final.
        data: the packed state after it, from anybody.

    Raises:
        InputError: the height has no snapshot, or the certificate is not of this chain's miners for this block.
        ContentError: the bytes are not the state that the header commits to. The replay stays as it is, either way.
    """
    header = block.header
    if header.genesis != replay.genesis.hash or newest(header.height) != header.height:
        raise InputError(f"block {header.height} has no snapshot of this chain")
    replay.check_certificate(header, certificate)
    if hashlib.sha256(data).digest() != header.state:
        raise ContentError(f"the snapshot of height {header.height} is not the state that its header commits to")
    entries = decode(data)
    assert isinstance(entries, dict)  # noqa: S101 - miners certified it
    replay.state.restore(header.height, header.state, entries)
    replay.head, replay.seed, replay.since = header.hash, header.seed, header.height


def keep(folder: Path, state: State) -> None:
    """Writes the snapshot of a state into a chain's folder where its height has one, and drops the oldest."""
    if newest(state.height) != state.height:
        return
    write(_file(folder, state.height), pack(state))
    for path in sorted(folder.glob("snapshot-*.cbor"), key=lambda path: int(path.stem.split("-")[1]))[:-KEPT]:
        path.unlink()


def piece(folder: Path, height: int, offset: int, size: int) -> bytes:
    """Returns up to ``size`` bytes of a kept snapshot from ``offset``; none where there is no such snapshot."""
    if offset < 0:
        return b""
    try:
        with _file(folder, height).open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return b""


def write(path: Path, data: bytes) -> None:
    """Writes a file so that after a power cut it is there whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    sync_folder(path.parent)


def _file(folder: Path, height: int) -> Path:
    return folder / f"snapshot-{height:d}.cbor"
