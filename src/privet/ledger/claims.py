"""What other miners claim, checked: a vote, that a period has ended, that a block is locked."""

from __future__ import annotations

from functools import lru_cache

from privet.errors import InputError
from privet.ledger.blocks import Block
from privet.ledger.genesis import Genesis
from privet.ledger.messages import Opening
from privet.ledger.votes import Certificate, Vote, is_quorum

authentic = lru_cache(maxsize=1 << 15)(Vote.authentic)
"""Returns whether a vote's signature is its voter's; what was checked once is remembered."""


def is_vote(genesis: Genesis, height: int, vote: Vote, steps: tuple[str, ...]) -> bool:
    """Returns whether a vote is authentic, of a miner of this chain, for this height and one of these steps."""
    here = (vote.chain, vote.genesis, vote.height) == (genesis.name, genesis.hash, height)
    return here and vote.voter in genesis.weights and vote.step in steps and authentic(vote)


def ends_period(genesis: Genesis, height: int, opening: Opening) -> bool:
    """Returns whether an opening shows that the period before its own has ended.

    It does with votes, certify or next, of miners of more than two thirds of the weight.
    """
    voters = {vote.voter for vote in opening.entry}
    if len(voters) != len(opening.entry) or not voters <= genesis.weights.keys():
        return False
    weight = sum(genesis.weights[voter] for voter in voters)
    return is_quorum(weight, sum(genesis.weights.values())) and all(
        vote.period == opening.period - 1 and is_vote(genesis, height, vote, ("certify", "next"))
        for vote in opening.entry
    )


def locks(genesis: Genesis, height: int, certificate: Certificate, block: Block) -> bool:
    """Returns whether a certificate holds soft votes of more than two thirds of the weight for a block."""
    place = (genesis.name, genesis.hash, height, "soft", block.header.hash)
    named = (certificate.chain, certificate.genesis, certificate.height, certificate.step, certificate.block)
    if place != named or block.header.period > certificate.period:
        return False
    try:
        certificate.check(genesis.weights)
    except InputError:
        return False
    return True
