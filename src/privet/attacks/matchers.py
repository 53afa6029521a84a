"""Telling whose record was seen, given candidates, without undoing anything.

Two ways, since a learned inverse alone understates what a party can do:

- *learned*: two small networks, one of what was seen and one of an input, learn on the attacker's
  own pairs to agree on what belongs together;
- *likelihood*: who knows the mechanism computes it on each candidate. The attacker learns the size of
  the noise, and whether it is nearer to Laplace's or to Gauss's, on its own pairs; several releases of
  one record multiply. Where nothing is random this comes to comparing, and every distinct output is
  recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from privet.attacks.contract import Matcher
from privet.attacks.principal import Principal
from privet.models.fitting import Fitting
from privet.randomness import Source

_SHORTLIST = 20
_NEVER = 1e4
_CHUNK = 64


@dataclass(frozen=True)
class Size:
    """How large the networks of a learned matcher are.

    Attributes:
        width: units in the hidden layer of each.
        shared: dimensions of the space in which they meet.
        principal: directions in which each description is given to them, at most.
    """

    width: int = 256
    shared: int = 64
    principal: int = 128


class _Meeting(nn.Module):
    """Two networks into one space, and how sharply they compare there."""

    def __init__(self, seen: int, inputs: int, size: Size) -> None:
        super().__init__()
        self.seen, self.inputs = (
            nn.Sequential(nn.Linear(given, size.width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(size.width, size.shared))
            for given in (seen, inputs)
        )
        self.sharpness = nn.Parameter(torch.tensor(2.0))

    def forward(self, seen: Tensor, inputs: Tensor) -> Tensor:
        """Returns how well each of seen (n, ...) goes with each of inputs (c, ...), shape (n, c)."""
        mine, theirs = F.normalize(self.seen(seen), dim=1), F.normalize(self.inputs(inputs), dim=1)
        agreement: Tensor = self.sharpness.exp() * mine @ theirs.T
        return agreement


Blocks = tuple[Tensor, ...]
"""Several descriptions of the same rows, each (m, its own d)."""


def learned(
    own: Blocks,
    inputs: Tensor,
    seen: Blocks,
    fitting: Fitting,
    rng: Source,
    size: Size = Size(),
    labels: Tensor | None = None,
) -> Matcher:
    """Returns a matcher that learned on pairs what belongs together.

    Args:
        own: what the attacker made of its own inputs, m rows each.
        inputs: the attacker's own inputs, shape (m, ...).
        seen: what was seen, made in the same way, n rows each.
        fitting: how to learn.
        rng: of the learning.
        size: of the networks.
        labels: of the attacker's own inputs, shape (m,): pairs are then told apart within their class only.

    References:
        van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive Coding (2018), equation 4.
    """
    inside = Principal(inputs.flatten(1), size.principal, rng.child("inputs"))
    blocks = [Principal(block, size.principal, rng.child("seen", place)) for place, block in enumerate(own)]

    def described(rows: Blocks) -> Tensor:
        return torch.cat([look(block) for look, block in zip(blocks, rows, strict=True)], 1)

    met, given = described(own), inside(inputs.flatten(1))

    def lost(network: _Meeting, batch: Tensor) -> Tensor:
        scores, right = network(met[batch], given[batch]), torch.arange(len(batch))
        if labels is not None:
            scores = scores.masked_fill(labels[batch][:, None] != labels[batch], -_NEVER)
        return F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)

    network = fitting(lambda: _Meeting(met.shape[1], given.shape[1], size), lost, len(met), rng.child("meeting"))

    @torch.no_grad()
    def match(candidates: Tensor) -> Tensor:
        scores: Tensor = network(described(seen), inside(candidates.flatten(1))).double()
        return scores

    return match


def likelihood(own: Tensor, clean: Tensor, seen: Tensor, candidates: Tensor) -> Tensor:
    """Returns the logarithm of how likely each release is under each candidate, up to a constant a row.

    The Gaussian likelihood of the releases' mean is computed for all candidates; if the noise looks more
    like Laplace's, the best candidates of each row are compared again by it, release by release.

    Args:
        own: releases of the attacker's own inputs, shape (m, releases, d).
        clean: what the mechanism makes of them without noise, shape (m, d).
        seen: releases that were seen, shape (n, releases, d).
        candidates: what the mechanism makes of the candidates without noise, shape (c, d).

    Returns:
        Shape (n, c), float64.
    """
    noise = own - clean[:, None]
    shift = noise.mean((0, 1))
    noise = noise - shift
    least = 1e-4 * clean.std().clamp_min(1e-12)
    size, spread = noise.abs().mean((0, 1)).clamp_min(least), noise.square().mean((0, 1)).sqrt().clamp_min(least)
    mean, expected = (seen.mean(1) - shift) / spread, candidates / spread
    scores = -0.5 * seen.shape[1] * torch.cdist(mean.double(), expected.double()).square()
    # Of a Laplace scale b and a standard deviation s, the log-likelihoods a value are -log 2b - 1 and -log s - 1.42.
    if (size.log() + 1.6931).mean() >= (spread.log() + 1.4189).mean():
        return scores
    best = scores.topk(min(_SHORTLIST, scores.shape[1]), dim=1).indices
    moved = seen - shift
    for start in range(0, len(moved), _CHUNK):
        rows = slice(start, start + _CHUNK)
        far = torch.zeros(best[rows].shape, dtype=torch.float64)
        for release in moved[rows].unbind(1):
            far += ((release[:, None] - candidates[best[rows]]).abs() / size).sum(2)
        scores[rows] -= scores[rows].amax(1, keepdim=True) + far.amax(1, keepdim=True) + 1  # the rest comes last
        scores[rows] = scores[rows].scatter(1, best[rows], -far)
    return scores
