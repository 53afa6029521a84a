"""Whole numbers for linear layers: products that are exact, of sums that provably fit a word of 32 bits.

Row c of a layer (an output channel) becomes whole numbers ``W_c = round(s_c w_c)``, an activation ``x`` becomes
``X = round(t x)``. No sum wraps when it stays within H, the largest number that a ring holds, and

    ``|W_c . X| <= min(max_c |W_c|_1 max |X|, max_c |W_c|_2 max |X in a window|_2)``    (Hoelder, Cauchy-Schwarz).

So ``t`` follows from the activations of each image at each layer: nothing is calibrated, nothing can be out of range,
and no bit is given away. The scales stay with the source.

``|W_c|_1 <= 2^21`` makes float64 enough: what a helper multiplies lies within 2^31, so every partial sum, in every
order, is a whole number of at most 2^52. A float64 convolution on any BLAS is therefore exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from privet.errors import InputError
from privet.inference.distributed.networks import Conv2d, Layer, Linear

MOST_SUM = 1 << 21
"""The most that the absolute whole weights of a row may add up to."""
FAN_IN, ROWS = 1 << 15, 1 << 13
"""The most weights of a row, and the most rows of a layer, for which sums and checks are exact."""
_ROOM = 1 << 26
"""Bytes of unfolded inputs at a time."""


@dataclass(frozen=True)
class Ring:
    """Whole numbers modulo 2^32 or a little less; each is a word of 32 bits on the way.

    Attributes:
        name: what messages call it.
        modulus: values lie in [0, modulus).
    """

    name: str
    modulus: int

    @property
    def half(self) -> int:
        """The largest absolute value that it holds."""
        return (self.modulus - 1) // 2

    def reduced(self, values: Tensor) -> Tensor:
        """Returns values (int64) in [0, modulus)."""
        return values.remainder(self.modulus)

    def centred(self, values: Tensor) -> Tensor:
        """Returns values in [0, modulus) as the numbers nearest to 0 that they stand for."""
        return torch.where(values > self.half, values - self.modulus, values)


FIELD = Ring("field", 2**32 - 5)
"""Modulo the largest prime below 2^32: a field, where one random row is enough to check an answer."""
WORDS = Ring("words", 2**32)
"""Z_2^32 itself, in which twenty-four are needed."""
RINGS = {ring.name: ring for ring in (FIELD, WORDS)}


@dataclass(frozen=True)
class Kernel:
    """Whole weights of some rows of a layer.

    Attributes:
        weight: (rows, ...), float64 whole numbers.
        stride: of a convolution.
        padding: of a convolution.
    """

    weight: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __call__(self, values: Tensor) -> Tensor:
        """Returns the exact products (batch, rows, ...) of centred values (batch, ...), both int64.

        Rows add up to at most 2^21 in absolute value, or values to accordingly less; see the module.
        """
        if self.weight.ndim == 2:
            return functional.linear(values.double(), self.weight).long()
        unfolded = 8 * self.weight[0].numel() * max(math.prod(values.shape[2:]), 1)
        pieces = values.split(max(1, _ROOM // unfolded))
        done = [functional.conv2d(p.double(), self.weight, None, self.stride, self.padding).long() for p in pieces]
        return done[0] if len(done) == 1 else torch.cat(done)

    def rows(self, first: int, last: int) -> Kernel:
        """Returns rows ``first`` to ``last``, the latter not included."""
        return Kernel(self.weight[first:last], self.stride, self.padding)

    def __len__(self) -> int:
        return len(self.weight)


@dataclass(frozen=True)
class FixedLayer:
    """A linear layer in whole numbers.

    Attributes:
        layer: the layer.
        kernel: its whole weights.
        scale: what each row was multiplied by, (rows,) float64.
        largest: the most that the absolute whole weights of a row add up to.
        longest: the largest Euclidean norm of a row.
    """

    layer: Conv2d | Linear
    kernel: Kernel
    scale: Tensor
    largest: int
    longest: float

    def quantised(self, value: Tensor, ring: Ring) -> tuple[Tensor, Tensor]:
        """Returns activations (batch, ...) as whole numbers, int64, and what each image was multiplied by, (batch,).

        Raises:
            InputError: an activation is not finite.
        """
        value = value.double()
        reach = self.reach(value)
        if not bool(torch.isfinite(reach).all()):
            raise InputError(f"the inputs of {self.layer.name} hold NaN or infinity", allowed="finite numbers")
        # Rounding moves each number by up to half a unit: a row's norm times half the square root of its length.
        room = ring.half - max(self.largest, self.longest * math.sqrt(self.kernel.weight[0].numel()))
        scale = torch.where(reach > 1e-30, room / reach.clamp_min(1e-30), 1.0)
        whole = (value * scale.reshape(-1, *(1,) * (value.ndim - 1))).round()
        self.refuse_overflow(whole, ring)
        return whole.long(), scale

    def reach(self, value: Tensor) -> Tensor:
        """Returns what no absolute sum of whole weights and values (batch, ...), float64, exceeds, (batch,)."""
        squares = value.square()
        if isinstance(self.layer, Conv2d):
            ones = torch.ones(1, 1, *self.layer.kernel, dtype=torch.float64)
            squares = functional.conv2d(squares.sum(1, keepdim=True), ones, None, self.layer.stride, self.layer.padding)
            longest = squares.flatten(1).amax(1).sqrt()
        else:
            longest = squares.sum(1).sqrt()
        return torch.minimum(self.largest * value.flatten(1).abs().amax(1), self.longest * longest * (1 + 1e-9))

    def refuse_overflow(self, whole: Tensor, ring: Ring) -> None:
        """Refuses whole activations (float64) whose sums could leave a ring.

        Raises:
            InputError: a sum could wrap.
        """
        most = float(self.reach(whole).max()) if len(whole) else 0.0
        if self.largest > MOST_SUM or not most <= ring.half:
            raise InputError(
                f"sums of {self.layer.name} could reach {most:.0f}",
                allowed=f"up to {ring.half}, weights that add up to at most {MOST_SUM}",
                do="give the activations or the weights fewer bits",
            )

    def restored(self, sums: Tensor, scale: Tensor) -> Tensor:
        """Returns the outputs (batch, ...), float64, with the bias, of centred sums and the scales of their images."""
        spread = (1, -1) + (1,) * (sums.ndim - 2)
        unit = scale.reshape(-1, *(1,) * (sums.ndim - 1)) * self.scale.reshape(spread)
        return sums.double() / unit + self.layer.bias.double().reshape(spread)


def fixed(layer: Layer) -> FixedLayer:
    """Returns a convolution or linear layer in whole numbers.

    Of the 31 bits that a sum has, so many go to the weights that rounding them and rounding the activations disturb
    a sum about equally: half, and half the logarithm of how many weights a row has.

    Raises:
        InputError: a weight is not finite, or the layer is too wide for exact sums.
    """
    if not isinstance(layer, (Conv2d, Linear)):
        raise InputError(f"{layer.name} is not linear", allowed="a convolution or a linear layer")
    weight = layer.weight.detach().double()
    rows, fan = len(weight), weight[0].numel()
    if fan > FAN_IN or rows > ROWS:
        raise InputError(
            f"{layer.name} has {rows} rows of {fan} weights, whose sums can't be kept within 32 bits",
            allowed=f"up to {ROWS} rows of {FAN_IN}",
            do="run it at the source",
        )
    sums = weight.flatten(1).abs().sum(1)
    if not bool(torch.isfinite(sums).all()):
        raise InputError(f"the weights of {layer.name} hold NaN or infinity", allowed="finite numbers")
    most = min(2 ** round((31 + math.log2(fan)) / 2), MOST_SUM)
    # Rounding adds up to half a unit a weight.
    scale = torch.where(sums > 1e-30, (most - fan / 2) / sums.clamp_min(1e-30), 1.0)
    whole = (weight.flatten(1) * scale[:, None]).round()
    largest = max(int(whole.abs().sum(1).max()), 1)
    shaped = whole.reshape(weight.shape).contiguous()
    kernel = Kernel(shaped, layer.stride, layer.padding) if isinstance(layer, Conv2d) else Kernel(shaped)
    return FixedLayer(layer, kernel, scale, largest, float(whole.square().sum(1).sqrt().max()))
