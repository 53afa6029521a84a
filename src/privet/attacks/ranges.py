"""Where inputs can lie: what an attacker who seeks an input starts from and stays within."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from privet.attacks.contract import rows
from privet.engines.view import View
from privet.errors import InputError
from privet.randomness import Source

_COARSE = 4  # starts of images are random at every fourth pixel and smooth between


class Range:
    """Inputs in units in which a step of 1 is long: pixels as they are, other columns by their spread.

    Images (three sides) lie in [0, 1]. Other columns have the middle, spread and ends that they have in the
    attacker's own rows; without such rows middle 0, spread 1 and no ends.

    Args:
        view: whose ``knows`` may hold ``inputs``.

    Raises:
        InputError: the attacker's own inputs have another shape.
    """

    def __init__(self, view: View) -> None:
        self.shape, self.image = view.shape, len(view.shape) == 3
        self._middle, self._spread = torch.zeros(view.shape), torch.ones(view.shape)
        self._low, self._high = torch.tensor(-torch.inf), torch.tensor(torch.inf)
        if self.image:
            self._low, self._high = torch.tensor(0.0), torch.tensor(1.0)
        elif "inputs" in view.knows:
            (own,) = rows(view.knows, "inputs")
            if own.shape[1:] != view.shape:
                raise InputError(f"the attacker's inputs have shape {tuple(own.shape[1:])}", allowed=f"{view.shape}")
            own = own.float()
            self._middle, spread = own.mean(0), own.std(0, correction=0)
            self._spread = torch.where(spread > 0, spread, 1.0)
            self._low = (own.amin(0) - self._middle) / self._spread
            self._high = (own.amax(0) - self._middle) / self._spread

    def draw(self, count: int, rng: Source) -> Tensor:
        """Returns random starts, shape (count, ...), smooth where they are images."""
        if not self.image:
            return self.clamp(rng.normal((count, *self.shape)))
        channels, height, width = self.shape
        coarse = rng.uniform((count, channels, -(-height // _COARSE), -(-width // _COARSE))).float()
        return F.interpolate(coarse, (height, width), mode="bilinear")

    def clamp(self, guess: Tensor) -> Tensor:
        """Returns a guess with what lies outside moved to the nearest end."""
        return torch.minimum(torch.maximum(guess, self._low), self._high)

    def rows(self, guess: Tensor) -> Tensor:
        """Returns a guess in the inputs' own units."""
        return guess if self.image else self._middle + self._spread * guess

    def variation(self, guess: Tensor) -> Tensor:
        """Returns the mean difference of neighbouring pixels in groups of images (k, b, ...), shape (k,); else 0."""
        if not self.image:
            return torch.zeros(len(guess))
        across = (guess[..., 1:] - guess[..., :-1]).abs().flatten(1).mean(1)
        return across + (guess[..., 1:, :] - guess[..., :-1, :]).abs().flatten(1).mean(1)
