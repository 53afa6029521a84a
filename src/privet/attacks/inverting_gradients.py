"""Inverting Gradients: rows are sought whose gradient points where the seen one points.

From random starts, signed Adam steps make small the cosine distance between the gradient of the guess
and the seen gradient; for images the total variation besides, which is small in pictures and large in
noise. The start with the smallest cost at the end is the answer. All devices and starts run together.
Labels are read from the gradient first.

Assumes: the gradient of one step, so FedSGD or one local batch; the values that it was computed at; how many
rows are behind it. A long first step (0.5 of the pixels' range, shrinking to a hundredth) matters: with the
0.1 of the paper most starts end in a bad place when the network has max-pooling. Clipping changes nothing;
noise does once it hides the gradient's direction. LeNet on MNIST, one row, SSIM: .98 with tanh and first
weights, .75 with ReLU, .56 after three epochs with either.

Cost: 2 CPU-seconds a device with one row, 5 with four (LeNet on 28 x 28, 4 starts of 500 steps).

References:
    Geiping, Bauermeister, Droege, Moeller, Inverting Gradients: How Easy Is It to Break Privacy in Federated
    Learning? (NeurIPS 2020), equation 4; signs and restarts of section 6.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.gradients import Differentiator, LabelCounter, flat, seen_updates
from privet.attacks.ranges import Range
from privet.engines.view import View
from privet.parts import Grade, part
from privet.randomness import Source

_LAST = 0.01  # the last step's length over the first's
_AT_ONCE = 64  # rows in memory at once


@part
class InvertingGradients(Attack):
    """Seeks rows whose gradient has the direction of the seen one, smooth where they are images.

    Needs ``view.network``, ``seen["gradients"]`` (k, d) and ``seen["counts"]`` (k,); uses ``inputs`` and
    ``labels`` in ``knows`` to count labels and, for rows that are no images, for the range of each column.

    Attributes:
        starts: random starts a device, of which the best is kept.
        steps: of each start.
        learning_rate: length of the first step, in units of the pixels' range or the columns' spread.
        total_variation: weight of the total variation of images; other rows have none.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "updates"

    starts: Annotated[int, Field(ge=1, le=1000)] = 4
    steps: Annotated[int, Field(ge=1, le=100_000)] = 500
    learning_rate: Annotated[float, Field(gt=0)] = 0.5
    total_variation: Annotated[float, Field(ge=0)] = 0.02

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        network, gradients, counts = seen_updates(view)
        space = Range(view)
        counter = LabelCounter(network, view, space.draw(200, rng.child("probe")))
        labels = counter(gradients, counts)
        differentiate, wanted = Differentiator(network), flat(gradients)
        groups = defaultdict(list)
        for at, count in enumerate(counts):
            groups[count].extend([at] * self.starts)
        guesses: list[Tensor] = [torch.empty(0)] * len(counts)
        costs = [torch.inf] * len(counts)
        for count, places in groups.items():
            for number, chunk in enumerate(torch.tensor(places).split(max(_AT_ONCE // count, 1))):
                start = space.draw(len(chunk) * count, rng.child("start", count, number)).unflatten(0, (-1, count))
                told = torch.stack([labels[at] for at in chunk])
                found, cost = self._descend(differentiate, start, told, wanted[chunk], space)
                for at, guess, reached in zip(chunk.tolist(), found, cost.tolist(), strict=True):
                    if reached < costs[at] or not len(guesses[at]):
                        guesses[at], costs[at] = guess, reached
        return Reconstruction(torch.cat(guesses), torch.cat(labels))

    def _descend(
        self, differentiate: Differentiator, start: Tensor, labels: Tensor, wanted: Tensor, space: Range
    ) -> tuple[Tensor, Tensor]:
        """Returns the rows (k, b, ...) that k starts lead to, and their costs (k,)."""
        guess = start.clone().requires_grad_()
        adam = torch.optim.Adam([guess], self.learning_rate)
        shrink = torch.optim.lr_scheduler.ExponentialLR(adam, _LAST ** (1 / self.steps))
        best, least = start, torch.full((len(start),), torch.inf)
        for _ in range(self.steps):
            distance = 1 - F.cosine_similarity(differentiate.vector(space.rows(guess), labels), wanted, 1)
            cost = distance + self.total_variation * space.variation(guess)
            (slope,) = torch.autograd.grad(cost.sum(), guess)
            better = cost.detach() < least
            best = torch.where(better.view(-1, *[1] * (guess.dim() - 1)), guess.detach(), best)
            least = torch.where(better, cost.detach(), least)
            guess.grad = slope.sign()
            adam.step()
            shrink.step()
            guess.data = space.clamp(guess.data)
        return space.rows(best), least
