"""Sequential convolutional networks as frozen descriptions of their layers, taken from torch modules.

A description says all that planning needs (shapes) and all that running needs (weights). Batch normalisation is
folded into the convolution before it. A module built under ``torch.device("meta")`` has no weights to hold, and is
described all the same: enough to plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from privet import parts
from privet.errors import InputError, nearest

ALLOWED = "Conv2d, BatchNorm2d right after it, ReLU, MaxPool2d, Flatten, Linear, in one nn.Sequential"
PAPER: dict[str, tuple[dict[str, object], tuple[int, int, int], int]] = {
    "lenet": ({"name": "lenet", "maps": (8, 16)}, (1, 28, 28), 10),
    "cifar": ({"name": "cifar-cnn"}, (3, 32, 32), 10),
    "vgg16": ({"name": "vgg", "depth": 16}, (3, 128, 128), 196),
    "vgg19": ({"name": "vgg", "depth": 19}, (3, 128, 128), 40),
}
"""The document's networks: the model part's plan table, the shape of an input, the classes."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes:
        name: where it stands in the module, for example ``convolution1`` or ``3.0``.
        inputs: shape of one input, without the batch: (channels, height, width), or (values,).
        outputs: shape of one output.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution of one group without dilation, padded with zeros.

    Attributes:
        kernel: height and width of its kernels.
        stride: steps down and across.
        padding: rows and columns of zeros on each side.
        weight: (output channels, input channels, kernel height, kernel width).
        bias: (output channels,); zeros where the module has none.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    weight: Tensor = field(compare=False, repr=False)
    bias: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Relu(Layer):
    """The larger of each value and 0."""


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest value of each window.

    Attributes:
        kernel: height and width of a window.
        stride: steps down and across.
        padding: rows and columns around, which are never the largest.
        ceil: whether a window that reaches over the end counts.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil: bool


@dataclass(frozen=True)
class Flatten(Layer):
    """All values of all maps in one row, map by map."""


@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer.

    Attributes:
        weight: (outputs, inputs).
        bias: (outputs,); zeros where the module has none.
    """

    weight: Tensor = field(compare=False, repr=False)
    bias: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class Network:
    """A sequential convolutional network.

    Two networks are equal when their layers have the same shapes, whatever their weights.

    Attributes:
        name: what reports call it.
        layers: in order.
    """

    name: str
    layers: tuple[Layer, ...]

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape of one output."""
        return self.layers[-1].outputs

    def __call__(self, value: Tensor) -> Tensor:
        """Returns the outputs (batch, ...) for inputs (batch, ...): what the module says in evaluation."""
        for layer in self.layers:
            value = apply(layer, value)
        return value


def apply(layer: Layer, value: Tensor) -> Tensor:
    """Returns the outputs of one layer (batch, ...) for its inputs (batch, ...)."""
    match layer:
        case Conv2d():
            return functional.conv2d(value, layer.weight, layer.bias, layer.stride, layer.padding)
        case MaxPool():
            return functional.max_pool2d(value, layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil)
        case Linear():
            return functional.linear(value, layer.weight, layer.bias)
        case Relu():
            return value.relu()
        case _:
            return value.flatten(1)


def described(module: nn.Module, shape: tuple[int, ...], name: str = "network") -> Network:
    """Returns the description of a sequential network, with a copy of its weights.

    Args:
        module: an ``nn.Sequential``, which may hold others. Batch normalisation is taken as in evaluation.
        shape: shape of one input, (channels, height, width).
        name: what reports call it.

    Raises:
        InputError: it holds a layer of another kind or an option that is not described, or the shapes don't fit.
    """
    if not isinstance(module, nn.Sequential):
        raise InputError(f"{type(module).__name__} is not a sequential network", allowed=ALLOWED)
    layers: list[Layer] = []
    for place, stage in _stages(module, ""):
        inputs = layers[-1].outputs if layers else tuple(shape)
        if type(stage) is nn.BatchNorm2d:
            layers[-1:] = [_folded(layers[-1] if layers else None, stage, place)]
        else:
            layers.append(_described(place, stage, inputs))
    if not layers:
        raise InputError("the network has no layers", allowed=ALLOWED)
    return Network(name, tuple(layers))


def paper_network(name: str, weights: bool = True) -> Network:
    """Returns one of the document's networks, freshly initialised.

    Args:
        name: ``lenet``, ``cifar``, ``vgg16`` or ``vgg19``.
        weights: whether it can run; without, it takes no memory and can only be planned.

    Raises:
        InputError: no such network.
    """
    if name not in PAPER:
        raise InputError(f"no network called {name!r}", allowed=", ".join(PAPER), do=nearest(name, list(PAPER)))
    table, shape, classes = PAPER[name]
    with torch.device("cpu" if weights else "meta"):
        return described(parts.build("models", table).build(shape, classes), shape, name)


def _stages(module: nn.Sequential, before: str) -> Iterator[tuple[str, nn.Module]]:
    for name, stage in module.named_children():
        if isinstance(stage, nn.Sequential):
            yield from _stages(stage, f"{before}{name}.")
        else:
            yield f"{before}{name}", stage


def _described(name: str, stage: nn.Module, inputs: tuple[int, ...]) -> Layer:
    # The exact type: a subclass may compute something else.
    kind = type(stage)
    if kind is nn.Conv2d and isinstance(stage, nn.Conv2d):
        return _convolution(name, stage, inputs)
    if kind is nn.ReLU:
        return Relu(name, inputs, inputs)
    if kind is nn.MaxPool2d and isinstance(stage, nn.MaxPool2d):
        return _pooling(name, stage, inputs)
    if kind is nn.Flatten and isinstance(stage, nn.Flatten):
        if (stage.start_dim, stage.end_dim) != (1, -1):
            raise InputError(f"{name} flattens only some dimensions", allowed="nn.Flatten() without arguments")
        return Flatten(name, inputs, (math.prod(inputs),))
    if kind is nn.Linear and isinstance(stage, nn.Linear):
        if inputs != (stage.in_features,):
            raise InputError(f"{name} takes {stage.in_features} values, but gets {inputs}")
        weight = stage.weight.detach().clone()
        return Linear(name, inputs, (stage.out_features,), weight, _bias(stage.bias, weight))
    raise InputError(f"{name} is a {kind.__name__}, which can't be distributed", allowed=ALLOWED)


def _convolution(name: str, stage: nn.Conv2d, inputs: tuple[int, ...]) -> Conv2d:
    if stage.groups != 1 or stage.dilation != (1, 1) or stage.padding_mode != "zeros":
        raise InputError(f"{name} has groups, dilation or a padding other than zeros", allowed="a plain Conv2d")
    if len(inputs) != 3 or inputs[0] != stage.in_channels:
        raise InputError(f"{name} takes {stage.in_channels} maps, but gets {inputs}")
    kernel, stride = _pair(stage.kernel_size), _pair(stage.stride)
    if stage.padding == "same" and not (kernel[0] % 2 and kernel[1] % 2):
        raise InputError(f"{name} pads an even kernel unevenly", allowed="padding in numbers")
    if isinstance(stage.padding, str):
        padding = (kernel[0] // 2, kernel[1] // 2) if stage.padding == "same" else (0, 0)
    else:
        padding = _pair(stage.padding)
    high, wide = (_size(*each, False) for each in zip(inputs[1:], kernel, stride, padding, strict=True))
    _refuse_empty(name, inputs, high, wide)
    weight = stage.weight.detach().clone()
    bias = _bias(stage.bias, weight)
    return Conv2d(name, inputs, (stage.out_channels, high, wide), kernel, stride, padding, weight, bias)


def _pooling(name: str, stage: nn.MaxPool2d, inputs: tuple[int, ...]) -> MaxPool:
    if len(inputs) != 3:
        raise InputError(f"{name} takes maps, but gets {inputs}")
    if stage.return_indices or _pair(stage.dilation) != (1, 1):
        raise InputError(f"{name} has dilation or returns places", allowed="a plain MaxPool2d")
    kernel, stride, padding = _pair(stage.kernel_size), _pair(stage.stride), _pair(stage.padding)
    high, wide = (_size(*each, stage.ceil_mode) for each in zip(inputs[1:], kernel, stride, padding, strict=True))
    _refuse_empty(name, inputs, high, wide)
    return MaxPool(name, inputs, (inputs[0], high, wide), kernel, stride, padding, stage.ceil_mode)


def _folded(before: Layer | None, stage: nn.BatchNorm2d, place: str) -> Conv2d:
    if not isinstance(before, Conv2d):
        raise InputError(f"{place} does not follow a convolution", allowed="BatchNorm2d right after Conv2d")
    if stage.running_mean is None or stage.running_var is None:
        raise InputError(f"{place} keeps no running statistics", allowed="BatchNorm2d(track_running_stats=True)")
    if stage.num_features != before.outputs[0]:
        raise InputError(f"{place} takes {stage.num_features} maps, but gets {before.outputs}")
    scale = (stage.running_var.detach() + stage.eps).rsqrt()
    if stage.weight is not None:
        scale = scale * stage.weight.detach()
    bias = (before.bias - stage.running_mean.detach()) * scale
    if stage.bias is not None:
        bias = bias + stage.bias.detach()
    weight = before.weight * scale[:, None, None, None]
    return Conv2d(
        before.name, before.inputs, before.outputs, before.kernel, before.stride, before.padding, weight, bias
    )


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()


def _size(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    room = size + 2 * padding - kernel
    steps = math.ceil(room / stride) if ceil else room // stride
    if ceil and steps * stride >= size + padding:  # torch: a window may not begin in the padding behind the end
        steps -= 1
    return steps + 1


def _refuse_empty(name: str, inputs: tuple[int, ...], high: int, wide: int) -> None:
    if high < 1 or wide < 1:
        raise InputError(f"{name} leaves nothing of {inputs}", do="give larger images")
