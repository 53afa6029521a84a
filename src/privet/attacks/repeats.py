"""Repeats: several releases of (views of) one record are put together.

What is random anew each time averages out, and what a code leaves open closes a little with every view that gets
another code. This is what breaks fresh randomised response, sampled labels and codes that are not memoised.

Knowledge: the obfuscator, and which releases are of one record (the coordinator; an outsider who has the app of a
device and can tell whose request is whose).
Cost: computing the obfuscator on ``views`` views of each candidate; for 2,000 records of 16 releases seconds for
codes, half a minute for 784 values.

References:
    Erlingsson, Pihur, Korolova, RAPPOR: Randomized Aggregatable Privacy-Preserving Ordinal Response (CCS 2014),
    section 3.2: why a randomised answer is kept and given again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.known_release import completed, release_of
from privet.attacks.likelihoods import Channel, picked
from privet.attacks.material import Material, averaged, material
from privet.attacks.neighbours import looked_up
from privet.attacks.views import MOST_VIEWS, jittered
from privet.engines.view import View
from privet.parts import Grade, part
from privet.randomness import Source

_COMPUTED = 4096  # inputs that the obfuscator is given at once
_LEAST_CALIBRATED, _CALIBRATED = 500, 5000  # pairs on which the size of the noise is learned,
_NUMBERS = 20_000_000  # as many as have about so many outputs together
_SHORTLIST, _MOST_RELEASES = 20, 32
_CHUNK = 16
_LEAST = 1e-3  # of the outputs' spread: the least noise that is believed in

Scored = Callable[[Material, Tensor, Tensor], Tensor]
"""Pairs and what was seen, own outputs (m, t, views, d), candidates' (c, views, d) -> scores (n, c)."""


@part
class Repeats(Attack):
    """Puts several releases of one record together and compares them with the obfuscator's answers to candidates.

    Needs ``view.release``, ``seen["features"]`` (n, r, d), ``knows["inputs"]`` (m, ...) and, if anything is random,
    their ``knows["features"]`` (m, r, d). ``view.release`` may give (c, t, d): a record's releases are then
    all by one of t obfuscators. Two matchers: ``average`` compares means; ``views`` multiplies the chances of the
    releases, counting codes where they are codes. Its guess is looked up by the mean release.

    Attributes:
        views: how many views of each candidate it computes, :func:`privet.attacks.views.jittered`; 1 where a record's
            releases are all of the very same input.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    views: Annotated[int, Field(ge=1, le=MOST_VIEWS)] = 9

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        release = release_of(view)
        given = material(completed(view, release))
        known = averaged(given, view.shape)
        guess = known.undone(looked_up(known.pairs, view.shape, rng.child("held out")))
        numbers = release(given.inputs[:1]).numel() * self.views
        some = slice(min(max(_NUMBERS // numbers, _LEAST_CALIBRATED), _CALIBRATED))
        used = replace(given, inputs=given.inputs[some], known=given.known[some], known_labels=given.known_labels[some])

        @functools.lru_cache(maxsize=1)  # both ways of comparing ask for the same candidates, one after the other
        def outputs(candidates: Tensor) -> list[Tensor]:
            return self._outputs(release, used.inputs, candidates)

        matchers = {
            "average": lambda candidates: _once(_by_average, used, *outputs(candidates)),
            "views": lambda candidates: _once(_by_views, used, *outputs(candidates)),
        }
        return Reconstruction(guess, matchers=matchers)

    def _outputs(self, release: Callable[[Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
        """Returns what the obfuscators make of views of inputs, each (c, t, views, d)."""
        found = []
        for rows in inputs:
            flat = jittered(rows, self.views).flatten(0, 1)
            made = torch.cat([release(part) for part in flat.split(_COMPUTED)])
            made = made if made.dim() == 3 else made[:, None]
            found.append(made.unflatten(0, (len(rows), self.views)).transpose(1, 2))
        return found


def _once(by: Scored, given: Material, clean: Tensor, candidates: Tensor) -> Tensor:
    """Returns the scores of candidates (c, t, views, d), the best of t; equal outputs get the same one exactly."""
    clean, candidates = (values.to(given.known.dtype) for values in (clean, candidates))
    flat, place = candidates.flatten(0, 1).flatten(1).unique(dim=0, return_inverse=True)
    scores = by(given, clean, flat.unflatten(1, candidates.shape[2:]))
    best: Tensor = scores[:, place].unflatten(1, candidates.shape[:2]).amax(2)
    return best


def _by_average(given: Material, clean: Tensor, candidates: Tensor) -> Tensor:
    """Returns how near the mean release of each record is to each candidate's mean output, (n, c), float64."""
    mean = given.known.mean(1)
    spread = _believed(mean - picked(mean[:, None], clean.mean(2)), clean)
    far = torch.cdist((given.seen.mean(1) / spread).double(), (candidates.mean(1) / spread).double())
    return -0.5 * far.square()


def _by_views(given: Material, clean: Tensor, candidates: Tensor) -> Tensor:
    """Returns how likely all releases of each record are under each candidate's views, (n, c), float64."""
    # Which view each release is of is nobody's knowledge: the nearest is taken, release by release.
    several = min(max(_NUMBERS // clean.numel(), 1), given.known.shape[1])
    one = replace(given, known=given.known[:, :several].flatten(0, 1)[:, None])
    used = picked(one.known, clean.flatten(1, 2).repeat_interleave(several, 0))
    channel = Channel.learn(one, used, candidates.flatten(0, 1))
    if channel is None:
        return _by_distances(given, _believed(one.known[:, 0] - used, clean), clean, candidates)
    (count, views), codes = candidates.shape[:2], len(channel.table)
    place = torch.arange(count).repeat_interleave(views) * codes + channel.candidates
    often = place.bincount(minlength=count * codes).view(count, codes).double() / views
    return channel.counts @ (often @ channel.table).log().T


def _by_distances(given: Material, spread: Tensor, clean: Tensor, candidates: Tensor) -> Tensor:
    """Returns the same under normal noise; only the candidates that the averages find best are looked at closely."""
    scores = _by_average(given, clean, candidates)
    best = scores.topk(min(_SHORTLIST, scores.shape[1]), dim=1).indices
    offered, seen = candidates / spread, given.seen[:, :_MOST_RELEASES] / spread
    for start in range(0, len(seen), _CHUNK):
        rows = slice(start, start + _CHUNK)
        near = offered[best[rows]]
        found = torch.zeros(near.shape[:2], dtype=torch.float64)
        for each in seen[rows].unbind(1):
            far = (near - each[:, None, None]).square().sum(-1).double()
            found += (-0.5 * far).logsumexp(-1)
        scores[rows] -= scores[rows].amax(1, keepdim=True) - found.amin(1, keepdim=True) + 1  # the rest comes last
        scores[rows] = scores[rows].scatter(1, best[rows], found)
    return scores


def _believed(noise: Tensor, clean: Tensor) -> Tensor:
    """Returns the spread of the noise (m, d) by coordinate, which is never believed to be nothing."""
    return noise.square().mean(0).sqrt().clamp_min(_LEAST * clean.std().clamp_min(1e-12))
