"""From trials on two neighbouring inputs to a lower bound on epsilon, and to a claim that it refutes.

An attacker who sees an output decides for one of two neighbours, ``inside`` (the unit is there, or has
its first value) and ``outside``. Differential privacy bounds how often it can be right, so how often
it was right bounds epsilon from below. The attacker's score, its direction and its threshold are chosen
on one half of the trials; the rates of the other half get Clopper-Pearson bounds.

References:
    Jagielski, Ullman, Oprea, Auditing Differentially Private Machine Learning, NeurIPS 2020;
    Nasr et al., Tight Auditing of Differentially Private Machine Learning, USENIX Security 2023;
    Dong, Roth, Su, Gaussian Differential Privacy, JRSS B 2022, corollary 1.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from privet.accounting import Relation, Unit
from privet.errors import InputError
from privet.evidence.audit import clopper_pearson

CONFIDENCE = 0.95
CAVEAT = (
    "A claim that survives is not proved: another pair of neighbours, another score or more trials may refute it, "
    "and nothing was tested but what the method names."
)
_THRESHOLDS = 200
_NEVER = 1e6  # a lower bound above this is as good as infinite

Sides = tuple[Tensor, Tensor]
"""An attacker's scores of the trials inside and of those outside, shape (n, k) each: k ways to score."""


@dataclass(frozen=True)
class Refutation:
    """What trials say about one claimed epsilon.

    Attributes:
        claim: what is claimed to be protected, in words.
        unit, relation: of the claim.
        claimed_epsilon: the claim; None where there is no formal claim to refute.
        delta: at which epsilon is claimed.
        lower_bound: with ``confidence``, epsilon is at least this.
        confidence: that the lower bound holds, after correction for all that was selected.
        refuted: whether the lower bound exceeds the claim.
        method: how the bound was made and what it assumes.
        trials: tested trials on either side; others chose the attacker's threshold.
        reach: the largest lower bound that so many trials can ever show; a claim above it can't be refuted.
        floor: the lower bound of an attacker who guesses without seeing anything.
        caveat: what a pass does not prove.
    """

    claim: str
    unit: Unit
    relation: Relation
    claimed_epsilon: float | None
    delta: float
    lower_bound: float
    confidence: float
    refuted: bool
    method: str
    trials: int
    reach: float
    floor: float = 0.0
    caveat: str = CAVEAT

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon from two rates.

    Attributes:
        epsilon: of any mechanism with these rates.
        mu: of a mechanism that is Gaussian-DP; 0 when the rates show nothing.
        caught: lower bound of the share of trials inside that the attacker called so.
        false: upper bound of the share of trials outside that it called inside.
        trials: on the smaller side.
    """

    epsilon: float
    mu: float
    caught: float
    false: float
    trials: int


def verdict(
    claim: str, unit: Unit, relation: Relation, claimed: float, delta: float, *, found: float, confidence: float,
    method: str, trials: int, reach: float,
) -> Refutation:  # fmt: skip
    """Returns the refutation that a lower bound ``found`` on epsilon makes of a claim."""
    bound = min(found, _NEVER)
    return Refutation(
        claim, unit, relation, claimed, delta, bound, confidence, bound > claimed, method, trials, min(reach, _NEVER)
    )


def epsilon_from_rates(caught: float, false: float, delta: float) -> float:
    """Returns the epsilon below which no mechanism has these rates: log((caught - delta) / false), at least 0.

    >>> round(epsilon_from_rates(0.5, 0.1, 0.0), 3)
    1.609
    """
    if caught <= delta:
        return 0.0
    return max(0.0, math.log((caught - delta) / false)) if false > 0 else math.inf


def mu_from_rates(caught: float, false: float) -> float:
    """Returns the mu below which no Gaussian-DP mechanism has these rates, at least 0.

    >>> round(mu_from_rates(norm.cdf(1.0), norm.cdf(-1.0)), 6)
    2.0
    """
    return max(0.0, float(norm.ppf(caught) - norm.ppf(false)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Returns the epsilon of mu-Gaussian-DP at a delta.

    Raises:
        InputError: delta is not in (0, 1).

    References:
        Dong, Roth, Su, corollary 1 (the profile of Balle and Wang, ICML 2018, theorem 8).
    """
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}", allowed="0 < delta < 1, Gaussian noise has no pure epsilon")
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        tail = math.exp(min(epsilon + float(norm.logcdf(-epsilon / mu - mu / 2)), 0.0))
        return float(norm.cdf(-epsilon / mu + mu / 2)) - tail - delta

    if excess(0.0) <= 0:
        return 0.0
    top = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # the classical bound of a Gaussian tail
    return float(brentq(excess, 0.0, top + 1.0, xtol=1e-9))


def reach(trials: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Returns the largest lower bound that so many trials on either side can show: all of them right.

    >>> round(reach(600, 1e-5), 2)
    5.09
    """
    caught, false = clopper_pearson(trials, trials, confidence)[0], clopper_pearson(0, trials, confidence)[1]
    return epsilon_from_rates(caught, false, delta)


def gaussian_reach(trials: int, delta: float, confidence: float = CONFIDENCE) -> float:
    """Returns :func:`reach` for the Gaussian-DP bound."""
    caught, false = clopper_pearson(trials, trials, confidence)[0], clopper_pearson(0, trials, confidence)[1]
    return epsilon_of_mu(mu_from_rates(caught, false), delta)


def distinguish(choosing: Sides, testing: Sides, delta: float, confidence: float, *, gaussian: bool = False) -> Bound:
    """Returns the lower bound that the best score, direction and threshold of the first trials reach on the others.

    Both rates hold together with ``confidence``: each gets half of the allowed error. Only the testing
    trials enter the bound, so choosing costs nothing.

    Args:
        choosing: scores by which score, direction and threshold are chosen.
        testing: scores of fresh trials, of the same columns.
        delta: at which epsilon is bounded.
        confidence: of the bound.
        gaussian: choose for the Gaussian-DP bound, not for the one that assumes nothing.

    Raises:
        InputError: there are no trials, or a score is not finite.
    """
    if any(not len(side) or not bool(side.isfinite().all()) for side in (*choosing, *testing)):
        raise InputError("the trials gave no scores, or scores that are not finite", do="correct the mechanism")
    best = (-math.inf, 0, 1, 1, 0.0)
    for column in range(choosing[0].shape[1]):
        # High scores, or low ones, speak for the trials inside, or for those outside.
        for sign, role in itertools.product((1, -1), (1, -1)):
            one, other = ((sign * side[:, column]).double().numpy() for side in choosing[::role])
            worth, threshold = _choice(one, other, delta, gaussian)
            best = max(best, (worth, column, sign, role, threshold))
    _, column, sign, role, threshold = best
    hits, false = (int((sign * side[:, column].double() >= threshold).sum()) for side in testing[::role])
    n, m = (len(side) for side in testing[::role])
    low, high = clopper_pearson(hits, n, confidence)[0], clopper_pearson(false, m, confidence)[1]
    return Bound(epsilon_from_rates(low, high, delta), mu_from_rates(low, high), low, high, min(n, m))


def _choice(inside: np.ndarray, outside: np.ndarray, delta: float, gaussian: bool) -> tuple[float, float]:
    """Returns what the best threshold is worth, and that threshold; a rough bound will do, it is tested afterwards."""
    pooled = np.concatenate((inside, outside))
    # Scores that are equal but for rounding stay on one side of a threshold.
    slack = 1e-6 * float(np.ptp(pooled))
    levels = np.unique(np.quantile(pooled, np.linspace(0, 1, _THRESHOLDS), method="nearest")) - slack
    levels = np.append(levels, (inside.mean() + outside.mean()) / 2)
    low = _rough(1 - np.searchsorted(np.sort(inside), levels) / len(inside), len(inside), -1)
    high = _rough(1 - np.searchsorted(np.sort(outside), levels) / len(outside), len(outside), 1)
    worth = norm.ppf(low) - norm.ppf(high) if gaussian else np.log(np.maximum(low - delta, 1e-12) / high)
    at = int(np.argmax(worth))
    return float(worth[at]), float(levels[at])


def _rough(rate: np.ndarray, trials: int, side: int) -> np.ndarray:
    """Returns about where the Clopper-Pearson bounds of rates lie (Wilson's, with 3 standard errors).

    These are more than the bounds will have, so that a rare outcome is not chosen for its luck.
    """
    z = 3.0
    centre = rate + z * z / (2 * trials)
    width = z * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    clipped: np.ndarray = np.clip((centre + side * width) / (1 + z * z / trials), 1e-12, 1 - 1e-12)
    return clipped


def nothing(claim: str, unit: Unit, relation: Relation, delta: float, why: str) -> Refutation:
    """Returns the answer where there is no formal claim, or nothing here that can test it."""
    return Refutation(claim, unit, relation, None, delta, 0.0, CONFIDENCE, False, why, 0, 0.0)
