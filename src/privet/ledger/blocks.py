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
    "count": whole(),
    "state": digest,
    "seed": binary(64),
    "proposer": lambda value: value == b"" or key(value),
    "proof": lambda value: value == b"" or binary(80)(value),
    "draw": lambda value: value == b"" or binary(80)(value),
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
        count: how many transactions there are; a root alone does not say.
        state: commitment to the state after this block.
        seed: randomness for who proposes the next block, 64 bytes.
        proposer: the miner's key; empty for the empty block that miners agree on when nobody proposes.
        proof: the proposer's VRF proof (RFC 9381) for the seed; empty where the proposer is.
        draw: the proposer's VRF proof that it was drawn for this height and period; empty where the proposer is.
    """

    genesis: bytes
    height: int
    period: int
    previous: bytes
    root: bytes
    count: int
    state: bytes
    seed: bytes
    proposer: bytes
    proof: bytes
    draw: bytes

    @classmethod
    def read(cls, value: Value) -> Header:
        """Returns the header that a decoded value holds.

        Raises:
            InputError: a field is missing, unknown or wrong, or only some of proposer, proof and draw are there.
        """
        made = cls(**read("header", value, _HEADER))
        if not bool(made.proposer) == bool(made.proof) == bool(made.draw):
            raise InputError("header: a proposer needs two proofs, and proofs a proposer")
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

    def check_root(self) -> None:
        """Checks that the transactions are those of the header.

        Raises:
            InputError: their Merkle root or their number is another.
        """
        if root([each.encode() for each in self.transactions]) != self.header.root:
            raise InputError("block: the Merkle root is not that of its transactions")
        if len(self.transactions) != self.header.count:
            raise InputError("block: the count is not that of its transactions")

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
        if not header.proposer and leaves:
            raise InputError("block: transactions without a proposer")
        made = cls(header, tuple(Transaction.decode(leaf) for leaf in leaves))
        made.check_root()
        return made
