"""DeepInversion: inputs that a trained model is sure of, shaped by what the model remembers of its data.

From random starts, Adam makes small the cross-entropy of a class, the total variation and the square of the
pixels, and, where the model has batch normalisation, the distance between the statistics of the guesses and
those that the layers kept of the training data. Images are shifted at random in each step.

Assumes: the values of a trained model; nothing else was seen. Without batch normalisation only the image
priors hold the guess, and what comes back is what the model looks for in a class: seldom a likeness of a
record. Training with noise or on many users' rows weakens it; so does a model without batch statistics.

Cost: 2 CPU-seconds for ten classes (LeNet on 28 x 28, 8 starts of 200 steps).

References:
    Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion (CVPR 2020), equations 2
    to 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor, nn

from privet.attacks.contract import Attack, Reconstruction, Target, network_of
from privet.attacks.ranges import Range
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_SHIFT = 2  # pixels


@part
class DeepInversion(Attack):
    """Makes one input a class that a trained model is sure of, using batch statistics where it has them.

    Needs ``view.network``, ``view.shape`` and ``view.classes``; for rows that are no images it uses
    ``knows["inputs"]`` for the range of each column.

    Attributes:
        starts: inputs made together for each class, of which the one of smallest cost is returned.
        steps: of Adam.
        learning_rate: of Adam, in units of the pixels' range or the columns' spread; falls to 0.
        total_variation: weight of the total variation of images.
        square: weight of the mean square.
        statistics: weight of the distance of batch statistics.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "model"

    starts: Annotated[int, Field(ge=1, le=1000)] = 8
    steps: Annotated[int, Field(ge=1, le=100_000)] = 200
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    total_variation: Annotated[float, Field(ge=0)] = 2.0
    square: Annotated[float, Field(ge=0)] = 4.0
    statistics: Annotated[float, Field(ge=0)] = 1.0

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        network = network_of(view).requires_grad_(False).eval()
        if not view.shape or view.classes < 2:
            raise InputError("the view says no shape or fewer than two classes", do="set its shape and classes")
        space = Range(view)
        labels = torch.arange(view.classes).repeat_interleave(self.starts)
        guess = space.draw(len(labels), rng.child("start")).requires_grad_()
        adam = torch.optim.Adam([guess], self.learning_rate)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        shifts = rng.child("shift").integers(2 * _SHIFT + 1, 2 * self.steps).reshape(-1, 2) - _SHIFT
        with _statistics(network) as distances:
            for across, down in shifts.tolist():
                distances.clear()
                moved = guess.roll((across, down), (-1, -2)) if space.image else guess
                cost = self._cost(network(space.rows(moved)), labels, guess, space)
                total = cost.sum() + self.statistics * len(labels) * sum(distances)
                (guess.grad,) = torch.autograd.grad(total, guess)
                adam.step()
                fall.step()
                guess.data = space.clamp(guess.data)
            cost = self._cost(network(space.rows(guess)), labels, guess, space).detach()
        kept = cost.view(view.classes, self.starts).argmin(1) + torch.arange(view.classes) * self.starts
        return Reconstruction(space.rows(guess.detach())[kept], torch.arange(view.classes))

    def _cost(self, logits: Tensor, labels: Tensor, guess: Tensor, space: Range) -> Tensor:
        sure = F.cross_entropy(logits, labels, reduction="none")
        return (
            sure
            + self.total_variation * space.variation(guess[:, None])
            + self.square * guess.square().flatten(1).mean(1)
        )


@contextmanager
def _statistics(network: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list to which each pass adds, for each batch normalisation, how far its input's statistics are off."""
    distances: list[Tensor] = []

    def compare(layer: Any, given: tuple[Tensor, ...]) -> None:
        values = given[0].transpose(0, 1).flatten(1)
        means, variances = values.mean(1), values.var(1, correction=0)
        distances.append((means - layer.running_mean).norm() + (variances - layer.running_var).norm())

    kept = [
        layer.register_forward_pre_hook(compare)
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    try:
        yield distances
    finally:
        for handle in kept:
            handle.remove()
