"""Votes of miners, and certificates: enough votes for one block that no other can have as many.

A vote is bound to the chain's name and genesis, height, period and step, so it counts once and nowhere
else. With weights of which less than a third lies, two certificates of one height can't exist unless
a miner signs two votes that contradict each other, and those two are the proof (:func:`contradict`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privet.crypto.signatures import public_key, sign, verify
from privet.errors import InputError
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, digest, key, one_of, read, rows, text, whole
from privet.ledger.fields import signature as signature_field

STEPS = ("soft", "certify", "next")
"""The votes of a period, in their order."""

NOTHING = b""
"""What a vote names in place of a block when it is for none."""

_PURPOSE = "privet/vote/1"

_PLACE: dict[str, Field] = {
    "chain": text(64),
    "genesis": digest,
    "height": whole(1),
    "period": whole(),
    "step": one_of(*STEPS),
    "block": lambda value: value == NOTHING or digest(value),
}


@dataclass(frozen=True)
class Vote:
    """What one miner says about one height.

    Attributes:
        chain: the chain's name.
        genesis: hash of its genesis.
        height: of the block.
        period: 0, 1, ...: how often this height was tried anew.
        step: one of :data:`STEPS`.
        block: hash of the block, or :data:`NOTHING`.
        voter: the miner's public key.
        signature: the miner's, over all of the above but the voter.
    """

    chain: str
    genesis: bytes
    height: int
    period: int
    step: str
    block: bytes
    voter: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, secret: bytes, chain: str, genesis: bytes, height: int, period: int, step: str, block: bytes
    ) -> Vote:
        """Returns the vote of the miner with this secret seed of 32 bytes."""
        signature = sign(secret, _PURPOSE, encode([chain, genesis, height, period, step, block]))
        return cls(chain, genesis, height, period, step, block, public_key(secret), signature)

    def authentic(self) -> bool:
        """Returns whether the signature is the voter's."""
        place: Value = [self.chain, self.genesis, self.height, self.period, self.step, self.block]
        return verify(self.voter, _PURPOSE, encode(place), self.signature)

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        return encode(dict(vars(self)))

    @classmethod
    def decode(cls, data: bytes) -> Vote:
        """Returns the vote that ``data`` is the one encoding of; its signature is not checked here.

        Raises:
            InputError: the bytes are no vote.
        """
        return cls(**read("vote", decode(data), {**_PLACE, "voter": key, "signature": signature_field}))


def contradict(first: Vote, second: Vote) -> bool:
    """Returns whether two authentic votes prove that their voter voted twice in one step for different things."""
    places = [(vote.voter, vote.chain, vote.genesis, vote.height, vote.period, vote.step) for vote in (first, second)]
    same = places[0] == places[1] and first.block != second.block
    return same and first.authentic() and second.authentic()


@dataclass(frozen=True)
class Certificate:
    """Votes for one block that weigh more than two thirds.

    Attributes:
        chain: the chain's name.
        genesis: hash of its genesis.
        height: of the block.
        period: in which the votes were cast.
        step: ``certify`` where it makes a block final.
        block: hash of the block.
        votes: (voter, signature) pairs; voters rise strictly, so none counts twice.
    """

    chain: str
    genesis: bytes
    height: int
    period: int
    step: str
    block: bytes
    votes: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, votes: list[Vote]) -> Certificate:
        """Returns the certificate that votes of one place and block make; whether it suffices is not checked here.

        Raises:
            InputError: there are none, or they are not all for the same.
        """
        places = {(vote.chain, vote.genesis, vote.height, vote.period, vote.step, vote.block) for vote in votes}
        if len(places) != 1:
            raise InputError("a certificate needs votes for one block, height, period and step")
        return cls(*places.pop(), votes=tuple(sorted((vote.voter, vote.signature) for vote in votes)))

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        return encode({**vars(self), "votes": [list(pair) for pair in self.votes]})

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Returns the certificate that ``data`` is the one encoding of; :meth:`check` says whether it suffices.

        Raises:
            InputError: the bytes are no certificate, or a voter is named twice or out of order.
        """
        table = read("certificate", decode(data), {**_PLACE, "votes": rows(key, signature_field)})
        return cls(**{**table, "votes": tuple((voter, sealed) for voter, sealed in table["votes"])})

    def check(self, weights: Mapping[bytes, int]) -> None:
        """Checks every vote, and that together they weigh strictly more than two thirds.

        Args:
            weights: voting weight of every registered miner by its key.

        Raises:
            InputError: a voter is a stranger or named twice, a signature is wrong, or the weight is too small.
        """
        if any(first[0] >= second[0] for first, second in zip(self.votes, self.votes[1:], strict=False)):
            raise InputError("certificate: a voter is named twice or out of order")
        for voter, sealed in self.votes:
            if voter not in weights:
                raise InputError(f"certificate: {voter.hex()[:16]} is no miner of this chain")
            vote = Vote(self.chain, self.genesis, self.height, self.period, self.step, self.block, voter, sealed)
            if not vote.authentic():
                raise InputError(f"certificate: the signature of {voter.hex()[:16]} is wrong")
        cast, all_of = sum(weights[voter] for voter, _ in self.votes), sum(weights.values())
        if not is_quorum(cast, all_of):
            raise InputError(f"certificate: votes of weight {cast} of {all_of}", allowed="more than two thirds")


def is_quorum(cast: int, all_of: int) -> bool:
    """Returns whether a weight is strictly more than two thirds of all.

    >>> [is_quorum(cast, 6) for cast in (4, 5)]
    [False, True]
    """
    return 3 * cast > 2 * all_of
