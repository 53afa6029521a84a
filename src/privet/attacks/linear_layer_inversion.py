"""Linear-layer inversion: the rows themselves, read from the gradient of a first linear layer.

For a linear layer W x + b the gradient of W is the sum over records of delta x' and that of b the sum of
delta. So, exactly and without a search:

1. One record: every row of dW is a multiple of x, and dW / db is x. The rows are weighed by db, which is
   the best guess when there is noise.
2. Several: a unit that one record alone activates gives that record. Two such units that agree prove it.
3. Several, with ReLU behind the layer: dW has rank b, and of the b columns of delta each is 0 at the units
   that its record does not activate. A direction of the right sparsity is found by taking b - 1 units at
   random, until they happen to be silent for one record; db gives its scale.

Assumes: the first layer with weights is linear and has a bias; the gradient of one step; for step 3 ReLU behind
the layer, and more inputs and more units than records. Step 3 finds up to about eight records, the time doubling
with each, and gives only what the network itself agrees with. Records that are not found are filled with what
all units say together. Clipping the whole gradient changes nothing; noise, rounding to 16 bits and clipping
record by record stop steps 2 and 3, while step 1 dies slowly.

Cost: under 0.01 CPU-seconds for one record, 0.01 for 4, up to 1 for 8 of 784 inputs behind 128 units.

References:
    Phong et al., Privacy-Preserving Deep Learning via Additively Homomorphic Encryption (IEEE TIFS 2018),
    section III: step 1. Fowl et al., Robbing the Fed (ICLR 2022), section 3: step 2. Dimitrov et al., SPEAR:
    Exact Gradient Inversion of Batches in Federated Learning (NeurIPS 2024), section 3: step 3.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.gradients import LabelCounter, seen_updates
from privet.attacks.ranges import Range
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_SAME = 1e-3  # relative distance of two guesses of one record
_ZERO = 1e-3  # a unit's share of a direction below which it counts as silent
_AT_ONCE = 2000  # directions tried together
_AGREED = 0.97  # share of units at which a row must be silent as the network says
_LOOKED_AT = 4  # of those, how many different ones a record are looked at more closely
_ALIKE = 1e-5  # one less the cosine of directions that count as one


@part
class LinearLayerInversion(Attack):
    """Reads rows exactly from the gradient of a first linear layer with bias: x = dW / db.

    Needs ``view.network``, ``seen["gradients"]`` (k, d) and ``seen["counts"]`` (k,); no inputs of its own.

    Attributes:
        tries: random sets of units to try a device, for several records behind ReLU.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "updates"

    tries: Annotated[int, Field(ge=0, le=100_000_000)] = 100_000

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        network, gradients, counts = seen_updates(view)
        name, layer, rectified = _first_linear(network)
        space = Range(view)
        counter = LabelCounter(network, view, space.draw(200, rng.child("probe")))
        weights, biases = gradients[f"{name}.weight"].double(), gradients[f"{name}.bias"].double()
        found = []
        for at, count in enumerate(counts):
            rows = _weighed(weights[at], biases[at])[None]
            if count > 1:
                exact = _alone(weights[at], biases[at], count)
                if rectified and len(exact) < count:
                    exact = _distinct(
                        exact, self._sparse(weights[at], biases[at], count, layer, rng.child("units", at))
                    )
                rows = torch.cat((exact[:count], rows.expand(count, -1)[len(exact) :]))
            found.append(rows)
        guess = torch.cat(found).float().reshape(-1, *view.shape)
        return Reconstruction(guess.clamp(0, 1) if space.image else guess, torch.cat(counter(gradients, counts)))

    def _sparse(self, weights: Tensor, biases: Tensor, count: int, layer: nn.Linear, rng: Source) -> Tensor:
        """Returns rows (at most count, inputs) found by step 3; none where the gradient has another rank."""
        left, sizes, right = torch.linalg.svd(weights, full_matrices=False)
        rank = int((sizes > 1e-5 * sizes[0].clamp_min(1e-30)).sum())
        units = (left[:, :count].norm(dim=1) > 1e-6).nonzero().flatten()
        found = weights.new_empty(0, weights.shape[1])
        if rank != count or len(units) < count:
            return found
        left, right = left[units, :count], sizes[:count, None] * right[:count]
        pool = _Pool(count)
        for number in range(-(-self.tries // _AT_ONCE)):
            drawn = rng.child(number).uniform((_AT_ONCE, len(units))).topk(count - 1, dim=1).indices
            pool.search(left, drawn)
            turn = pool.confirmed()
            if turn.shape[1] == count:
                scale = torch.linalg.lstsq(left @ turn, biases[units, None]).solution[:, 0]
                rows = torch.linalg.solve(turn, right) / torch.where(scale == 0, 1, scale)[:, None]
                # A row is right where the network is silent for it at the units where its direction is.
                told = (rows @ layer.weight[units].double().T + layer.bias[units].double() <= 0).T
                right_rows = rows[(told == _silent(left @ turn)).double().mean(0) > _AGREED]
                found = right_rows if len(right_rows) > len(found) else found
            if len(found) == count:
                break
        return found


def _silent(answers: Tensor) -> Tensor:
    """Returns which units (m, t) are silent for each of t directions."""
    return answers.abs() < _ZERO * answers.abs().amax(0)


class _Pool:
    """Directions that were met, how often, and for how many units each is silent.

    A record's own direction is met again and again; one that mixes two records is silent for fewer units
    than either, so that taking the most silent first keeps it out.

    Args:
        count: how many are looked for.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._met = torch.empty(count, 0, dtype=torch.float64)
        self._hits: list[int] = []
        self._quiet: list[int] = []

    def search(self, left: Tensor, drawn: Tensor) -> None:
        """Counts the directions in which drawn units (t, count - 1) of ``left`` (m, count) are silent."""
        chosen = left[drawn]
        chosen = chosen / chosen.norm(dim=2, keepdim=True)
        values, turned = torch.linalg.eigh(chosen.mT @ chosen)
        # Two directions in which the drawn units are silent would say nothing.
        directions = turned[values[:, 1] > 1e-6, :, 0]
        silent = _silent(left @ directions.T)
        counted = silent.sum(0)
        for _ in range(_LOOKED_AT * self._count):
            if not len(counted) or int(counted.max()) < self._count + 2:  # by chance the drawn units alone are silent
                break
            place = int(counted.argmax())
            quiet = left[silent[:, place]]
            direction = torch.linalg.eigh(quiet.T @ quiet)[1][:, 0]
            alike = (directions @ direction).abs() > 1 - _ALIKE
            alike[place] = True
            self._add(direction, int(alike.sum()), int(counted[place]))
            counted = torch.where(alike, 0, counted)

    def _add(self, direction: Tensor, hits: int, quiet: int) -> None:
        alike = (self._met.T @ direction).abs() > 1 - _ALIKE
        if bool(alike.any()):
            self._hits[int(alike.int().argmax())] += hits
            return
        self._met = torch.cat((self._met, direction[:, None]), 1)
        self._hits.append(hits)
        self._quiet.append(quiet)

    def confirmed(self) -> Tensor:
        """Returns independent directions met twice or more, (count, at most count), the most silent first."""
        chosen = self._met[:, :0]
        for at in sorted(range(len(self._hits)), key=lambda at: -self._quiet[at]):
            more = torch.cat((chosen, self._met[:, at : at + 1]), 1)
            if self._hits[at] > 1 and chosen.shape[1] < self._count and torch.linalg.svdvals(more)[-1] > 1e-4:
                chosen = more
        return chosen


def _first_linear(network: nn.Sequential) -> tuple[str, nn.Linear, bool]:
    """Returns the name of the first layer with weights, the layer, and whether ReLU comes next."""
    layers = [(name, layer) for name, layer in network.named_modules() if not list(layer.children())]
    for at, (name, layer) in enumerate(layers):
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            return name, layer, at + 1 < len(layers) and isinstance(layers[at + 1][1], nn.ReLU)
        if list(layer.parameters()):
            raise InputError(
                f"the network's first layer with weights is {layer}",
                allowed="a linear layer with a bias",
                do="use inverting-gradients",
            )
    raise InputError("the network has no layer with weights", do="use another attack")


def _weighed(weights: Tensor, biases: Tensor) -> Tensor:
    """Returns the row (inputs,) that best explains a layer's gradient as of one record, with equal noise."""
    return biases @ weights / biases.square().sum().clamp_min(1e-30)


def _alone(weights: Tensor, biases: Tensor, count: int) -> Tensor:
    """Returns the rows (r, inputs) on which two units or more agree, those of most units first."""
    active = biases.abs() > 1e-6 * biases.abs().max()
    guesses = weights[active] / biases[active, None]
    if not len(guesses):
        return guesses
    reach = _SAME * guesses.norm(dim=1).clamp_min(1e-12)
    same = torch.cdist(guesses, guesses, compute_mode="donot_use_mm_for_euclid_dist") < reach
    found = guesses[:0]
    for place in same.sum(1).argsort(descending=True, stable=True):
        if same[place].sum() < 2 or len(found) == count:
            break
        found = _distinct(found, guesses[same[place]].mean(0)[None])
    return found


def _distinct(kept: Tensor, more: Tensor) -> Tensor:
    """Returns the rows kept and those of ``more`` that are not among them."""
    for row in more:
        far = (kept - row).norm(dim=1) > 10 * _SAME * row.norm().clamp_min(1e-12)
        if bool(far.all()):
            kept = torch.cat((kept, row[None]))
    return kept
