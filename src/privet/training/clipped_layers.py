"""Per-record gradients of one layer from what went in and what came back: their norms and their weighted sum.

A linear layer applied at L positions of a record (L = 1 for a plain one, the output pixels for a convolution)
has the gradient ``sum over l of g_l x_l'``, with x the inputs and g the loss's gradient at the outputs. Three
ways to its norm: the product of two norms where L = 1; the gradient itself where it is small; else the
Gram matrices of x and g ("ghost norm"), which never make the gradient. The cheapest is taken by its count of
multiplications.

References:
    Goodfellow, Efficient Per-Example Gradient Computations, 2015; Li et al., Large Language Models Can Be
    Strong Differentially Private Learners, ICLR 2022, section 4; Bu et al., Scalable and Efficient Training of
    Large Convolutional Neural Networks with Differential Privacy, NeurIPS 2022, section 4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

_AT_ONCE = 8  # records whose positions are multiplied at once
_ROUNDING = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class Gradients:
    """One layer's gradients of each record of a batch.

    Attributes:
        squared: square of each record's norm, weight and bias together, shape (b,).
        add: adds the sum of the records' gradients, each times its weight (b,), to the layer's ``.grad``.
    """

    squared: Tensor
    add: Callable[[Tensor], None]


Layer = nn.Linear | nn.Conv2d


def closed_form(layer: nn.Module) -> bool:
    """Whether the layer's per-record gradients are known here."""
    if type(layer) is nn.Linear:
        return True
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def forward(layer: Layer, value: Tensor) -> Tensor:
    """Returns the layer's output, through which gradients flow to ``value`` but not to the parameters."""
    bias = None if layer.bias is None else layer.bias.detach()
    if isinstance(layer, nn.Conv2d):
        made: Tensor = layer._conv_forward(value, layer.weight.detach(), bias)
        return made
    return nn.functional.linear(value, layer.weight.detach(), bias)


def gradients(layer: Layer, inputs: Tensor, outward: Tensor) -> Gradients:
    """Returns one layer's per-record gradients.

    Args:
        layer: linear or convolution.
        inputs: what went in, shape (b, ...).
        outward: the loss's gradient at the output, shape (b, ...).
    """
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, inputs, outward)
    if inputs.dim() == 2:
        return _linear(layer, inputs, outward)
    into, out = inputs.flatten(1, -2), outward.flatten(1, -2)

    def weighted_sum(weights: Tensor) -> Tensor:
        total: Tensor = torch.tensordot(out * weights[:, None, None], into, dims=([0, 1], [0, 1]))
        return total

    return _positions(layer, lambda part: into[part].mT, out.mT, weighted_sum)


def _linear(layer: nn.Linear, inputs: Tensor, outward: Tensor) -> Gradients:
    size = _squared(inputs) if layer.weight.requires_grad else torch.zeros(len(inputs))
    if _trains(layer.bias):
        size.add_(1)

    def add(weights: Tensor) -> None:
        weighted = outward * weights[:, None]
        if layer.weight.requires_grad:
            _grad(layer.weight).addmm_(weighted.T, inputs)
        _add_bias(layer.bias, weighted.sum(0))

    return Gradients(size.mul_(_squared(outward)), add)


def _convolution(layer: nn.Conv2d, inputs: Tensor, outward: Tensor) -> Gradients:
    def weighted_sum(weights: Tensor) -> Tensor:
        weighted = outward * weights[:, None, None, None]
        shape, stride = layer.weight.shape, layer.stride
        total: Tensor = conv2d_weight(inputs, shape, weighted, stride, layer.padding, layer.dilation)
        return total

    size = tuple(outward.shape[2:])
    room = inputs.new_empty(_AT_ONCE, layer.weight[0].numel(), math.prod(size))
    return _positions(layer, lambda part: _patches(layer, inputs[part], size, room), outward.flatten(2), weighted_sum)


def _patches(layer: nn.Conv2d, inputs: Tensor, size: tuple[int, ...], room: Tensor) -> Tensor:
    """Returns what each output pixel sees, shape (b, into, pixels), in ``room``, which is used again and again.

    It is what ``unfold`` makes, which is three times slower; fresh memory each time would take longer than the copy.
    """
    (down, right), padding = layer.stride, cast(tuple[int, int], layer.padding)
    value = nn.functional.pad(inputs, (padding[1], padding[1], padding[0], padding[0])).contiguous()
    rows, channels, height, width = value.stride()
    strides = (rows, channels, height * layer.dilation[0], width * layer.dilation[1], height * down, width * right)
    view = value.as_strided((len(value), layer.in_channels, *layer.kernel_size, *size), strides)
    made = room[: len(value)]
    made.view(view.shape).copy_(view)
    return made


def _positions(
    layer: Layer, inputs: Callable[[slice], Tensor], outward: Tensor, weighted_sum: Callable[[Tensor], Tensor]
) -> Gradients:
    """Returns the gradients of a layer applied at many positions.

    Args:
        layer: whose.
        inputs: some records' inputs, shape (records, into, positions); all at once would not fit a cache.
        outward: shape (b, out, positions).
        weighted_sum: of the weight's gradients, without making each.
    """
    rows, out, positions = outward.shape
    into = layer.weight[0].numel()
    at_bias = outward.sum(2) if _trains(layer.bias) else None
    squared = torch.zeros(rows) if at_bias is None else _squared(at_bias)
    each = None
    if layer.weight.requires_grad and into * out <= positions * (into + out):
        each = torch.empty(rows, out, into)
        for part in _parts(rows):
            torch.bmm(outward[part], inputs(part).mT, out=each[part])
        each = each.flatten(1)
        squared += _squared(each)
    elif layer.weight.requires_grad:
        for part in _parts(rows):
            squared[part] += _ghost(inputs(part), outward[part])
    return Gradients(squared, functools.partial(_add_positions, layer, each, at_bias, weighted_sum))


def _parts(rows: int) -> list[slice]:
    return [slice(at, at + _AT_ONCE) for at in range(0, rows, _AT_ONCE)]


def _add_positions(
    layer: Layer,
    each: Tensor | None,
    at_bias: Tensor | None,
    weighted_sum: Callable[[Tensor], Tensor],
    weights: Tensor,
) -> None:
    if layer.weight.requires_grad:
        made = weighted_sum(weights) if each is None else (weights @ each).view(layer.weight.shape)
        _grad(layer.weight).add_(made)
    if at_bias is not None:
        _add_bias(layer.bias, weights @ at_bias)


def _ghost(inputs: Tensor, outward: Tensor) -> Tensor:
    """Returns the squared norms from Gram matrices, plus what rounding may have taken away."""
    product = (inputs.mT @ inputs).mul_(outward.mT @ outward).sum((1, 2))
    most = inputs.square().sum((1, 2)) * outward.square().sum((1, 2))
    return product.clamp_min_(0) + _ROUNDING * most


def _squared(value: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(value, dim=1)
    return norms.square_()


def _trains(bias: Tensor | None) -> bool:
    return bias is not None and bias.requires_grad


def _add_bias(bias: Tensor | None, total: Tensor) -> None:
    if bias is not None and bias.requires_grad:
        _grad(bias).add_(total)


def _grad(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
