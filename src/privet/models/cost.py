"""What a network costs a device: multiplications and parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def multiplications(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Returns the multiplications of one forward pass for one input; a training step takes three times as many.

    Convolutions and linear layers count; activations, pooling and normalisation cost nothing, as in
    the documents' cost models.
    """
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            window = math.prod(module.kernel_size) * module.in_channels // module.groups
            total += window * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.in_features * output[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        with torch.no_grad():
            network(torch.zeros(2, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def parameters(network: nn.Module) -> int:
    """Returns the number of trained values."""
    return sum(value.numel() for value in network.parameters())
