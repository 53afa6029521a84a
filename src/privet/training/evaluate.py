"""Accuracy of a model, as everybody runs it and with the noise that its mechanisms add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile

import torch
from torch import Tensor, nn

from privet.mechanisms.chain import Chain
from privet.randomness import Source
from privet.training.descent import batches
from privet.training.local import Task

AT_ONCE = 500
"""Inputs in memory at once."""


@torch.no_grad()
def begun(task: Task, inputs: Tensor) -> tuple[Tensor, int]:
    """Returns what the first stages make of inputs that are predicted again and again, and how many stages those are.

    They are stages that hold no values, so that they make the same of an input whatever the model learns.
    """
    if task.protocol.cuts or task.couples_records:
        return inputs, 0
    network = task.network().eval()
    fixed = list(takewhile(lambda stage: not stage.state_dict(), network))
    for stage in fixed:
        inputs = torch.cat([stage(part) for part in inputs.split(AT_ONCE)])
    return inputs, len(fixed)


def predictor(
    task: Task, state: Mapping[str, Tensor], mechanisms: Chain, noise: Source, begin: int = 0
) -> Callable[[Tensor], Tensor]:
    """Returns a function from inputs (n, ...) to logits (n, classes).

    Args:
        task: which protocol and model. Where one record changes what is made of another, inputs go in
            batches as in training; else in batches of :data:`AT_ONCE`, which changes no answer.
        state: the model's values; it answers in evaluation mode, without dropout.
        mechanisms: what features pass; ``Chain()`` for none.
        noise: their noise.
        begin: first stage of the network, for inputs that have passed those before it; see :func:`begun`.
    """
    network = task.network()
    network.load_state_dict(state)
    front, head = task.protocol.split(task.model, network.eval())
    front = nn.Sequential(*list(front)[begin:])
    size = task.protocol.batch_size if task.couples_records else AT_ONCE

    @torch.no_grad()
    def predict(inputs: Tensor) -> Tensor:
        logits = []
        for rows in batches(len(inputs), size):
            with task.precision.autocast():
                features = front(inputs[rows])
                if task.protocol.cuts:
                    features = mechanisms(features.flatten(1).float(), noise).view(features.shape)
                logits.append(head(features).float())
        return torch.cat(logits)

    return predict


def accuracy(predict: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor) -> float:
    """Returns the share of inputs (n, ...) whose largest logit is the label's."""
    return float((predict(inputs).argmax(1) == labels).double().mean())
