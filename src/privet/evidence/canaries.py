"""Canaries in gradient space: does a private training add the noise, clip and sample as it claims?

A Dirac canary is a record whose gradient has one value that is not zero, far above the clipping norm;
every other record's gradient is zero there. An observer of every step's noisy sum scores whether the
canary is in the data. Canaries in different values don't meet, so one run is a trial of each of them;
where one sees the other's sample size, as with batches of a fixed size, it takes a run for each.

References:
    Nasr et al., Tight Auditing of Differentially Private Machine Learning, USENIX Security 2023,
    sections 4 and 5; Chua et al., How Private are DP-SGD Implementations?, ICML 2024 (batches that are
    shuffled, not sampled).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.accounting import Guarantee
from privet.errors import InputError
from privet.evidence.claims import (
    CONFIDENCE,
    Refutation,
    Sides,
    distinguish,
    epsilon_of_mu,
    gaussian_reach,
    reach,
    verdict,
)
from privet.randomness import Source

_HUGE = 1000.0
"""A canary's gradient in clipping norms: nothing shows a missing clip better."""

_COLUMNS = 256

Sums = Callable[[Tensor, Source], Tensor]
"""One training run: the records' gradients, shape (n, d), the same in every step -> every step's noisy sum,
before it is divided by anything, shape (steps, d). It samples, clips and adds noise itself."""


@dataclass(frozen=True)
class Steps:
    """What a private training says of its steps.

    Attributes:
        rows: records of the data set.
        rate: probability with which a step takes each of them.
        noise_multiplier: standard deviation of the noise over the clipping norm.
        clipping_norm: the l2 norm that a record's gradient keeps at most.
    """

    rows: int
    rate: float
    noise_multiplier: float
    clipping_norm: float

    def scores(self, sums: Tensor, shift: float = 1.0) -> Tensor:
        """Returns several scores of each value of the noisy sums, higher where a canary may be.

        The sum over the steps and the likelihood ratio of Poisson samples tell what an honest run leaks;
        the largest step and the spread of later steps find noise that is not added afresh; the last two
        find batches taken in turn, in one order for all epochs or in a new one.

        Args:
            sums: every step's, shape (steps, d).
            shift: by how many clipping norms a canary moves a step that takes it.

        Returns:
            Shape (d, 6), finite.
        """
        seen = sums.double() / self.clipping_norm
        ratio = (shift * seen - shift**2 / 2) / self.noise_multiplier**2
        taken, left = math.log(self.rate), math.log1p(-self.rate) if self.rate < 1 else -math.inf
        sampled = torch.logaddexp(ratio + taken, torch.full_like(ratio, left)).sum(0)
        turns = max(1, min(round(1 / self.rate), len(seen)))
        epochs = len(seen) // turns
        in_turn = ratio[: epochs * turns].view(epochs, turns, -1)
        late = seen[len(seen) // 2 :]
        columns = (
            seen.sum(0),
            sampled,
            seen.amax(0),
            late.std(0, correction=0),
            in_turn.sum(0).amax(0),
            in_turn.logsumexp(1).sum(0),
        )
        return torch.stack(columns, 1).clamp(-1e12, 1e12)


def refute_training(
    sums: Sums, steps: Steps, claim: Guarantee, *, rng: Source, trials: int = 1000, confidence: float = CONFIDENCE,
    crowd: bool = False,
) -> Refutation:  # fmt: skip
    """Tests a claimed epsilon of a private training with canaries.

    Args:
        sums: the training, as it runs.
        steps: what it says of its steps.
        claim: what is claimed of the whole training; one record, added or removed.
        rng: of all runs.
        trials: canaries tested on either side; as many again choose score and threshold.
        confidence: of the lower bound.
        crowd: every other record's gradient points the other way, and each trial is a run of its own. With
            batches of a fixed size the canary then takes another's place and moves the sum by twice the
            clipping norm, which Poisson samples don't allow.

    Raises:
        InputError: there is less than one trial, or the training returned sums of a wrong shape.
    """
    if trials < 2:
        raise InputError(f"{trials} trials", allowed="2 or more")
    observe = _against_a_crowd if crowd else _side_by_side
    choosing, testing = (observe(sums, steps, trials, rng.child("trials", part)) for part in ("choose", "test"))
    bound = distinguish(choosing, testing, claim.delta, confidence, gaussian=True)
    found = max(bound.epsilon, epsilon_of_mu(bound.mu, claim.delta))
    most = max(reach(trials, claim.delta, confidence), gaussian_reach(trials, claim.delta, confidence))
    kind = "against a crowd, a run each" if crowd else "side by side in one run"
    method = f"gradient-space Dirac canaries ({kind}), Gaussian-DP bound from Clopper-Pearson rates"
    return verdict(
        claim.claim, claim.unit, claim.relation, claim.epsilon, claim.delta,
        found=found, confidence=confidence, method=method, trials=bound.trials, reach=most,
    )  # fmt: skip


def canaries(rows: int, width: int, inside: Tensor, size: float) -> Tensor:
    """Returns gradients (rows, width): one Dirac canary for each index in ``inside``, zeros below them."""
    gradients = torch.zeros(rows, width)
    gradients[torch.arange(len(inside)), inside] = size
    return gradients


def _side_by_side(sums: Sums, steps: Steps, trials: int, rng: Source) -> Sides:
    """Returns the scores of canaries that are in the data and of those that are not, many a run."""
    inside, outside = [], []
    for start in range(0, trials, steps.rows):
        count = min(trials - start, steps.rows)
        own = rng.child("run", start)
        there = own.child("places").permutation(2 * count)
        gradients = canaries(steps.rows, 2 * count, there[:count], _HUGE * steps.clipping_norm)
        order = own.child("order").permutation(steps.rows)  # no sampler knows the canaries by their place
        seen = _checked(sums(gradients[order], own.child("noise")), 2 * count)
        scores = torch.cat([steps.scores(part) for part in seen.split(_COLUMNS, 1)])
        inside.append(scores[there[:count]])
        outside.append(scores[there[count:]])
    return torch.cat(inside), torch.cat(outside)


def _against_a_crowd(sums: Sums, steps: Steps, trials: int, rng: Source) -> Sides:
    """Returns the scores of one canary a run, where all other gradients point the other way."""
    everyone = torch.full((steps.rows, 1), -_HUGE * steps.clipping_norm)
    middle = steps.rate * steps.rows * steps.clipping_norm
    sides = []
    for side in ("inside", "outside"):
        scores = []
        for trial in range(trials):
            own = rng.child(side, trial)
            gradients = everyone[1:].clone() if side == "outside" else everyone.clone()
            if side == "inside":
                gradients[own.child("place").integers(steps.rows, 1)[0]] *= -1
            scores.append(steps.scores(_checked(sums(gradients, own.child("noise")), 1) + middle, shift=2.0))
        sides.append(torch.cat(scores))
    return sides[0], sides[1]


def _checked(sums: Tensor, width: int) -> Tensor:
    if sums.ndim != 2 or sums.shape[1] != width or not len(sums):
        raise InputError(f"the training returned sums of shape {tuple(sums.shape)}", allowed=f"(steps, {width})")
    return sums
