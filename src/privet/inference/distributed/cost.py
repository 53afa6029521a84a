"""What each piece of a network costs: multiplications, memory and bits (equations 2, 3, 4 and 6 of the document).

A segment is one INPUT map of a layer. Whoever holds input map p of a convolution multiplies it with its slice of all
filters, which makes one partial map for each output map; partial maps are summed by whoever holds the output map.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from privet.errors import InputError
from privet.inference.distributed.networks import Conv2d, Flatten, Layer, Linear, Network

WORD_BYTES = 4
WORD_BITS = 32


@dataclass(frozen=True)
class Task:
    """The work of one layer, in equal segments.

    Attributes:
        name: name of the layer.
        kind: a convolution, an activation (or pooling), or a fully connected layer.
        segments: P of the layer before; 1 for a fully connected layer, and for activations behind one.
        arriving: number of maps that come in; more than ``segments`` where a fully connected layer takes many maps.
        multiplications: of one segment (equations 2 and 3).
        memory: bytes of the weights of one segment (equation 4).
        outputs: number of maps (or partial maps of each segment) that go out.
        values: values of one map that goes out.
        tensor: number of the convolution that made its input maps, 0 for the image; activations and pooling keep it.
        block: number of pooling layers before that convolution.
    """

    name: str
    kind: Literal["convolution", "activation", "linear"]
    segments: int
    arriving: int
    multiplications: int
    memory: int
    outputs: int
    values: int
    tensor: int
    block: int

    @property
    def unit_bits(self) -> int:
        """Bits of one map that goes out."""
        return WORD_BITS * self.values


@functools.lru_cache(maxsize=64)
def tasks(network: Network) -> tuple[Task, ...]:
    """Returns the work of every layer of a network; flattening is no work.

    Raises:
        InputError: it does not begin with a convolution and end with a linear layer.
    """
    layers = [layer for layer in network.layers if not isinstance(layer, Flatten)]
    if not isinstance(layers[0], Conv2d) or not isinstance(layers[-1], Linear):
        raise InputError(
            f"{network.name} can't be spread over devices", allowed="a first layer Conv2d and a last layer Linear"
        )
    made: list[Task] = []
    tensor = block = made_in = 0
    maps = layers[0].inputs[0]
    for layer in layers:
        task = _task(layer, maps, tensor, made_in)
        made.append(task)
        maps = task.outputs
        if task.kind != "activation":
            tensor, made_in = tensor + 1, block
        elif layer.inputs != layer.outputs:
            block += 1
    return tuple(made)


def _task(layer: Layer, maps: int, tensor: int, block: int) -> Task:
    if isinstance(layer, Conv2d):
        outputs, window, values = layer.outputs[0], layer.kernel[0] * layer.kernel[1], _values(layer.outputs)
        return Task(
            name=layer.name,
            kind="convolution",
            segments=maps,
            arriving=maps,
            multiplications=window * outputs * values,
            memory=WORD_BYTES * window * outputs,
            outputs=outputs,
            values=values,
            tensor=tensor,
            block=block,
        )
    if isinstance(layer, Linear):
        weights = layer.inputs[0] * layer.outputs[0]
        return Task(layer.name, "linear", 1, maps, weights, WORD_BYTES * weights, 1, layer.outputs[0], tensor, block)
    return Task(layer.name, "activation", maps, maps, 0, 0, maps, _values(layer.outputs), tensor, block)


def _values(shape: tuple[int, ...]) -> int:
    return shape[1] * shape[2] if len(shape) == 3 else shape[0]


def multiplications(network: Network) -> int:
    """Returns the multiplications of one inference."""
    return sum(task.segments * task.multiplications for task in tasks(network))
