"""A network that draws an image, and names its class, from any maps and vectors that were made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

_LARGE = 64  # longer sides are drawn from a grid of a quarter, not of half the image's side
_FAR, _CODE, _COARSE = 16, 256, 8
_POOLED = 2048  # most numbers of a tensor that are looked at all together
_EPSILON = 1e-8
_MANY = 128


class MapsInverse(nn.Module):
    """Maps are laid on one grid, seen near by convolutions and all together by linear layers, and drawn from there.

    A map smaller than the grid is repeated up to it, and padded alike on all sides where that leaves room, which is
    where a convolution without padding looked; of a larger one, neighbouring values become channels.

    Args:
        received: shape of each tensor of one image: maps (c, h, w), or values (d,).
        image: shape of the image (channels, height, width).
        classes: number of classes; 0 names none.
        width: channels of the convolutions.

    References:
        He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019), section 4: the inverse
        network. The grid and the second path are this project's own.
    """

    def __init__(
        self, received: Sequence[tuple[int, ...]], image: tuple[int, ...], classes: int, width: int = 48
    ) -> None:
        super().__init__()
        channels, *sides = image
        step = 2 if max(sides) <= _LARGE else 4
        self._sides, self._grid = tuple(sides), tuple(math.ceil(side / step) for side in sides)
        self._coarse = tuple(min(_COARSE, math.ceil(side / 2)) for side in self._grid)
        self._norms = nn.ModuleList(
            nn.BatchNorm2d(shape[0], _EPSILON) if len(shape) == 3 else nn.BatchNorm1d(shape[0], _EPSILON)
            for shape in received
        )
        laid = sum(shape[0] * self._fold(shape) ** 2 for shape in received if len(shape) == 3)
        # Hundreds of maps are first mixed place by place, which costs a ninth.
        first = [nn.Conv2d(laid, width, 1)] if laid > _MANY else []
        self._near = nn.Sequential(*first, nn.Conv2d(width if first else max(laid, 1), width, 3, padding=1))
        pooled = sum(shape[0] * (math.prod(self._pooled(shape)) if len(shape) == 3 else 1) for shape in received)
        self._code = nn.Sequential(nn.Linear(pooled, _CODE), nn.ReLU(), nn.Dropout(0.1))
        self._far = nn.Linear(_CODE, _FAR * math.prod(self._coarse))
        self._joined = nn.Sequential(
            *(nn.BatchNorm2d(width + _FAR), nn.ReLU(), nn.Conv2d(width + _FAR, width, 3, padding=1)),
            *(
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ),
        )
        self._drawn = nn.Sequential(
            nn.Conv2d(width, channels * step**2, 3, padding=1), nn.PixelShuffle(step), nn.Sigmoid()
        )
        self._named = nn.Sequential(nn.Linear(_CODE + 16 * width, 64), nn.ReLU(), nn.Linear(64, max(classes, 1)))

    def forward(self, received: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns pixels in [0, 1] (n, channels, height, width) and logits (n, classes) from the tensors (n, ...)."""
        normal = [norm(value.float()) for norm, value in zip(self._norms, received, strict=True)]
        laid = [self._on_grid(value) for value in normal if value.dim() == 4]
        near = self._near(torch.cat(laid, 1) if laid else normal[0].new_zeros(len(normal[0]), 1, *self._grid))
        together = [F.adaptive_avg_pool2d(v, self._pooled(v.shape[1:])) if v.dim() == 4 else v for v in normal]
        code = self._code(torch.cat([value.flatten(1) for value in together], 1))
        far = F.interpolate(self._far(code).unflatten(1, (_FAR, *self._coarse)), self._grid, mode="bilinear")
        joined = self._joined(torch.cat((near, far), 1))
        height, width = self._sides
        summary = F.adaptive_max_pool2d(joined, 4).flatten(1)
        return self._drawn(joined)[..., :height, :width], self._named(torch.cat((code, summary), 1))

    def _fold(self, shape: tuple[int, ...]) -> int:
        """Returns how many neighbours in a row become channels."""
        return max(math.ceil(have / want) for have, want in zip(shape[1:], self._grid, strict=True))

    def _on_grid(self, maps: Tensor) -> Tensor:
        fold = self._fold(tuple(maps.shape[1:]))
        if fold > 1:
            high, wide = (side * fold - have for side, have in zip(self._grid, maps.shape[2:], strict=True))
            return F.pixel_unshuffle(F.pad(maps, (0, wide, 0, high)), fold)
        for axis, want in zip((2, 3), self._grid, strict=True):
            maps = maps.repeat_interleave(want // maps.shape[axis], axis)
        high, wide = (want - have for want, have in zip(self._grid, maps.shape[2:], strict=True))
        return F.pad(maps, (wide // 2, wide - wide // 2, high // 2, high - high // 2))

    @staticmethod
    def _pooled(shape: Sequence[int]) -> tuple[int, int]:
        most = max(math.isqrt(_POOLED // shape[0]), 1)
        return min(shape[1], most), min(shape[2], most)
