"""What a chain starts from: who may vote, who may post tasks, and the rules of the economy.

Its hash is part of every header, vote and transaction, so nothing of one chain counts on another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from privet.crypto.ecvrf import valid_key
from privet.errors import InputError
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import LIMIT, Field, key, read, rows, text, whole

MINERS = 100
"""Up to so many miners everybody votes; above that a committee is needed, which is not built yet."""


def _miners(value: Value) -> bool:
    listed = rows(key, key, whole(1, 1000), whole(1, 1000))
    return isinstance(value, list) and 0 < len(value) <= MINERS and listed(value)


_GENESIS: dict[str, Field] = {
    "name": text(64),
    "miners": _miners,
    "manufacturers": rows(key, whole()),
    "h": whole(0, 1000),
    "gamma_max": whole(0, 1000),
    "kappa": whole(1, 1000),
    "f": whole(0, 1000),
}


@dataclass(frozen=True)
class Miner:
    """Somebody who checks, aggregates and votes.

    Attributes:
        key: public Ed25519 key of votes and transactions, 32 bytes.
        vrf: public key of the verifiable random function, 32 bytes; registered before any seed is known.
        stake: units that weigh in who proposes, 1 to 1,000.
        weight: units that weigh in a vote, 1 to 1,000; 1 for everybody unless the consortium says otherwise.
    """

    key: bytes
    vrf: bytes
    stake: int = 1
    weight: int = 1


@dataclass(frozen=True)
class Genesis:
    """The first state of a chain.

    Attributes:
        name: what people call the chain, at most 64 characters.
        miners: who votes, in the order of their keys.
        manufacturers: public key of each manufacturer -> the tokens it starts with; no token is made later.
        h: reputation that a customer starts with; being caught at exactly ``h`` costs all of it.
        gamma_max: the highest reputation.
        kappa: a rejected update is held against its sender when its score exceeds ``kappa`` medians.
        f: hostile updates in a round that Multi-Krum withstands; a round needs 2 f + 3 updates.

    Raises:
        InputError: a field is of the wrong type or out of range, two miners share a key, or a VRF key is unsound.

    References:
        Zhao et al., section IV.B (h, gamma_max, Multi-Krum's f) and VI.D (h = 5, gamma_max = 100).
    """

    name: str
    miners: tuple[Miner, ...]
    manufacturers: Mapping[bytes, int] = field(hash=False)
    h: int = 5
    gamma_max: int = 100
    kappa: int = 3
    f: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "miners", tuple(sorted(self.miners, key=lambda miner: miner.key)))
        read("genesis", self._table(), _GENESIS)
        if len({miner.vrf for miner in self.miners}) < len(self.miners):
            raise InputError("genesis: two miners share a VRF key")
        # Signing with a key that also proves gives it away: see privet.crypto.ecvrf.
        if {miner.vrf for miner in self.miners} & ({miner.key for miner in self.miners} | set(self.manufacturers)):
            raise InputError("genesis: a VRF key is also a signing key", do="register two keys for each miner")
        if not all(valid_key(miner.vrf) for miner in self.miners):
            raise InputError("genesis: a VRF key is no point of the prime subgroup")
        if self.h > self.gamma_max:
            raise InputError(f"genesis: h {self.h} is above gamma_max {self.gamma_max}")
        if sum(self.manufacturers.values()) >= LIMIT:
            raise InputError("genesis: the tokens", allowed="less than 2^53 in all")

    def _table(self) -> dict[str, Value]:
        return {
            "name": self.name,
            "miners": [[miner.key, miner.vrf, miner.stake, miner.weight] for miner in self.miners],
            "manufacturers": [[key, tokens] for key, tokens in sorted(self.manufacturers.items())],
            "h": self.h,
            "gamma_max": self.gamma_max,
            "kappa": self.kappa,
            "f": self.f,
        }

    def encode(self) -> bytes:
        """Returns the canonical bytes of the genesis file."""
        return encode(self._table())

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """Returns the genesis that :meth:`encode` wrote.

        Raises:
            InputError: the bytes are anything else.
        """
        table = read("genesis", decode(data), _GENESIS)
        miners = tuple(Miner(*row) for row in table.pop("miners"))
        return cls(miners=miners, manufacturers=dict(table.pop("manufacturers")), **table)

    @cached_property
    def hash(self) -> bytes:
        """sha256 of the canonical bytes."""
        return hashlib.sha256(self.encode()).digest()

    @cached_property
    def weights(self) -> dict[bytes, int]:
        """Voting weight of each miner by its key."""
        return {miner.key: miner.weight for miner in self.miners}
