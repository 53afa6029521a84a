"""Transactions: what people ask of the chain, signed over canonical bytes.

==========  ============  =========================================================================
kind        sent by       what it says
==========  ============  =========================================================================
task        manufacturer  train this model: rule, rounds, places for customers, blocks a round stays open
enrol       customer      take me into the task; the manufacturer's admission is inside
update      customer      my update of this round lies under this content address
verdict     miner         the score of each update of the round
model       miner         the new global model lies under this content address
settle      miner         the reputations and rewards of the round
void        miner         too few updates came in time: the round passes without a model
claim       customer      pay my reward of this round
pay         anybody       give tokens to somebody, as for a manufacturer's service
evidence    anybody       these two votes of one miner contradict each other
refute      anybody       this signed verdict or model of a miner is not what came of the round
epoch       miner         from now on, seal for this key of mine
upgrade     miner         I ask for the rules of this version from this height on
==========  ============  =========================================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from privet.crypto.signatures import public_key, sign, verify
from privet.errors import InputError
from privet.ledger.content import PROFILES
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, binary, cid, digest, key, one_of, read, rows, signature, text, whole

MAX_BYTES = 1 << 18
"""Longest transaction; what is larger belongs into the content store."""

MAX_REFUTE = MAX_BYTES + (1 << 9)
"""Longest ``refute``: any other transaction fits into one, so that no lie is too long to be shown."""

_TASK, _ROUND, _PROFILE = whole(1), whole(1), one_of(*PROFILES)

BODIES: dict[str, dict[str, Field]] = {
    "task": {
        "model": cid,
        "profile": _PROFILE,
        "digest": digest,
        "rule": one_of("mean", "multi-krum"),
        "rounds": whole(1, 1 << 20),
        "places": whole(1, 1 << 12),
        "window": whole(1, 1 << 20),
        "max_bytes": whole(1),
    },
    "enrol": {"task": _TASK, "admission": signature},
    "update": {"task": _TASK, "round": _ROUND, "cid": cid, "profile": _PROFILE, "digest": digest, "size": whole(1)},
    "verdict": {"task": _TASK, "round": _ROUND, "scores": rows(key, binary(0, 32))},
    "model": {"task": _TASK, "round": _ROUND, "cid": cid, "profile": _PROFILE, "digest": digest},
    "settle": {
        "task": _TASK,
        "round": _ROUND,
        "reputations": rows(key, whole(), whole()),
        "rewards": rows(key, whole()),
    },
    "void": {"task": _TASK, "round": _ROUND},
    "claim": {"task": _TASK, "round": _ROUND},
    "pay": {"to": key, "amount": whole(1)},
    "evidence": {"first": binary(1, 1 << 10), "second": binary(1, 1 << 10)},
    "refute": {"transaction": binary(1, MAX_BYTES)},
    "epoch": {"number": whole(1), "key": key},
    "upgrade": {"version": whole(2), "height": whole(1)},
}
"""The fields of each kind's body."""

_ENVELOPE: dict[str, Field] = {
    "chain": digest,
    "sender": key,
    "nonce": whole(),
    "kind": text(16),
    "body": lambda value: isinstance(value, dict),
    "signature": signature,
}


@dataclass(frozen=True)
class Transaction:
    """One signed wish.

    Attributes:
        chain: hash of the genesis of the chain it is for.
        sender: public key of who signed.
        nonce: 0, 1, 2, ... for each sender; each counts once and in order.
        kind: one of the table above.
        body: the fields of its kind.
        signature: Ed25519 over everything else.
    """

    chain: bytes
    sender: bytes
    nonce: int
    kind: str
    body: dict[str, Value] = field(hash=False)
    signature: bytes = b""

    @classmethod
    def signed(cls, secret: bytes, chain: bytes, nonce: int, kind: str, body: dict[str, Value]) -> Transaction:
        """Returns a transaction signed with a secret seed of 32 bytes.

        Raises:
            InputError: the body does not fit its kind.
        """
        bare = cls(chain, public_key(secret), nonce, kind, body)
        made = cls(chain, bare.sender, nonce, kind, body, sign(secret, _PURPOSE, encode(bare._signed_part())))
        return cls.decode(made.encode())

    @classmethod
    def decode(cls, data: bytes) -> Transaction:
        """Returns the transaction whose one encoding ``data`` is; its signature is not checked here.

        Raises:
            InputError: too long, not canonical, of an unknown kind, or a field is wrong.
        """
        if len(data) > MAX_REFUTE:
            raise InputError(f"a transaction of {len(data)} bytes is oversize", allowed=f"up to {MAX_BYTES}")
        table = read("transaction", decode(data), _ENVELOPE)
        if len(data) > MAX_BYTES and table["kind"] != "refute":
            raise InputError(f"a transaction of {len(data)} bytes is oversize", allowed=f"up to {MAX_BYTES}")
        if table["kind"] not in BODIES:
            raise InputError(f"no transaction of kind {table['kind']!r}", allowed=", ".join(BODIES))
        read(table["kind"], table["body"], BODIES[table["kind"]])
        made = cls(**table)
        vars(made)["_encoded"] = data  # the one encoding: nobody needs to work it out again
        return made

    def encode(self) -> bytes:
        """Returns the canonical bytes; worked out once."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        return encode({**self._signed_part(), "signature": self.signature})

    @cached_property
    def id(self) -> bytes:
        """sha256 of the canonical bytes."""
        return hashlib.sha256(self.encode()).digest()

    @cached_property
    def authentic(self) -> bool:
        """Whether the signature is the sender's."""
        return verify(self.sender, _PURPOSE, encode(self._signed_part()), self.signature)

    def _signed_part(self) -> dict[str, Value]:
        return {
            "chain": self.chain,
            "sender": self.sender,
            "nonce": self.nonce,
            "kind": self.kind,
            "body": self.body,
        }


FINDINGS = ("verdict", "model", "settle")
"""Kinds by which a miner says what a round gave. They never wait for others: who leads writes its own."""

_PURPOSE = "privet/transaction/1"
_ADMISSION = "privet/admission/1"


def admit(secret: bytes, chain: bytes, task: int, customer: bytes) -> bytes:
    """Returns the manufacturer's signature that lets one customer enrol in one task."""
    return sign(secret, _ADMISSION, encode([chain, task, customer]))


def admitted(manufacturer: bytes, chain: bytes, task: int, customer: bytes, admission: bytes) -> bool:
    """Returns whether ``admission`` is the manufacturer's for this customer and task."""
    return verify(manufacturer, _ADMISSION, encode([chain, task, customer]), admission)


def binding(chain: bytes, task: int, round: int, customer: bytes, content: bytes) -> bytes:
    """Returns the digest that an update carries: of its content and of whose it is.

    Who copies another's content address can't make this digest without the content; who has the
    content of a round can't reuse it in another.

    Args:
        chain: hash of the genesis.
        task: number of the task.
        round: the round the update is for.
        customer: the sender's public key.
        content: sha256 of the update's plain bytes.
    """
    return hashlib.sha256(encode(["privet/update/1", chain, task, round, customer, content])).digest()
