"""What an observer sees of every step of DP-SGD, made by the training's own code.

The code that trains a fleet runs here on a network of one linear layer whose records are canaries: its
own sampler, its own per-record gradients and clipping, its own noise. Only the optimiser is watched.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from privet.engines import Channel
from privet.evidence.canaries import Sums
from privet.mechanisms.chain import Chain
from privet.randomness import Source
from privet.training.contract import Bench, Lesson
from privet.training.descent import Descent
from privet.training.precision import Precision
from privet.training.protocols.dp_sgd import DpSgd

_STILL = 1e-30  # a learning rate that moves no parameter, so that a canary's gradient stays what it is


def observed_steps(protocol: DpSgd, rounds: int, devices: int = 1) -> Sums:
    """Returns a training of ``rounds`` rounds that tells the noisy sum of each step.

    A gradient must have at most one value that is not zero. It is the gradient of a record with that one
    feature: the loss's gradient at the two outputs is (-1/2, 1/2), whose direction is looked at.

    Args:
        protocol: how devices train; adaptive clipping is not supported, its sums have no fixed scale.
        rounds: in which the records' device takes part.
        devices: whose sums are added up (distributed noise only); all but one hold nothing but zeros.
    """
    still = replace(protocol, learning_rate=_STILL, momentum=0.0)
    alone = protocol.noise == "each-device"

    def sums(gradients: Tensor, rng: Source) -> Tensor:
        inputs = gradients.abs() * math.sqrt(2)
        labels = (gradients.sum(1) < 0).long()
        seen = _watched(still, inputs, labels, rounds, rng.child("device", 0))
        for other in range(1, 1 if alone else devices):
            nothing = torch.zeros(1, inputs.shape[1])
            seen += _watched(still, nothing, labels.new_zeros(1), rounds, rng.child("device", other))
        return seen

    return sums


class _Watched(Descent):
    """Keeps what it is given in place of moving the parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(iter(network.parameters()))
        self.seen: list[Tensor] = []

    def step(self, learning_rate: float, momentum: float) -> None:
        """Keeps the gradients along the direction (-1, 1) of the two outputs, and clears them."""
        first, second = self.gradients.view(2, -1)
        self.seen.append((second - first) / math.sqrt(2))
        self.gradients.zero_()


def _watched(protocol: DpSgd, inputs: Tensor, labels: Tensor, rounds: int, rng: Source) -> Tensor:
    network = nn.Sequential(nn.Linear(inputs.shape[1], 2, bias=False))
    nn.init.zeros_(network[0].weight)  # type: ignore[arg-type]
    descent = _Watched(network)
    bench = Bench(network, network, nn.Sequential(), descent, Precision())
    for number in range(1, rounds + 1):
        shuffle, noise = rng.child("shuffle", number), rng.child("noise", number)
        protocol.train(Lesson(bench, inputs, labels, Chain(), shuffle, noise, Channel("canary", number)))
    # The code divides each sum by the batch it expects.
    return torch.stack(descent.seen) * (protocol.rate(len(labels)) * len(labels))
