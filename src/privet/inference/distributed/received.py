"""What one helper of a plan receives: the maps it holds in every layer, and the partial maps of every sender."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from privet.errors import InputError
from privet.inference.distributed.fleets import Indices
from privet.inference.distributed.networks import Conv2d, Flatten, Linear, Network, apply
from privet.inference.distributed.plans import Plan


@torch.no_grad()
def received(network: Network, plan: Plan, helper: int, inputs: Tensor) -> dict[str, Tensor]:
    """Returns everything that a helper holds of some images, over all layers together.

    That is more than constraint (8f) counts: behind a convolution it receives one partial map from each sender for each
    map that it holds, and the sum besides; and the maps of one tensor can differ from layer to layer.

    Args:
        network: the network, with its weights.
        plan: for a request for that network.
        helper: its number.
        inputs: images (n, channels, height, width).

    Returns:
        By the name of the layer that it works on, and the sender where there are several, maps (n, maps, height,
        width) or values (n, values).

    Raises:
        InputError: there is no such helper in the plan, or the plan is for another network.
    """
    layers = [layer for layer in network.layers if not isinstance(layer, Flatten)]
    if [layer.name for layer in layers] != [task.name for task in plan.load.tasks]:
        raise InputError(f"the plan is for another network than {network.name}", do="plan this one")
    if not 0 <= helper < plan.fleet.helpers:
        raise InputError(f"no helper {helper}", allowed=f"0 to {plan.fleet.helpers - 1}; the source sees everything")
    got: dict[str, Tensor] = {}
    value = before = inputs
    for index, (layer, owners) in enumerate(zip(layers, plan.owners, strict=True)):
        if (owners == helper).any():
            mine = _held(owners, helper) if len(owners) > 1 else torch.arange(value.shape[1])
            got[layer.name] = value[:, mine]
            last, senders = layers[index - 1], np.unique(plan.owners[index - 1])
            if isinstance(last, Conv2d) and len(senders) > 1:
                for sender in senders:
                    theirs = _held(plan.owners[index - 1], int(sender))
                    got[f"{layer.name} from {sender}"] = _partial(last, before, theirs, mine)
        before = value
        value = apply(layer, value.flatten(1) if isinstance(layer, Linear) else value)
    return got


def _held(owners: Indices, device: int) -> Tensor:
    return torch.from_numpy(np.flatnonzero(owners == device))


def _partial(layer: Conv2d, inputs: Tensor, theirs: Tensor, mine: Tensor) -> Tensor:
    """Returns the partial maps that come from some input maps, for some output maps; the bias is added to their sum."""
    part = dataclasses.replace(layer, weight=layer.weight[mine][:, theirs], bias=torch.zeros(len(mine)))
    return apply(part, inputs[:, theirs])
