"""Committees of more than 100 miners: drawn in public from the seed, with the exact risk that the draw fails.

Up to :data:`EVERYBODY` miners all vote, and with less than a third of the weight at fault nothing can go wrong.
Above that a committee votes for the rest. Its members are known as soon as the seed is, so that two thirds of it can
be counted; the price is the risk that too many of those at fault are drawn together, and that they know whom to
attack for one round.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import comb

from privet.errors import InputError, RefusedError
from privet.ledger.sortition import vrf_message

EVERYBODY = 100
"""Up to this many miners, all of them vote."""

ALLOWED_RISK = Fraction(1, 10**9)
"""Most that the draw of a committee may fail with."""


def quorum(weight: int) -> int:
    """Returns the smallest weight that is strictly more than two thirds of a committee's."""
    return 2 * weight // 3 + 1


def draw_committee(seed: bytes, stakes: Sequence[int], size: int) -> list[int]:
    """Returns each miner's weight in the committee of a seed: ``size`` units of stake, drawn without putting back.

    Every unit gets a hash of (seed, miner, unit), and the ``size`` smallest are drawn. Stakes are in the order of
    registration and fixed before the seed is known.

    Raises:
        InputError: there are fewer units than that.
    """
    if not 1 <= size <= sum(stakes):
        raise InputError(f"no committee of {size} of {sum(stakes)} units", allowed=f"1 to {sum(stakes)}")
    tickets = (
        (hashlib.sha256(vrf_message("committee", seed, miner, unit)).digest(), miner)
        for miner, stake in enumerate(stakes)
        for unit in range(stake)
    )
    weights = [0] * len(stakes)
    for _, miner in heapq.nsmallest(size, tickets):
        weights[miner] += 1
    return weights


def failure_risk(total: int, faulty: int, size: int) -> Fraction:
    """Returns the exact probability that a drawn committee is not safe, or does not decide.

    Hypergeometric: ``size`` of ``total`` units are drawn, of which ``faulty`` are at fault. From a third of the
    committee on, those at fault can keep the rest from a quorum, and a little above it let two blocks have one.

    Raises:
        InputError: there are fewer units than that.
    """
    if not 0 <= faulty <= total or not 1 <= size <= total:
        raise InputError(f"no committee of {size} of {total} units, {faulty} at fault")
    needed = size - quorum(size) + 1
    honest = total - faulty
    bad = sum(comb(faulty, k) * comb(honest, size - k) for k in range(needed, min(size, faulty) + 1))
    return Fraction(bad, comb(total, size))


def require_safe(total: int, faulty: int, size: int, allowed: Fraction = ALLOWED_RISK) -> Fraction:
    """Returns the risk of a committee, or refuses it.

    Raises:
        RefusedError: the risk is larger than ``allowed``.
        InputError: there are fewer units than that.
    """
    risk = failure_risk(total, faulty, size)
    if risk > allowed:
        raise RefusedError(
            f"a committee of {size} of {total} units, {faulty} at fault, fails with probability {float(risk):.2g}",
            allowed=f"at most {float(allowed):.2g}",
            do="take a larger committee",
        )
    return risk
