"""Views of one input that differ a little: the same scene again, a pixel further.

What a device sees twice is seldom equal to the last bit. Repeated releases are therefore made of such views, and an
attacker who expects repeats computes the obfuscator on views of each candidate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from privet.errors import InputError
from privet.randomness import Source

_REACH = 2
_SHIFTS = sorted(
    ((down, right) for down in range(-_REACH, _REACH + 1) for right in range(-_REACH, _REACH + 1)),
    key=lambda shift: (max(map(abs, shift)), sum(map(abs, shift)), shift),
)
_NEAR = 9
MOST_VIEWS = len(_SHIFTS)
"""As many different views as an image has: shifts by up to two pixels each way."""


def jittered(inputs: Tensor, views: int, rng: Source | None = None) -> Tensor:
    """Returns views of inputs: first the input itself, then shifted by one pixel, then by two; or drawn ones.

    What a shift uncovers at an edge repeats the edge. Inputs that are no images (channels, height, width) have one
    view only, themselves, which is repeated.

    Args:
        inputs: shape (n, ...).
        views: how many. Without ``rng`` at most :data:`MOST_VIEWS`; nine are all shifts by at most one pixel.
        rng: draws each view, of each input for itself, from those nine: what a device comes to see.

    Returns:
        Shape (n, views, ...).

    Raises:
        InputError: there are not so many views.
    """
    if views < 1 or (rng is None and views > MOST_VIEWS):
        raise InputError(f"an input has no {views} views", allowed=f"1 to {MOST_VIEWS}, more only if they are drawn")
    if inputs.dim() != 4:
        return inputs[:, None].expand(-1, views, *inputs.shape[1:])
    if rng is None:
        return _shifted(inputs, _SHIFTS[:views])
    drawn = torch.from_numpy(rng.integers(_NEAR, len(inputs) * views)).view(len(inputs), views)
    every = torch.arange(len(inputs))
    near = _shifted(inputs, _SHIFTS[:_NEAR])
    return torch.stack([near[every, each] for each in drawn.unbind(1)], 1)


def _shifted(inputs: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    height, width = inputs.shape[2:]
    wide = F.pad(inputs, (_REACH,) * 4, mode="replicate")
    cut = [
        wide[:, :, _REACH + down : _REACH + down + height, _REACH + right : _REACH + right + width]
        for down, right in shifts
    ]
    return torch.stack(cut, 1)
