"""The blocks of a chain as people and other programs read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from privet.errors import InputError, RunError
from privet.ledger.blocks import Block
from privet.ledger.encoding import Value, from_natural
from privet.ledger.store import Store
from privet.ledger.transactions import Transaction
from privet.ledger.verification import CHAIN_FILE, find
from privet.ledger.votes import Certificate


def blocks(run: Path) -> Iterator[dict[str, Any]]:
    """Yields each block as values that JSON can hold, oldest first; bytes are hexadecimal. Nothing is verified.

    Raises:
        RunError: there is no chain in the folder, or a block can't be read.
    """
    with closing(Store(find(run) / CHAIN_FILE)) as store:
        height = store.base() or 1  # after the snapshot that the chain began with, if it did
        while (row := store.block(height)) is not None:
            yield _block(height, *row)
            height += 1


def _block(height: int, encoded: bytes, certified: bytes) -> dict[str, Any]:
    try:
        block, certificate = Block.decode(encoded), Certificate.decode(certified)
    except (InputError, TypeError) as error:
        raise RunError(f"block {height} can't be read: {error}", do="run: privet ledger verify") from None
    votes: list[Value] = [voter for voter, _ in certificate.votes]
    return {
        "hash": block.header.hash.hex(),
        **_shown(block.header.table()),
        "certificate": _shown({"period": certificate.period, "votes": votes}),
        "transactions": [transaction(each) for each in block.transactions],
    }


def transaction(transaction: Transaction) -> dict[str, Any]:
    """Returns a transaction as values that JSON can hold; bytes are hexadecimal."""
    body = dict(transaction.body)
    if transaction.kind == "verdict":
        scores: Any = body["scores"]
        body["scores"] = [[customer, from_natural(score)] for customer, score in scores]
    return {
        "id": transaction.id.hex(),
        "kind": transaction.kind,
        "sender": transaction.sender.hex(),
        "nonce": transaction.nonce,
        "body": _shown(body),
    }


def _shown(value: Value) -> Any:
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
