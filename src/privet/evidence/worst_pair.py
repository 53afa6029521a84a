"""Likelihood-ratio test of a chain of mechanisms on a worst pair of neighbouring inputs.

The pair comes from the chain's own bounds: vectors at opposite ends of what the mechanisms before the
noise let pass. The real chain runs on both, and a test tells the outputs apart. It needs no model and
no data, and it is rigorous: 600 + 600 trials told apart without an error mean epsilon >= 5.09 at 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from dp_accounting.dp_event import DpEvent, GaussianDpEvent, NonPrivateDpEvent
from torch import Tensor

from privet.accounting import Guarantee, Sensitivity
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
from privet.mechanisms.chain import Chain
from privet.parts import name_of
from privet.randomness import Source, seeded

VALUES = 4096
"""Values in one trial at most: a longer vector is tested on so many of its values, which only lowers the bound."""
RELEASES = 16
"""Releases in one trial at most; a claim about more is tested on so many."""
_ROWS = 8
_SCALES = (1e-3, 1.0, 1e6)
_FEW = 8
_BINS = 16
_AT_ONCE = 4_000_000

Before = Callable[[Tensor], Tensor]
"""What happens to a message, shape (rows, d), before the noise; nothing random."""


@dataclass(frozen=True)
class Pair:
    """Two neighbouring messages as they meet the noise.

    Attributes:
        inside, outside: shape (rows, d); what is absent is zero.
        noise: the mechanisms from the noise on.
        event: what one release claims to cost.
    """

    inside: Tensor
    outside: Tensor
    noise: Chain
    event: DpEvent

    @property
    def gap(self) -> float:
        """How far the two are apart: the product of the l1 and the l2 norm of their difference."""
        change = (self.inside - self.outside).double()
        return float(change.abs().sum() * change.norm())


def worst_pair(
    chain: Chain, sensitivity: Sensitivity, *, entering: tuple[Before, int] | None = None, alone: bool = False
) -> Pair:
    """Returns the pair of messages that what comes before a chain's noise leaves furthest apart.

    For a record or a device one vector changes, or comes and goes; where a mechanism normalises over the
    batch, the record that moves the others is among the candidates. For a coordinate one value of the
    vector changes as the last normalisation made it, everything else held fixed.

    Args:
        chain: the mechanisms.
        sensitivity: unit, relation and dimension, as they arrive at the chain.
        entering: for a chain on the server: what the devices and the aggregator make of the devices'
            vectors, without noise, and how many devices there are.
        alone: look only at the record's own vector, for a claim that leaves out what it moves elsewhere.

    Raises:
        InputError: the chain has no noise that guarantees anything for this unit.
    """
    place, event = _noise(chain, sensitivity)
    first, edge = 0, math.inf
    if sensitivity.unit == "coordinate":
        first = max((at + 1 for at in range(place) if "normalisation" in name_of(chain.mechanisms[at])), default=0)
        edge = Chain(chain.mechanisms[:first]).bound(sensitivity).tightened().linf / 2 if first else math.inf
    clean = Chain(chain.mechanisms[first:place])
    coupling = [mechanism for mechanism in clean.mechanisms if mechanism.couples_records]
    rows = min([_ROWS, *(getattr(mechanism, "batch_size", _ROWS) for mechanism in coupling)]) if coupling else 1
    devices, rows = entering or (None, rows)

    def enter(value: Tensor) -> Tensor:
        return clean(devices(value) if devices else value, seeded(0))  # nothing is drawn before the noise

    width = max(1, min(int(min(sensitivity.dimension, VALUES)), VALUES // (1 if entering else rows)))
    noise = Chain(chain.mechanisms[place:])
    pairs = [
        Pair(inside, outside, noise, event)
        for one, other in _neighbours(sensitivity, rows, width, edge)
        for inside, outside in [_aligned(enter, one, other, alone)]
    ]
    return max(pairs, key=lambda pair: pair.gap)


def refute_chain(
    chain: Chain, sensitivity: Sensitivity, claim: Guarantee, *, rng: Source, trials: int = 1000,
    confidence: float = CONFIDENCE, rate: float = 1.0, entering: tuple[Before, int] | None = None, alone: bool = False,
) -> Refutation:  # fmt: skip
    """Tests a claimed epsilon of a chain on a worst pair.

    Args:
        chain: the mechanisms, as the run used them.
        sensitivity: unit, relation and dimension of what is tested, as they arrive at the chain.
        claim: what is claimed; its epsilon, delta and releases count.
        rng: the noise.
        trials: tested on either side; as many again choose score and threshold.
        confidence: of the lower bound.
        rate: probability with which the unit takes part in a release, by a coin that nobody sees.
        entering, alone: as in :func:`worst_pair`.

    Raises:
        InputError: the chain has no noise for this unit, or there is less than one trial.
    """
    if trials < 2:
        raise InputError(f"{trials} trials", allowed="2 or more")
    pair = worst_pair(chain, sensitivity, entering=entering, alone=alone)
    releases = max(1, min(claim.releases, RELEASES, VALUES // pair.inside.numel()))
    gaussian = isinstance(pair.event, GaussianDpEvent)
    choosing, testing = _scores(pair, releases, trials, rate, rng)
    bound = distinguish(choosing, testing, claim.delta, confidence, gaussian=gaussian)
    found, most, how = bound.epsilon, reach(trials, claim.delta, confidence), "Clopper-Pearson bounds"
    if gaussian:
        found = max(found, epsilon_of_mu(bound.mu, claim.delta))
        most = max(most, gaussian_reach(trials, claim.delta, confidence))
        how += ", the claim's own family (Gaussian-DP)"
    told = f"{pair.inside.numel():,} values" + (f", {releases} of {claim.releases:,} releases" * (claim.releases > 1))
    method = f"likelihood-ratio test of the mechanisms on a worst pair ({told}), {how}"
    return verdict(
        claim.claim, sensitivity.unit, sensitivity.relation, claim.epsilon, claim.delta,
        found=found, confidence=confidence, method=method, trials=bound.trials, reach=most,
    )  # fmt: skip


def _noise(chain: Chain, sensitivity: Sensitivity) -> tuple[int, DpEvent]:
    """Returns the place of the noise that a chain's event comes from, and the event."""
    for place, mechanism in enumerate(chain.mechanisms):
        event = mechanism.event(sensitivity)
        if not isinstance(event, NonPrivateDpEvent):
            return place, event
        sensitivity = mechanism.bound(sensitivity)
    raise InputError(
        f"these mechanisms guarantee nothing for one {sensitivity.unit}", do="put noise after a bound, then audit it"
    )


def _neighbours(sensitivity: Sensitivity, rows: int, width: int, edge: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields messages whose first row changes, or comes and goes."""
    first = torch.zeros(width)
    first[0] = 1.0
    apart = -torch.ones(width)  # the first value against all others
    apart[0] = 1.0
    shapes = (first,) if sensitivity.unit == "coordinate" else (apart, torch.ones(width), first)
    gone = sensitivity.relation == "add-or-remove-one" and sensitivity.unit != "coordinate"
    for shape in shapes:
        for scale in {min(scale, edge) for scale in _SCALES}:
            one, other = torch.zeros(rows, width), torch.zeros(rows, width)
            one[0], other[0] = scale * shape, -scale * shape
            yield one, other[1:] if gone else other


def _aligned(enter: Before, one: Tensor, other: Tensor, alone: bool) -> tuple[Tensor, Tensor]:
    """Returns both messages as they meet the noise, a row that is absent filled with zeros."""
    inside = enter(one)
    outside = enter(other) if len(other) else inside.new_zeros(0, inside.shape[-1])
    absent = inside.new_zeros(len(inside) - len(outside), inside.shape[-1])
    outside = torch.cat((absent, outside))
    return (inside[:1], outside[:1]) if alone else (inside, outside)


def _scores(pair: Pair, releases: int, trials: int, rate: float, rng: Source) -> tuple[Sides, Sides]:
    """Returns the scores of the trials that choose and of those that are tested, shape (trials, k)."""
    fitting, testing = (
        [_observe(pair, chance, releases, trials, rng) for chance in (rate, 0.0)] for _ in ("choose", "test")
    )
    if fitting[0][1] is None or fitting[1][1] is None:
        return (fitting[0][0], fitting[1][0]), (testing[0][0], testing[1][0])
    half = trials // 2  # one half fits the histograms, the other half chooses among the scores
    ratio = _histograms(fitting[0][1][:half], fitting[1][1][:half])
    choosing = [torch.column_stack((known[half:], ratio(raw[half:]))) for known, raw in fitting]  # type: ignore[index]
    tested = [torch.column_stack((known, ratio(raw))) for known, raw in testing]  # type: ignore[arg-type]
    return (choosing[0], choosing[1]), (tested[0], tested[1])


def _observe(pair: Pair, rate: float, releases: int, trials: int, rng: Source) -> tuple[Tensor, Tensor | None]:
    """Runs trials; returns their scores (trials, 2) and, where they are few, the values that differ.

    Args:
        pair: the two messages.
        rate: how often a release is of the message inside; 0 for the trials outside.
        releases: in a trial.
        trials: how many.
        rng: noise and coins.
    """
    moved = (pair.inside != pair.outside).flatten()
    one, other = pair.inside.flatten()[moved].double(), pair.outside.flatten()[moved].double()
    chunk = max(1, _AT_ONCE // (releases * pair.inside.numel()))
    scores, raws = [], []
    for start in range(0, trials, chunk):
        count = min(chunk, trials - start)
        there = rng.uniform((count, releases, 1, 1)) <= rate
        released = _release(pair.noise, torch.where(there, pair.inside, pair.outside), rng)
        seen = released.reshape(count, releases, -1)[:, :, moved].double()
        linear = (seen * (one - other)).sum((1, 2))
        absolute = ((seen - other).abs() - (seen - one).abs()).sum((1, 2))
        scores.append(torch.stack((linear, absolute), 1))
        if releases * len(one) <= _FEW:
            raws.append(seen.flatten(1))
    return torch.cat(scores), torch.cat(raws) if raws else None


def _release(noise: Chain, messages: Tensor, rng: Source) -> Tensor:
    """Returns what leaves, message by message where one vector of a message changes another."""
    if not any(mechanism.couples_records for mechanism in noise.mechanisms):
        return noise(messages, rng)
    apart = [noise(message, rng) for message in messages.flatten(0, 1)]
    return torch.stack(apart).view_as(messages)


def _histograms(inside: Tensor, outside: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns a likelihood ratio that knows nothing of the noise: one histogram a value, added up."""
    pooled = torch.cat((inside, outside))
    tables = []
    for column in range(pooled.shape[1]):
        distinct = pooled[:, column].unique()
        if len(distinct) <= 2 * _BINS:
            edges = (distinct[1:] + distinct[:-1]) / 2
        else:
            edges = pooled[:, column].quantile(torch.linspace(0, 1, _BINS + 1, dtype=pooled.dtype)[1:-1]).unique()
        counts = [
            torch.bincount(torch.bucketize(side[:, column].contiguous(), edges), minlength=len(edges) + 1) + 0.5
            for side in (inside, outside)
        ]
        tables.append((edges, (counts[0] / counts[0].sum()).log() - (counts[1] / counts[1].sum()).log()))

    def ratio(seen: Tensor) -> Tensor:
        parts = [
            table[torch.bucketize(seen[:, column].contiguous(), edges)] for column, (edges, table) in enumerate(tables)
        ]
        return torch.stack(parts).sum(0)

    return ratio
