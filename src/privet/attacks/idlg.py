"""iDLG: the label of a record is read from the gradient exactly, then the record by matching the gradient.

The gradient of the cross-entropy with respect to the last layer's bias has one negative entry: that of the
true label. Knowing it, L-BFGS makes small the squared distance between the gradient of a guess and the seen
gradient.

Assumes: the gradient of one step, at known values. The label is exact for one record under any network whose
last layer is linear; for several records their labels are counted (see :mod:`privet.attacks.gradients`).
The record is found where the network is smooth (tanh, no max-pooling): exactly, then. Elsewhere the distance is
flat or jumps, and `inverting-gradients` does better, as it does under noise, having a prior.

Cost: .03 CPU-seconds a start for one 28 x 28 image behind a perceptron, .5 behind a LeNet (100 iterations).

References:
    Zhao, Mopuri, Bilen, iDLG: Improved Deep Leakage from Gradients (2020), section 3 and algorithm 1;
    Zhu, Liu, Han, Deep Leakage from Gradients (NeurIPS 2019): the matching.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.gradients import Differentiator, LabelCounter, flat, seen_updates
from privet.attacks.ranges import Range
from privet.engines.view import View
from privet.parts import Grade, part
from privet.randomness import Source

_ENOUGH = 1e-9  # a squared distance, over the gradient's own square, at which no other start is tried


@part
class Idlg(Attack):
    """Reads one record's label from the gradient exactly and seeks the record by L2 gradient matching.

    Needs ``view.network``, ``seen["gradients"]`` (k, d) and ``seen["counts"]`` (k,); uses ``knows`` as
    ``inverting-gradients`` does.

    Attributes:
        starts: random starts at most; the best is kept.
        iterations: of L-BFGS in each.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "updates"

    starts: Annotated[int, Field(ge=1, le=1000)] = 3
    iterations: Annotated[int, Field(ge=1, le=100_000)] = 100

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        network, gradients, counts = seen_updates(view)
        space = Range(view)
        counter = LabelCounter(network, view, space.draw(200, rng.child("probe")))
        labels = counter(gradients, counts)
        differentiate = Differentiator(network.double())
        guesses = []
        for at, (wanted, told) in enumerate(zip(flat(gradients).double(), labels, strict=True)):
            best, least = torch.empty(0), torch.inf
            for start in range(self.starts):
                first = space.draw(len(told), rng.child("start", at, start))
                found, cost = self._match(differentiate, first.double(), told, wanted, space)
                if cost < least or not len(best):
                    best, least = found, cost
                if least < _ENOUGH:
                    break
            guesses.append(best)
        return Reconstruction(torch.cat(guesses), torch.cat(labels))

    def _match(
        self, differentiate: Differentiator, start: Tensor, labels: Tensor, wanted: Tensor, space: Range
    ) -> tuple[Tensor, float]:
        """Returns the rows (b, ...) that a start leads to, and how much of the gradient they leave unexplained."""
        guess = start.clone().requires_grad_()
        size = wanted.square().sum().clamp_min(1e-30)
        search = torch.optim.LBFGS(
            [guess], max_iter=self.iterations, history_size=50, line_search_fn="strong_wolfe", tolerance_change=1e-14
        )

        def distance() -> Tensor:
            found = differentiate.vector(space.rows(guess)[None], labels[None])[0]
            cost = (found - wanted).square().sum() / size
            (guess.grad,) = torch.autograd.grad(cost, guess)
            return cost.detach()

        search.step(distance)
        kept = space.clamp(guess.detach().nan_to_num())
        found = differentiate.vector(space.rows(kept)[None], labels[None])[0]
        return space.rows(kept).float(), float((found - wanted).square().sum() / size)
