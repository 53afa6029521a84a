"""Auditing in one run: many canaries, each in or out by a coin, and a bound on how many coins can be guessed.

It assumes nothing of the training but the claim, and needs one run only; in exchange it is loose: noise
that is halved can pass it.

References:
    Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, NeurIPS 2023, theorem 5.2 and
    appendix D.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

from privet.accounting import Guarantee
from privet.errors import InputError
from privet.evidence.canaries import Steps, Sums, canaries
from privet.evidence.claims import CONFIDENCE, Refutation, verdict
from privet.randomness import Source

_SHARES = (0.02, 0.1, 0.4)
"""Of the canaries: how many coins are guessed. All three are tried; each gets a third of the allowed error."""
_TOP = 100.0


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Returns at most how likely so many correct guesses are if the claim holds.

    >>> p_value(100, 10, 10, 0.0, 0.0) == 2.0**-10
    True

    Args:
        canaries: how many there are, each in or out by a fair coin.
        guesses: how many coins were guessed; the others were abstained from.
        correct: how many of these guesses were right.
        epsilon, delta: the claim.

    Raises:
        InputError: not 0 <= correct <= guesses <= canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise InputError(
            f"{correct} right of {guesses} guesses on {canaries} canaries",
            allowed="0 <= correct <= guesses <= canaries",
        )
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    if not delta or not correct:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    worst = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * canaries * delta * worst)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Returns the largest epsilon that so many correct guesses refute; 0 if none.

    Raises:
        InputError: as :func:`p_value`.
    """
    allowed = 1 - confidence
    if p_value(canaries, guesses, correct, 0.0, delta) >= allowed:
        return 0.0
    low, high = 0.0, 1.0
    while high < _TOP and p_value(canaries, guesses, correct, high, delta) < allowed:
        low, high = high, high + 1
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, correct, middle, delta) < allowed else (low, middle)
    return low


def refute_run(
    sums: Sums, steps: Steps, claim: Guarantee, *, rng: Source, count: int = 1000, confidence: float = CONFIDENCE
) -> Refutation:
    """Tests a claimed epsilon of a private training with one run.

    Args:
        sums: the training, as it runs.
        steps: what it says of its steps.
        claim: what is claimed of the whole training; one record, added or removed.
        rng: of coins and run.
        count: canaries.
        confidence: of the lower bound.

    Raises:
        InputError: there are fewer than 2 canaries, or more than records.
    """
    if not 2 <= count <= steps.rows:
        raise InputError(f"{count} canaries", allowed=f"2 to {steps.rows}, the records of a run")
    there = rng.child("coins").uniform((count,)) <= 0.5
    gradients = canaries(steps.rows, count, there.nonzero().flatten(), 1000.0 * steps.clipping_norm)
    order = rng.child("order").permutation(steps.rows)
    scores = steps.scores(sums(gradients[order], rng.child("noise")))[:, 1]
    each = 1 - (1 - confidence) / len(_SHARES)
    found, most, guesses = 0.0, 0.0, 0
    for share in _SHARES:
        guessed = max(2, round(share * count))
        bound = lower_bound(count, guessed, _correct(scores, there, guessed), claim.delta, each)
        most = max(most, lower_bound(count, guessed, guessed, claim.delta, each))
        found, guesses = max((found, guesses), (bound, guessed))
    method = f"one run with {count:,} canaries, {guesses:,} coins guessed (Steinke, Nasr and Jagielski 2023)"
    return verdict(
        claim.claim, claim.unit, claim.relation, claim.epsilon, claim.delta,
        found=found, confidence=confidence, method=method, trials=count, reach=most,
    )  # fmt: skip


def _correct(scores: Tensor, there: Tensor, guesses: int) -> int:
    """Returns how many guesses are right: in for the highest scores, out for the lowest."""
    order = there[torch.argsort(scores)]
    lowest, highest = guesses // 2, guesses - guesses // 2
    return int((~order[:lowest]).sum() + order[len(order) - highest :].sum())
