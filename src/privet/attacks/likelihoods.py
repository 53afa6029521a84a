"""How likely what was seen is under each candidate, for whoever can compute the mechanism.

Four cases, told apart on the attacker's own pairs, since a mechanism is recognised by what it does:

- *exact*: nothing is random. Equal outputs are equally likely, every other one is worse by its distance; so
  rank-1 is exactly (distinct outputs) / N.
- *codes*: few different releases, and few different outputs before the noise. How often each output becomes each
  release is counted on the pairs; several releases of one record multiply.
- *sampled*: the release is one of d symbols, drawn with the probabilities that the mechanism computes.
- *added*: anything else is taken for the output plus noise, :func:`privet.attacks.matchers.likelihood`.

References:
    Cherubin, Chatzikokolakis, Palamidessi, F-BLEAU: Fast Black-Box Leakage Estimation (S&P 2019), section III:
    counting as the attacker that is best for few possible releases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.attacks import matchers
from privet.attacks.material import Material

_MOST_CODES = 4096
_PAIRS_A_CODE = 4
_ROUNDING = 1e-5  # of the outputs' size: what one program and another make of the same sum
_LEAST_CHANCE = 1e-6
_CHUNK = 256
_NARROW = 64  # vectors so short are compared without a matrix product, which rounds small differences away


def likelihoods(given: Material, clean: Tensor, candidates: Tensor) -> Tensor:
    """Returns how likely each row of what was seen is under each candidate, up to a constant a row.

    Args:
        given: the attacker's pairs and what was seen.
        clean: what the mechanism makes of the attacker's inputs without noise, (m, d), or (m, t, d) where one of
            t mechanisms was picked.
        candidates: what it makes of the candidates, (c, d) or (c, t, d); the best of the t counts.

    Returns:
        Shape (n, c), float64.
    """
    # Equal values must be equal bits, whatever precision the mechanism is computed in.
    clean, candidates = (values.to(given.known.dtype) for values in (clean, candidates))
    clean, candidates = (values if values.dim() == 3 else values[:, None] for values in (clean, candidates))
    used = picked(given.known, clean)
    # Each distinct output is compared once, so that equal outputs get the same score to the last bit.
    flat, place = candidates.flatten(0, 1).unique(dim=0, return_inverse=True)
    if is_exact(given.known, used):
        scores = _exact(given.seen, flat)
    elif (channel := Channel.learn(given, used, flat)) is not None:
        scores = channel.counts @ channel.chances().log().T
    elif _is_sampled(given.known, clean) and _is_sampled(given.seen, candidates):
        scores = given.seen.double().sum(1) @ flat.double().clamp_min(_LEAST_CHANCE).log().T
    else:
        parts = given.seen.split(_CHUNK)
        scores = torch.cat([matchers.likelihood(given.known, used, part, flat) for part in parts])
    best: Tensor = scores[:, place].unflatten(1, candidates.shape[:2]).amax(2)
    return best


def picked(known: Tensor, clean: Tensor) -> Tensor:
    """Returns, of several outputs of each input (m, t, d), the one nearest to its releases (m, releases, d)."""
    if clean.shape[1] == 1:
        return clean[:, 0]
    far = torch.stack([(known - output[:, None]).square().sum((1, 2)) for output in clean.unbind(1)], 1)
    return clean[torch.arange(len(clean)), far.argmin(1)]


def is_exact(known: Tensor, clean: Tensor) -> bool:
    """Returns whether releases (m, releases, d) are the outputs (m, d) themselves, but for rounding."""
    return bool((known - clean[:, None]).abs().max() <= _ROUNDING * clean.abs().max())


def _exact(seen: Tensor, outputs: Tensor) -> Tensor:
    """Returns minus the squared distance; what is equal to the last bit gets 1, whatever rounding says."""
    rows = torch.cat((seen[:, 0], outputs.to(seen.dtype)))
    _, place = rows.unique(dim=0, return_inverse=True)
    mode = "donot_use_mm_for_euclid_dist" if rows.shape[1] <= _NARROW else "use_mm_for_euclid_dist_if_necessary"
    parts = seen.double().mean(1).split(_CHUNK)
    scores = -torch.cat([torch.cdist(part, outputs.double(), compute_mode=mode) for part in parts]).square()
    return scores.masked_fill_(place[: len(seen), None] == place[len(seen) :], 1.0)


def _is_sampled(releases: Tensor, clean: Tensor) -> bool:
    """Returns whether releases are one symbol of d each, and outputs are probabilities of symbols."""
    one = ((releases == 0) | (releases == 1)).all() and (releases.sum(-1) == 1).all()
    return bool(one and (clean >= 0).all() and ((clean.sum(-1) - 1).abs() < 1e-3).all())


@dataclass(frozen=True)
class Channel:
    """How often each output becomes each release, counted on the attacker's pairs.

    Outputs and releases are numbered together: those with equal values have the same number, from 0 to u - 1.

    Attributes:
        table: probability of each release (second) under each output (first), shape (u, u), float64.
        counts: how often each release was seen of each record, shape (n, u), float64.
        candidates: the number of each candidate's output, shape (c,).
    """

    table: Tensor
    counts: Tensor
    candidates: Tensor

    @classmethod
    def learn(cls, given: Material, clean: Tensor, candidates: Tensor) -> Channel | None:
        """Returns the channel, or None if there are too many different outputs or releases to count.

        Args:
            given: the attacker's pairs and what was seen.
            clean: the outputs of the attacker's inputs, shape (m, d).
            candidates: the outputs of candidates, shape (c, d).
        """
        m, r, d = given.known.shape
        n, most = len(given.seen), min(_MOST_CODES, m // _PAIRS_A_CODE)
        some = slice(2 * most + 1)  # a look at some rows saves sorting all of them where they are no codes
        if max(len(side[some].unique(dim=0)) for side in (given.known[:, 0], clean)) > most:
            return None
        sides = given.known.reshape(-1, d), given.seen.reshape(-1, d), clean, candidates
        distinct, place = torch.cat(sides).unique(dim=0, return_inverse=True)
        if len(distinct) > _MOST_CODES:
            return None
        known, seen, own, theirs = place.split([len(side) for side in sides])
        counted = _tally(own.repeat_interleave(r), known, len(distinct), len(distinct))
        counts = _tally(torch.arange(n).repeat_interleave(given.seen.shape[1]), seen, n, len(distinct))
        return cls(_smooth(counted), counts, theirs)

    def chances(self) -> Tensor:
        """Returns the probability of each release under each candidate, shape (c, u)."""
        return self.table[self.candidates]


def _tally(first: Tensor, second: Tensor, high: int, wide: int) -> Tensor:
    """Returns how often each pair of numbers occurs, shape (high, wide), float64."""
    return (first * wide + second).bincount(minlength=high * wide).view(high, wide).double()


def _smooth(counted: Tensor) -> Tensor:
    """Returns counts (outputs, releases) as probabilities; outputs that were never met behave as the others do.

    What is expected of an output before any count is that it comes out as it is as often as outputs do, and
    otherwise as any release, as common as that is.
    """
    total, same = counted.sum(), torch.eye(len(counted), dtype=torch.float64)
    kept = (counted * same).sum() / total
    common = (counted.sum(0) + 1) / (total + len(counted))
    expected = (kept * same + (1 - kept) * common).clamp_min(_LEAST_CHANCE)
    counted = counted + expected / expected.sum(1, keepdim=True)
    return counted / counted.sum(1, keepdim=True)
