"""Blinded inference: helpers multiply for a source whose values they can't see.

For each linear layer the source sends ``X + r`` with a fresh uniform mask ``r``; helpers, each for some output
channels, return ``W (X + r)``; the source takes off ``W r``, which it worked out beforehand, adds the bias, and
computes ReLU and pooling itself. Modulo m the sum of anything and a uniform mask is uniform: what all helpers of one
inference see together is independent of the image, whoever colludes among them. Not with whoever worked out ``W r``:
that one knows ``r``. The weights are not hidden, nor which network, how many images and when.

References:
    F. Tramer, D. Boneh, Slalom: Fast, Verifiable and Private Execution of Neural Networks in Trusted Hardware,
    ICLR 2019 (arXiv 1806.03287).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.errors import InputError, RefusedError
from privet.inference.distributed.fixed_point import FIELD, FixedLayer, Ring, fixed
from privet.inference.distributed.masks import Masks
from privet.inference.distributed.networks import Conv2d, Layer, Linear, Network, apply

Multiply = Callable[[int, Tensor, int], Tensor]
"""Which linear layer, what is to be multiplied (batch, ...) in the ring, its first mask's number -> products."""


@dataclass(eq=False)
class Ready:
    """Masks for one batch, with their products; serves one batch.

    Attributes:
        first: number of the first image's mask.
        count: how many images.
        products: ``W r`` of each blinded layer, by its number, (count, rows, ...) in the ring; None once it has served.
    """

    first: int
    count: int
    products: dict[int, Tensor] | None


class Blinded:
    """A network whose linear layers others multiply, blinded.

    Args:
        network: with its weights.
        ring: what sums are modulo.

    Attributes:
        layers: its linear layers in whole numbers, in order; their numbers are what messages name.

    Raises:
        InputError: a linear layer can't be had in whole numbers.
    """

    def __init__(self, network: Network, ring: Ring = FIELD) -> None:
        self.network, self.ring = network, ring
        self.layers = tuple(fixed(layer) for layer in network.layers if isinstance(layer, (Conv2d, Linear)))

    def evaluate(self, number: int, sealed: Tensor) -> Tensor:
        """Returns the product of a layer and a sealed batch, as helpers do."""
        return self.ring.reduced(self.layers[number].kernel(self.ring.centred(sealed)))

    def here(self, number: int, sealed: Tensor, _: int) -> Tensor:
        """Multiplies in this process; a :data:`Multiply`."""
        return self.evaluate(number, sealed)

    def rounded(self, value: Tensor) -> Tensor:
        """Returns the outputs as whole numbers give them, nothing masked, nothing sent: what rounding alone does."""
        value, number = value.double(), -1
        for layer in self.network.layers:
            if not isinstance(layer, (Conv2d, Linear)):
                value = apply(layer, value)
                continue
            number += 1
            whole, scale = self.layers[number].quantised(value, self.ring)
            value = self.layers[number].restored(self.layers[number].kernel(whole), scale)
        return value

    def prepare(
        self, masks: Masks, count: int, multiply: Multiply | None = None, at_source: Collection[int] = ()
    ) -> Ready:
        """Takes masks for ``count`` images and works out their products, when there is time.

        Args:
            masks: where masks come from.
            count: how many images.
            multiply: who multiplies; this process by default. It learns the masks, and so must be none of the helpers.
            at_source: numbers of layers that the source computes itself, and that need no mask.
        """
        first, products = masks.take(count), {}
        for number in range(len(self.layers)):
            if number not in at_source:
                products[number] = (multiply or self.here)(number, self._masks(masks, first, count, number), first)
        return Ready(first, count, products)

    def run(self, value: Tensor, ready: Ready, masks: Masks, multiply: Multiply) -> Tensor:
        """Returns the outputs (batch, ...), float64, for inputs (batch, ...).

        Args:
            value: inputs, finite.
            ready: unused masks for as many images; layers without a product there are computed here.
            masks: where they came from.
            multiply: who multiplies.

        Raises:
            InputError: the inputs are not finite, of another shape, or not as many as the masks.
            RefusedError: the masks were used before.
        """
        if tuple(value.shape) != (ready.count, *self.network.inputs):
            raise InputError(
                f"inputs of shape {tuple(value.shape)}",
                allowed=f"{(ready.count, *self.network.inputs)} for these masks",
            )
        products, ready.products = ready.products, None
        if products is None:
            raise RefusedError("masks serve once", do="prepare others")
        value, number = value.double(), -1
        for layer in self.network.layers:
            if not isinstance(layer, (Conv2d, Linear)):
                value = apply(layer, value)
                continue
            number += 1
            product = products.pop(number, None)
            if product is None:
                value = apply(_double(layer), value)
                continue
            mask = self._masks(masks, ready.first, ready.count, number)
            exchange = Exchange(self, number, mask, product, multiply, ready.first)
            value = exchange.open(exchange.evaluate(exchange.seal(value)))
        return value

    def _masks(self, masks: Masks, first: int, count: int, number: int) -> Tensor:
        shape = self.layers[number].layer.inputs
        return torch.stack([masks.mask(first + at, number, shape, self.ring) for at in range(count)])


class Exchange:
    """One layer for one batch: an :class:`~privet.inference.contract.Inference`.

    Args:
        owner: the network.
        number: of the layer.
        mask: uniform in the ring, (batch, ...); used once.
        product: of the layer and the mask, (batch, rows, ...).
        multiply: who evaluates.
        first: number of the first image's mask.
    """

    def __init__(
        self, owner: Blinded, number: int, mask: Tensor, product: Tensor, multiply: Multiply, first: int
    ) -> None:
        self._owner, self._number, self._first, self._multiply = owner, number, first, multiply
        self._mask: Tensor | None = mask
        self._product, self._scale = product, torch.zeros(0)

    def seal(self, value: Tensor) -> Tensor:
        """Returns the whole numbers of activations plus the mask, uniform in the ring.

        Raises:
            RefusedError: the mask has served.
            InputError: an activation is not finite.
        """
        if self._mask is None:
            raise RefusedError("a mask serves once", do="prepare another")
        mask, self._mask = self._mask, None
        whole, self._scale = self._layer.quantised(value, self._owner.ring)
        return self._owner.ring.reduced(whole + mask)

    def evaluate(self, message: Tensor) -> Tensor:
        """Returns the product of the layer and the message, from whoever multiplies."""
        return self._multiply(self._number, message, self._first)

    def open(self, message: Tensor) -> Tensor:
        """Returns the outputs of the layer, float64."""
        ring = self._owner.ring
        return self._layer.restored(ring.centred(ring.reduced(message - self._product)), self._scale)

    @property
    def _layer(self) -> FixedLayer:
        return self._owner.layers[self._number]


def _double(layer: Conv2d | Linear) -> Layer:
    if isinstance(layer, Linear):
        return Linear(layer.name, layer.inputs, layer.outputs, layer.weight.double(), layer.bias.double())
    return Conv2d(
        layer.name,
        layer.inputs,
        layer.outputs,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.weight.double(),
        layer.bias.double(),
    )
