"""Proofs that something stands on a chain, in one file that anybody can check without the chain.

A proof holds the genesis (who may vote), the block's header, its certificate (that enough miners voted for it), the
transaction, and the Merkle path between the two (RFC 6962). Whoever knows the hash of the genesis needs nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import InputError, RunError
from privet.ledger.blocks import Block, Header
from privet.ledger.encoding import decode, encode
from privet.ledger.genesis import Genesis
from privet.ledger.merkle import inclusion_proof, verify_inclusion
from privet.ledger.replay import Replay
from privet.ledger.store import Store
from privet.ledger.transactions import Transaction
from privet.ledger.verification import CHAIN_FILE, find, genesis_bytes
from privet.ledger.votes import Certificate

FORMAT = "privet-ledger-proof/1"
"""What the field ``format`` of a proof says."""

LARGEST = 1 << 23
"""Longest file that is read as a proof, in bytes."""

_FIELDS = {
    "format": str,
    "genesis": str,
    "header": str,
    "certificate": str,
    "transaction": str,
    "index": int,
    "path": list,
}


@dataclass(frozen=True)
class Proven:
    """What a proof shows.

    Attributes:
        genesis: hash of the chain's genesis; the proof counts for as much as whoever gave you this hash.
        header: of the block in which the transaction stands.
        index: its place there, from 0.
        votes: keys of the miners that voted for the block.
        transaction: the transaction.
    """

    genesis: bytes
    header: Header
    index: int
    votes: tuple[bytes, ...]
    transaction: Transaction


def prove_transaction(run: Path, id: bytes) -> dict[str, Any]:
    """Returns the proof of a transaction as values for JSON.

    Raises:
        RunError: there is no chain, it has no such transaction, or it is damaged.
    """
    with closing(Store(find(run) / CHAIN_FILE)) as store:
        place = store.place(id)
        if place is None:
            raise RunError(f"the chain has no transaction {id.hex()}", do="run: privet ledger show RUN --json")
        return _proof(run, store, *place)


def prove_model(run: Path, task: int | None = None) -> dict[str, Any]:
    """Returns the proof of the newest global model, of one task or of any.

    Raises:
        RunError: there is no chain, it has no such model, or it is damaged.
    """
    return _newest(run, "model", lambda body: task is None or body["task"] == task)


def prove_customer(run: Path, customer: bytes) -> dict[str, Any]:
    """Returns the proof of a customer's newest reputation and reward: the settlement that names it.

    Raises:
        RunError: there is no chain, no settlement names the customer, or it is damaged.
    """
    return _newest(run, "settle", lambda body: any(row[0] == customer for row in body["reputations"]))


def check(data: bytes, genesis: bytes | None = None) -> Proven:
    """Checks a proof without the chain.

    Args:
        data: the bytes of the file.
        genesis: hash of the genesis that is trusted; None takes that of the proof, so compare it afterwards.

    Raises:
        InputError: it proves nothing; the advice says what is wrong.
    """
    table = _read(data)
    start = Genesis.decode(table["genesis"])
    if genesis is not None and start.hash != genesis:
        raise InputError(f"the proof is of another chain, {start.hash.hex()}", allowed=genesis.hex())
    header = Header.read(decode(table["header"]))
    if header.genesis != start.hash:
        raise InputError("the header is of another chain than the genesis")
    certificate = Certificate.decode(table["certificate"])
    Replay(start).check_certificate(header, certificate)
    path = table["path"]
    if not verify_inclusion(table["transaction"], table["index"], header.count, path, header.root):
        raise InputError(f"the transaction is not number {table['index']} of block {header.height}")
    transaction = Transaction.decode(table["transaction"])
    if not transaction.authentic:
        raise InputError("the signature of the transaction is wrong")
    return Proven(start.hash, header, table["index"], tuple(voter for voter, _ in certificate.votes), transaction)


def _read(data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST:
        raise InputError(f"a proof of {len(data)} bytes is oversize", allowed=f"up to {LARGEST}")
    try:
        # One map and one list: deep nesting could end the process where somebody raised the recursion limit.
        if data.count(b"{") > 1 or data.count(b"[") > 1:
            raise ValueError
        table = json.loads(data)
        if table.keys() != _FIELDS.keys() or not all(type(table[name]) is kind for name, kind in _FIELDS.items()):
            raise ValueError
        if table["format"] != FORMAT:
            raise InputError(f"a proof in the format {table['format'][:80]!r}", allowed=FORMAT)
        hexadecimal = {name: bytes.fromhex(table[name]) for name in ("genesis", "header", "certificate", "transaction")}
        return {**table, **hexadecimal, "path": [bytes.fromhex(each) for each in table["path"]]}
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError):
        raise InputError("this is no proof", allowed=f"JSON that holds exactly: {', '.join(_FIELDS)}") from None


def _newest(run: Path, kind: str, fits: Any) -> dict[str, Any]:
    with closing(Store(find(run) / CHAIN_FILE)) as store:
        for height, block in _backwards(store):
            for index in reversed(range(len(block.transactions))):
                transaction = block.transactions[index]
                if transaction.kind == kind and fits(transaction.body):
                    return _proof(run, store, height, index)
    raise RunError(f"the chain has no such transaction of kind {kind}", do="run: privet ledger show RUN")


def _backwards(store: Store) -> Iterator[tuple[int, Block]]:
    base, (count, _) = store.base(), store.counts()
    for height in reversed(range(base, base + count - 1)):
        yield height, _stored(store, height)[0]


def _stored(store: Store, height: int) -> tuple[Block, bytes]:
    row = store.block(height)
    try:
        return Block.decode(row[0] if row else b""), row[1] if row else b""
    except (InputError, TypeError) as error:
        raise RunError(f"block {height} can't be read: {error}", do="run: privet ledger verify RUN") from None


def _proof(run: Path, store: Store, height: int, index: int) -> dict[str, Any]:
    block, certificate = _stored(store, height)
    leaves = [each.encode() for each in block.transactions]
    made = {
        "format": FORMAT,
        "genesis": genesis_bytes(find(run)).hex(),
        "header": encode(block.header.table()).hex(),
        "certificate": certificate.hex(),
        "transaction": leaves[index].hex(),
        "index": index,
        "path": [each.hex() for each in inclusion_proof(leaves, index)],
    }
    try:
        check(json.dumps(made).encode())
    except InputError as error:
        raise RunError(f"block {height} is damaged: {error}", do="run: privet ledger verify RUN") from None
    return made
