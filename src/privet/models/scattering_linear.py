"""Two orders of wavelet scattering, which no data has shaped, and a linear layer on them.

Cost: about 1,600 multiplications a pixel, once a record: seven times the time of the histograms of
:mod:`privet.models.hog_linear`, and three times their features, over which the noise of private training spreads.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privet.models.contract import Model, refuse_shape
from privet.parts import Grade, part

SCALE = 4
"""Side of the square that one feature averages over, in pixels: two octaves."""


class Scattering(nn.Module):
    """Scattering coefficients of images (n, c, h, w): averages, |wavelet|, and |wavelet of |wavelet||.

    Morlet wavelets of two octaves in some directions; moduli of the finer octave pass the coarser one again.
    Every map is averaged over squares of 4 x 4 pixels by a Gaussian. Channels of the image are averaged. The
    maps of one order are centred and scaled by their spread in this image, the whole to l2 norm 1. Nothing is
    trained, and one image's features depend on no other image.

    Args:
        directions: of the wavelets, over the half circle.

    References:
        Bruna, Mallat, Invariant Scattering Convolution Networks, IEEE PAMI 2013, section 2; Oyallon and Mallat,
        Deep Roto-Translation Scattering for Object Classification, CVPR 2015.
    """

    fine: Tensor
    coarse: Tensor

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.directions = directions
        self.register_buffer("fine", _morlets(0, directions), persistent=False)
        self.register_buffer("coarse", _morlets(1, directions), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Returns features (n, maps * h/4 * w/4), each row of l2 norm 1, or nearly 0 for an even image."""
        grey = images.mean(1, keepdim=True)
        fine = _moduli(grey, self.fine, 1)
        twice = _moduli(fine.flatten(0, 1)[:, None], self.coarse, 2).unflatten(0, fine.shape[:2]).flatten(1, 2)
        first = torch.cat((_averages(fine, 4), _averages(_moduli(grey, self.coarse, 2), 2)), dim=1)
        orders = (_averages(grey, 4), first, _averages(twice, 2))
        return nn.functional.normalize(torch.cat([_standardised(order) for order in orders], dim=1), eps=1.0)


def _morlets(octave: int, directions: int) -> Tensor:
    """Returns wavelets of one octave, real then imaginary, shape (2 * directions, 1, side, side); each sums to 0."""
    spread, frequency, slant = 0.8 * 2**octave, 0.75 * math.pi / 2**octave, 4 / directions
    reach = math.ceil(3 * spread)
    down, right = torch.meshgrid(*[torch.arange(-reach, reach + 1).double()] * 2, indexing="ij")
    turns = (torch.arange(directions).double() * math.pi / directions)[:, None, None]
    along, across = right * turns.cos() + down * turns.sin(), down * turns.cos() - right * turns.sin()
    bell = torch.exp(-(along.square() + (slant * across).square()) / (2 * spread**2))
    wave = bell * torch.exp(1j * frequency * along)
    wavelets = (wave - bell * (wave.sum((1, 2)) / bell.sum((1, 2)))[:, None, None]) * slant / (2 * math.pi * spread**2)
    return torch.cat((wavelets.real, wavelets.imag))[:, None].float()


def _moduli(maps: Tensor, wavelets: Tensor, stride: int) -> Tensor:
    """Returns |map * wavelet| of maps (n, 1, h, w), at every pixel or every second: (n, directions, h, w)."""
    reach = wavelets.shape[-1] // 2
    padded = nn.functional.pad(maps, (reach,) * 4, "replicate")
    real, imaginary = nn.functional.conv2d(padded, wavelets, stride=stride).chunk(2, dim=1)
    return torch.hypot(real, imaginary)


def _averages(maps: Tensor, step: int) -> Tensor:
    """Returns Gaussian averages of maps (n, k, h, w) at every ``step``-th pixel, (n, k, h / step, w / step)."""
    spread, reach = 0.4 * step, 2 * step - 1 + step // 2
    middle = (step - 1) / 2
    taps = torch.exp(-((torch.arange(-reach, reach + step) - middle).square()) / (2 * spread**2))
    taps /= taps.sum()
    padded = nn.functional.pad(maps, (reach, reach, reach, reach), "replicate")
    rows = nn.functional.conv2d(padded.flatten(0, 1)[:, None], taps[None, None, :, None], stride=(step, 1))
    made = nn.functional.conv2d(rows, taps[None, None, None, :], stride=(1, step))
    return made.view(*maps.shape[:2], *made.shape[2:])


def _standardised(maps: Tensor) -> Tensor:
    """Returns maps (n, k, h, w) of one order as rows (n, k * h * w), centred and scaled image by image."""
    return nn.functional.layer_norm(maps.flatten(1), maps.flatten(1).shape[1:])


@part
class ScatteringLinear(Model):
    """Fixed wavelet scattering and one trained linear layer: 1,225 features on 28 x 28, made for private training.

    Attributes:
        directions: of the wavelets, over the half circle; 8 make 3,969 features of 28 x 28, at five times the cost.

    References:
        Tramer, Boneh, Differentially Private Learning Needs Better Features (or Much More Data), ICLR 2021.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("coefficients",)

    directions: Annotated[int, Field(ge=2, le=16)] = 4

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 2 * SCALE or shape[2] < 2 * SCALE or shape[1] % SCALE or shape[2] % SCALE:
            raise refuse_shape(self, shape, "images (channels, height, width), sides multiples of 4 from 8")
        maps = 1 + 2 * self.directions + self.directions**2
        features = maps * (shape[1] // SCALE) * (shape[2] // SCALE)
        return nn.Sequential(OrderedDict(coefficients=Scattering(self.directions), logits=nn.Linear(features, classes)))
