"""The published mode, run: pieces of an unblinded network on helpers, as a plan says who holds which maps.

Whoever holds input maps of a layer receives them (or the partial maps of each sender, which it sums), computes, and
gives on its maps or partial maps. Here the source relays between helpers, so that each needs to know only the source;
what a helper receives is what the document's helpers receive. Nothing is hidden: this mode is here to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from privet.errors import InputError
from privet.inference.distributed.networks import Conv2d, Flatten, Layer, Linear, MaxPool, Network
from privet.inference.distributed.plans import Plan

KINDS = ("convolution", "linear", "relu", "pool")


@dataclass(frozen=True)
class Piece:
    """What one device does in one layer.

    Attributes:
        kind: a convolution, a linear layer, ReLU or pooling.
        maps: numbers of its input maps.
        kernel: of a convolution or pooling.
        stride: of a convolution or pooling.
        padding: of a convolution or pooling.
        ceil: of pooling.
        weight: all weights of the layer.
    """

    kind: str
    maps: tuple[int, ...]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    ceil: bool = False
    weight: Tensor | None = field(default=None, compare=False, repr=False)

    def head(self) -> dict[str, Any]:
        """Returns all but the weights as a message's head."""
        names = ("kind", "maps", "kernel", "stride", "padding", "ceil")
        return {name: getattr(self, name) for name in names}


def piece_of(head: Mapping[str, Any], arrays: Sequence[Tensor], weight: Tensor | None) -> Piece:
    """Returns the piece that a message describes.

    Raises:
        InputError: it is malformed, or its arrays don't fit.
    """
    maps, kind = head.get("maps"), head.get("kind")
    if not isinstance(maps, list) or not maps or not all(type(each) is int and each >= 0 for each in maps):
        raise InputError("a piece of a network lacks its maps")
    kernel, stride, padding = (_pair(head.get(name)) for name in ("kernel", "stride", "padding"))
    if kind not in KINDS or (kind in KINDS[:2]) != (weight is not None) or len(arrays) != 2:
        raise InputError("this is no piece of a network", allowed=", ".join(KINDS))
    arriving, bias = arrays
    if arriving.ndim < 4 or bias.ndim != 1 or not len(maps) == arriving.shape[2] == len(bias):
        raise InputError("the arrays of a piece don't fit", allowed="(batch, senders, maps, ...) and (maps,)")
    if kind == "convolution" and weight is not None and (weight.ndim != 4 or max(maps) >= weight.shape[1]):
        raise InputError("the weights of a piece don't fit")
    return Piece(str(kind), tuple(maps), kernel, stride, padding, bool(head.get("ceil")), weight)


def _pair(found: Any) -> tuple[int, int]:
    if isinstance(found, list) and len(found) == 2 and all(type(each) is int and 0 <= each < 1024 for each in found):
        return found[0], found[1]
    raise InputError("a size in a piece is malformed", allowed="two whole numbers from 0 to 1023")


def computed(piece: Piece, arriving: Tensor, bias: Tensor) -> Tensor:
    """Returns what a device makes: its maps, or its partial maps of all output maps; a linear layer without its bias.

    Args:
        piece: what to do.
        arriving: (batch, senders, maps, ...), partial maps of each sender, or whole ones of one.
        bias: (maps,), added to the sum.
    """
    value = arriving.sum(1) + bias.reshape(-1, *(1,) * (arriving.ndim - 3))
    try:
        match piece.kind:
            case "convolution" if piece.weight is not None:
                slices = piece.weight[:, list(piece.maps)]
                return functional.conv2d(value, slices, None, piece.stride, piece.padding)
            case "linear" if piece.weight is not None:
                return functional.linear(value.flatten(1), piece.weight)
            case "pool":
                return functional.max_pool2d(value, piece.kernel, piece.stride, piece.padding, ceil_mode=piece.ceil)
            case _:
                return value.relu()
    except RuntimeError:
        raise InputError("the shapes of a piece don't fit") from None


Ask = Callable[[int, int, Piece, Tensor, Tensor], Tensor]
"""Device, number of the layer among those with work, piece, arriving, bias -> what the device makes."""


def run(network: Network, plan: Plan, value: Tensor, ask: Ask) -> Tensor:
    """Returns the outputs (batch, ...) of a network for inputs (batch, ...), computed as a plan says.

    Args:
        network: with its weights; the one that was planned.
        plan: who holds what.
        value: inputs.
        ask: has a helper do its piece; the source's own are done here.
    """
    layers = [layer for layer in network.layers if not isinstance(layer, Flatten)]
    parts, bias = [value], torch.zeros(value.shape[1])
    for index, (layer, owners) in enumerate(zip(layers, plan.owners, strict=True)):
        owner = torch.from_numpy(owners.copy())
        whole = isinstance(layer, Linear) or plan.load.tasks[index].segments == 1
        made: list[Tensor] = []
        holders = owner.unique().tolist()
        for device in holders:
            maps = torch.arange(parts[0].shape[1]) if whole else (owner == device).nonzero()[:, 0]
            arriving = torch.stack([_maps(part, maps, whole) for part in parts], 1)
            own = torch.zeros(1) if whole and arriving.shape[2] == 1 else bias[maps]
            numbers = tuple(range(arriving.shape[2])) if whole else tuple(maps.tolist())
            piece = _piece(layer, numbers)
            made.append(
                computed(piece, arriving, own)
                if device == plan.fleet.helpers
                else ask(device, index, piece, arriving, own)
            )
        parts, bias = _given_on(layer, made, owner, holders, parts, whole)
    return parts[0]


def _maps(part: Tensor, maps: Tensor, whole: bool) -> Tensor:
    if part.ndim == 2:  # values behind a linear layer are one map
        return part[:, None]
    return part if whole else part[:, maps]


def _given_on(
    layer: Layer, made: list[Tensor], owner: Tensor, holders: list[int], before: list[Tensor], whole: bool
) -> tuple[list[Tensor], Tensor]:
    if isinstance(layer, Conv2d):
        return made, layer.bias
    if isinstance(layer, Linear):
        return [made[0] + layer.bias], torch.zeros(1)
    if whole:
        result = made[0]
        return [result[:, 0] if before[0].ndim == 2 else result], torch.zeros(result.shape[1])
    joined = made[0].new_zeros(len(made[0]), len(owner), *made[0].shape[2:])
    for device, maps in zip(holders, made, strict=True):
        joined[:, owner == device] = maps
    return [joined], torch.zeros(len(owner))


def _piece(layer: Layer, maps: tuple[int, ...]) -> Piece:
    if isinstance(layer, Conv2d):
        return Piece("convolution", maps, layer.kernel, layer.stride, layer.padding, False, layer.weight)
    if isinstance(layer, MaxPool):
        return Piece("pool", maps, layer.kernel, layer.stride, layer.padding, layer.ceil)
    if isinstance(layer, Linear):
        return Piece("linear", maps, weight=layer.weight)
    return Piece("relu", maps)
