"""Fitting a network to pairs: Adam, whose step size rises and falls once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from privet.randomness import Source

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Fitting:
    """How long and how fast.

    Attributes:
        epochs: passes over the pairs.
        learning_rate: peak step size.
        batch_size: pairs a step.
    """

    epochs: int
    learning_rate: float
    batch_size: int

    def __call__(
        self, make: Callable[[], Network], lost: Callable[[Network, Tensor], Tensor], pairs: int, rng: Source
    ) -> Network:
        """Returns a fitted network in evaluation mode; torch's global generator is left alone.

        Args:
            make: builds the network.
            lost: the network and the indices of some pairs -> what is to become small.
            pairs: how many there are.
            rng: of first weights, shuffles and dropout.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62, 1)[0]))
            network = make()
            adam = torch.optim.Adam(network.parameters(), self.learning_rate)
            steps = self.epochs * -(-pairs // self.batch_size)
            rise = torch.optim.lr_scheduler.OneCycleLR(adam, self.learning_rate, total_steps=max(steps, 2))
            for _ in range(self.epochs):
                for batch in torch.split(torch.randperm(pairs), self.batch_size):
                    adam.zero_grad()
                    lost(network, batch).backward()
                    adam.step()
                    rise.step()
        return network.eval()
