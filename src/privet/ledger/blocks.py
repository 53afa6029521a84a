"""Blocks: a header that commits to everything, and the transactions under it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from privet.errors import InputError
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, binary, digest, key, read, whole
from privet.ledger.merkle import root
from privet.ledger.transactions import Transaction

MAX_BYTES = 1 << 23
"""Longest block."""

_HEADER: dict[str, Field] = {
    "genesis": digest,
    "height": whole(1),
    "period": whole(),
    "previous": digest,
    "root": digest,
    "state": digest,
    "seed": binary(64),
    "proposer": lambda value: value == b"" or key(value),
    "proof": lambda value: value == b"" or binary(80)(value),
}


@dataclass(frozen=True)
class Header:
    """What miners vote on.

    There is no time of day in it: clocks differ between machines, heights don't.

    Attributes:
        genesis: hash of the genesis.
        height: 1, 2, ...; the genesis stands at 0.
        period: in which the block was first proposed.
        previous: hash of the header before; of the genesis at height 1.
        root: RFC 6962 Merkle root of the encoded transactions.
        state: commitment to the state after this block.
        seed: randomness for who proposes the next block, 64 bytes.
        proposer: the miner's key; empty for the empty block that miners agree on when nobody proposes.
        proof: the proposer's VRF proof (RFC 9381) for the seed; empty where the proposer is.
    """

    genesis: bytes
    height: int
    period: int
    previous: bytes
    root: bytes
    state: bytes
    seed: bytes
    proposer: bytes
    proof: bytes

    @classmethod
    def read(cls, value: Value) -> Header:
        """Returns the header that a decoded value holds.

        Raises:
            InputError: a field is missing, unknown or wrong, or only one of proposer and proof is there.
        """
        made = cls(**read("header", value, _HEADER))
        if bool(made.proposer) != bool(made.proof):
            raise InputError("header: a proposer needs a proof, and a proof a proposer")
        return made

    @cached_property
    def hash(self) -> bytes:
        """sha256 of the canonical bytes."""
        return hashlib.sha256(encode(dict(self.table()))).digest()

    def table(self) -> dict[str, Value]:
        """Returns the fields as a value to encode."""
        return {name: getattr(self, name) for name in _HEADER}


@dataclass(frozen=True)
class Block:
    """A header and its transactions, in the order in which they count."""

    header: Header
    transactions: tuple[Transaction, ...] = ()

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        listed: list[Value] = [each.encode() for each in self.transactions]
        return encode({"header": self.header.table(), "transactions": listed})

    @classmethod
    def decode(cls, data: bytes) -> Block:
        """Returns the block that ``data`` is the one encoding of, after checking its Merkle root.

        Raises:
            InputError: too long, not canonical, a field or transaction is wrong, or the root is not theirs.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"a block of {len(data)} bytes is oversize", allowed=f"up to {MAX_BYTES}")
        parts = {"header": lambda value: True, "transactions": lambda value: isinstance(value, list)}
        table = read("block", decode(data), parts)
        header = Header.read(table["header"])
        leaves = table["transactions"]
        if not all(type(leaf) is bytes for leaf in leaves):
            raise InputError("block: a transaction is no byte string")
        if root(leaves) != header.root:
            raise InputError("block: the Merkle root is not that of its transactions")
        if not header.proposer and leaves:
            raise InputError("block: transactions without a proposer")
        return cls(header, tuple(Transaction.decode(leaf) for leaf in leaves))
