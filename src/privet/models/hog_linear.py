"""Histograms of oriented gradients, which no data has shaped, and a linear layer on them.

Only the linear layer is trained: what noise private training adds spreads over 3,930 values and not over
the weights of a network, and a record's clipped gradient has a closed form. Cost: about 40 multiplications a
pixel for the histograms, once a record.
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

CELL = 4
"""Side of a cell, in pixels."""


class Hog(nn.Module):
    """Histograms of the directions of brightness changes, one a cell of 4 x 4 pixels, of images (n, c, h, w).

    Each pixel votes by the root of its gradient's size, shared between the two nearest directions and the four
    nearest cells. A cell's histogram is scaled by the energy of its 3 x 3 neighbourhood and centred, and the whole
    is scaled to l2 norm 1. Channels are averaged. Nothing is trained, and one image's features depend on no
    other image.

    Args:
        directions: bins over the full circle.

    References:
        Dalal, Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.
    """

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.directions = directions

    def forward(self, images: Tensor) -> Tensor:
        """Returns features (n, directions * cells), each row of l2 norm 1, or 0 for an even image."""
        grey = nn.functional.pad(images.mean(1), (1, 1, 1, 1), "replicate")
        right, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
        votes = (right.square() + down.square()).pow_(0.25)
        turn = torch.atan2(down, right).mul_(self.directions / (2 * math.pi)).remainder_(self.directions)
        first = turn.long()
        share = turn - first
        # A vote falls on the bin before its direction and the one after.
        near = torch.zeros(len(grey), self.directions, *votes.shape[1:])
        near.scatter_(1, first[:, None] % self.directions, (votes * (1 - share))[:, None])
        near.scatter_(1, (first[:, None] + 1) % self.directions, (votes * share)[:, None])
        height, width = votes.shape[1:]
        cells = _tents(height) @ (near @ _tents(width).T)
        energy = nn.functional.avg_pool2d(cells.square().sum(1, keepdim=True), 3, 1, 1)
        scaled = cells * (energy + 0.1).rsqrt()
        return nn.functional.normalize((scaled - scaled.mean(1, keepdim=True)).flatten(1))


def _tents(pixels: int) -> Tensor:
    """Returns each pixel's weight in each cell, (pixels / CELL, pixels): from 1 at the cell's middle down to 0."""
    middles = (torch.arange(pixels // CELL) + 0.5) * CELL
    return (1 - (torch.arange(pixels) + 0.5 - middles[:, None]).abs() / CELL).clamp_min_(0)


@part
class HogLinear(Model):
    """Fixed histograms of gradients and one trained linear layer: 392 features on 28 x 28, made for private training.

    Attributes:
        directions: of the histograms, over the full circle.

    References:
        Tramer, Boneh, Differentially Private Learning Needs Better Features (or Much More Data), ICLR 2021;
        Dalal, Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("histograms",)

    directions: Annotated[int, Field(ge=2, le=64)] = 8

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        if len(shape) != 3 or shape[1] < 2 * CELL or shape[2] < 2 * CELL or shape[1] % CELL or shape[2] % CELL:
            raise refuse_shape(self, shape, "images (channels, height, width), sides multiples of 4 from 8")
        features = self.directions * (shape[1] // CELL) * (shape[2] // CELL)
        return nn.Sequential(OrderedDict(histograms=Hog(self.directions), logits=nn.Linear(features, classes)))
