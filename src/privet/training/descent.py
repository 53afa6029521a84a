"""Stochastic gradient descent on one flat vector of parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from privet.randomness import Source


class Descent:
    """SGD with momentum over all parameters of some modules at once.

    The parameters and their gradients become views into two flat vectors, so that a step is four
    vector operations whatever the number of layers. The update is that of ``torch.optim.SGD``.

    Args:
        parameters: what is trained; their memory layout is kept.
    """

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        trained = list(parameters)
        size = sum(value.numel() for value in trained)
        self.values, self.gradients, self.velocity = torch.empty(size), torch.zeros(size), torch.zeros(size)
        at = 0
        with torch.no_grad():
            for parameter in trained:
                end = at + parameter.numel()
                value = _like(self.values[at:end], parameter)
                value.copy_(parameter)
                parameter.data = value
                parameter.grad = _like(self.gradients[at:end], parameter)
                at = end

    def reset(self) -> None:
        """Forgets momentum and gradients."""
        self.velocity.zero_()
        self.gradients.zero_()

    def step(self, learning_rate: float, momentum: float) -> None:
        """Moves the parameters along the accumulated gradients and clears these."""
        if momentum:
            self.velocity.mul_(momentum).add_(self.gradients)
            self.values.add_(self.velocity, alpha=-learning_rate)
        else:
            self.values.add_(self.gradients, alpha=-learning_rate)
        self.gradients.zero_()


def _like(segment: Tensor, parameter: Tensor) -> Tensor:
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        out, into, height, width = parameter.shape
        return segment.view(out, height, width, into).permute(0, 3, 1, 2)
    return segment.view(parameter.shape)


def batches(rows: int, size: int, rng: Source | None = None) -> tuple[Tensor, ...]:
    """Returns row indices in near-equal batches of at most ``size``, shuffled when a source is given.

    Near-equal, because a last batch of one record has no minimum, maximum or variance of its own.
    """
    order = torch.arange(rows) if rng is None else rng.permutation(rows)
    return torch.tensor_split(order, max(1, -(-rows // size)))
