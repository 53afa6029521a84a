"""Property inference: do the rows behind an update include any with a certain property?

The attacker computes gradients of groups of its own rows, about as many as the device had (64 stand for more),
half of them with the property, and learns to tell them apart by ridge regression. It looks at the gradient of
the last layer, of the first, or of all, whichever tells its own groups apart best when each is left out in turn.

Assumes: the gradient of one step, at known values; rows of its own, some with the property and some without,
that resemble the device's. Gradients are brought to length 1, so that clipping changes nothing, and their
entries replaced by their roots. Noise of the size of the difference that the property makes defeats it; so
does a model that is sure of nearly all rows, whose gradients say little (LeNet on MNIST, 16 rows, is class 3
among them: AUC .99 fresh, .72 after one pass over 8,000 rows, .70 after three).

Cost: 2 CPU-seconds for a LeNet and groups of 16, most of it for the 300 gradients of its own.

References:
    Melis, Song, De Cristofaro, Shmatikov, Exploiting Unintended Feature Leakage in Collaborative Learning
    (IEEE S&P 2019), algorithm 3.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.contract import Attack, Scores, Target, rows
from privet.attacks.gradients import Differentiator, flat, seen_updates
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
_AT_ONCE = 20
_LEAST = 5  # of the attacker's rows on either side


@part
class PropertyInference(Attack):
    """Tells from a gradient whether any row behind it has a property, having learned that on its own rows.

    Needs ``view.network``, ``seen["gradients"]`` (k, d), ``seen["counts"]`` (k,), and ``inputs`` and
    ``labels`` in ``knows``; the property is ``knows["property"]`` (m,), or else a label.

    Attributes:
        label: the label whose presence is the property, where ``knows`` has no ``property``.
        groups: gradients that the attacker makes for each number of rows.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "property"

    label: Annotated[int, Field(ge=0)] = 0
    groups: Annotated[int, Field(ge=20, le=100_000)] = 300

    def __call__(self, view: View, rng: Source) -> Scores:
        network, gradients, counts = seen_updates(view, most=None)
        inputs, labels = rows(view.knows, "inputs", "labels")
        has = rows(view.knows, "inputs", "property")[1].bool() if "property" in view.knows else labels == self.label
        if min(int(has.sum()), int((~has).sum())) < _LEAST:
            raise InputError(
                f"{int(has.sum())} of the attacker's {len(has)} rows have the property",
                allowed=f"{_LEAST} or more with it and as many without it",
                do="choose a property that the attacker knows from both sides",
            )
        differentiate = Differentiator(network)
        names = sorted(gradients)
        layers = (names, _of_layer(network, last=True), _of_layer(network, last=False))
        scores = torch.empty(len(counts), dtype=torch.float64)
        sizes = [_size(count) for count in counts]
        for size in sorted(set(sizes)):
            groups, truth = self._groups(has, size, rng.child("groups", size))
            found = [differentiate(inputs[g].float(), labels[g].long()) for g in groups.split(_AT_ONCE)]
            own = {name: torch.cat([part[name] for part in found]).detach() for name in names}
            at = torch.tensor([place for place, other in enumerate(sizes) if other == size])
            seen = {name: gradients[name][at] for name in names}
            tried = [
                _ridge(_evened(flat({n: own[n] for n in which})), truth, _evened(flat({n: seen[n] for n in which})))
                for which in layers
            ]
            scores[at] = min(tried, key=lambda outcome: outcome[0])[1]
        return Scores(scores)

    def _groups(self, has: Tensor, count: int, rng: Source) -> tuple[Tensor, Tensor]:
        """Returns groups of the attacker's rows (groups, count), and which have the property, every other one."""
        inside, outside = has.nonzero().flatten(), (~has).nonzero().flatten()
        truth = torch.arange(self.groups) % 2 == 0
        share = float(has.double().mean())
        groups = outside[torch.from_numpy(rng.integers(len(outside), self.groups * count)).view(-1, count)]
        instead = inside[torch.from_numpy(rng.integers(len(inside), self.groups * count)).view(-1, count)]
        chosen = rng.uniform((self.groups, count)) < share
        chosen[:, 0] = True
        return torch.where(chosen & truth[:, None], instead, groups), truth


def _size(count: int) -> int:
    """Returns how many rows the attacker's groups have that stand for a device's: about as many, 64 at most."""
    return count if count < 8 else min(2 ** round(math.log2(count)), 64)


def _of_layer(network: torch.nn.Module, last: bool) -> list[str]:
    """Returns the names of the parameters of the last or the first layer that has any, sorted."""
    owners = [name.rpartition(".")[0] for name, _ in network.named_parameters()]
    owner = owners[-1 if last else 0]
    return sorted(name for name, _ in network.named_parameters() if name.rpartition(".")[0] == owner)


def _evened(vectors: Tensor) -> Tensor:
    """Returns the roots of the entries of vectors of length 1: few rows that are hard make all others small."""
    values = vectors.double()
    values = values / values.norm(dim=1, keepdim=True).clamp_min(1e-30)
    roots: Tensor = values.sign() * values.abs().sqrt()
    return roots


def _ridge(own: Tensor, truth: Tensor, seen: Tensor) -> tuple[float, Tensor]:
    """Returns the least squared error on own groups left out in turn, and the scores of the seen ones that go with it.

    References:
        Allen, The Relationship Between Variable Selection and Data Augmentation (Technometrics 1974): the error of
        leaving out each in turn, in closed form.
    """
    middle, spread = own.mean(0), own.std(0)
    # A column that hardly varies among the attacker's own groups must not drown the others.
    spread = spread.clamp_min(0.1 * float(spread.mean()) + 1e-30)
    a, b = (own - middle) / spread, (seen - middle) / spread
    wanted = truth.double() - truth.double().mean()
    values, turned = torch.linalg.eigh(a @ a.T)
    across = b @ a.T
    best = (torch.inf, torch.zeros(len(seen), dtype=torch.float64))
    for strength in _STRENGTHS:
        inverse = (turned / (values.clamp_min(0) + strength * float(values.mean()))) @ turned.T
        weights = inverse @ wanted
        error = float((weights / inverse.diagonal()).square().mean())
        if error < best[0]:
            best = (error, across @ weights)
    return best
