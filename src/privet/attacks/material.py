"""What an attack on features works with: the attacker's own pairs and what was seen, checked, in one form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.attacks.contract import rows
from privet.attacks.linear_inverse import Decoder, Pairs
from privet.attacks.releases import gather
from privet.engines.view import View
from privet.errors import InputError

_LEAST_PAIRS = 50


@dataclass(frozen=True)
class Material:
    """Both sides of a view of features; without labels on both sides every label is 0, of one class.

    Attributes:
        inputs: the attacker's own, shape (m, ...).
        known: their releases, shape (m, releases, d).
        known_labels: shape (m,), int64.
        seen: shape (n, releases, d).
        seen_labels: shape (n,), int64.
        classes: number of classes.
    """

    inputs: Tensor
    known: Tensor
    known_labels: Tensor
    seen: Tensor
    seen_labels: Tensor
    classes: int


def material(view: View, least: int = _LEAST_PAIRS) -> Material:
    """Returns what a view of features holds; features without a dimension of releases get one.

    Args:
        view: with ``seen["features"]``, ``knows["inputs"]`` and their ``knows["features"]``, perhaps labels of both.
        least: fewest pairs that will do.

    Raises:
        InputError: something is missing, not finite, of another shape than the rest, or too little.
    """
    (seen,) = rows(view.seen, "features")
    inputs, known = rows(view.knows, "inputs", "features")
    if inputs.shape[1:] != view.shape or not view.shape:
        raise InputError(f"the attacker's inputs have shape {tuple(inputs.shape[1:])}", allowed=f"{view.shape}")
    if len(inputs) < least:
        raise InputError(f"the attacker has {len(inputs)} pairs", allowed=f"{least} or more")
    if seen.dim() not in (2, 3) or known.shape[1:] != seen.shape[1:]:
        raise InputError(
            f"the attacker's features have shape {tuple(known.shape[1:])}, the seen ones {tuple(seen.shape[1:])}",
            allowed="(d) or (releases, d), the same for both",
        )
    known_labels, seen_labels, classes = labels_of(view)
    if seen.dim() == 2:
        known, seen = known[:, None], seen[:, None]
    return Material(inputs, known, known_labels, seen, seen_labels, classes)


def labels_of(view: View) -> tuple[Tensor, Tensor, int]:
    """Returns the labels of the attacker's inputs and of what was seen, and the number of classes.

    Without labels on both sides every label is 0, of one class.

    Raises:
        InputError: a label is no class, or there is not one label a row.
    """
    if view.classes and "labels" in view.seen and "labels" in view.knows:
        known, seen = rows(view.knows, "inputs", "labels")[1].long(), rows(view.seen, "features", "labels")[1].long()
        if any(not 0 <= int(end) < view.classes for side in (known, seen) for end in side.aminmax()):
            raise InputError("the view holds a label that is no class", allowed=f"0 to {view.classes - 1}")
        return known, seen, view.classes
    count = len(view.knows["inputs"]), len(view.seen["features"])
    return torch.zeros(count[0], dtype=torch.int64), torch.zeros(count[1], dtype=torch.int64), 1


@dataclass(frozen=True)
class Units:
    """The units in which an attack reckons: an image's range becomes [0, 1], a vector's columns get variance 1.

    Attributes:
        offset: what is taken away.
        scale: what is divided by.
        low: least of each column.
        high: greatest of each column.
    """

    offset: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, inputs: Tensor, shape: tuple[int, ...]) -> Units:
        """Returns the units of inputs (m, p), float64, each of ``shape``."""
        low, high = inputs.amin(0), inputs.amax(0)
        if len(shape) == 3:
            return cls(inputs.min(), (inputs.max() - inputs.min()).clamp_min(1e-12), low, high)
        spread = inputs.std(0)
        return cls(inputs.mean(0), torch.where(spread > 0, spread, 1.0), low, high)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns inputs in these units."""
        return (inputs - self.offset) / self.scale

    def back(self, guess: Tensor) -> Tensor:
        """Returns a guess in the inputs' own units, within the ends of the attacker's inputs."""
        return (guess * self.scale + self.offset).clamp(self.low, self.high)


@dataclass(frozen=True)
class Averaged:
    """What inverses learn from and undo, the releases of a record averaged, float64.

    Attributes:
        pairs: the attacker's own.
        seen: features of what is to be undone.
        labels: of what was seen.
        units: of the pairs' inputs.
        shape: of one input.
    """

    pairs: Pairs
    seen: Tensor
    labels: Tensor
    units: Units
    shape: tuple[int, ...]

    def undone(self, decoder: Decoder) -> Tensor:
        """Returns what a decoder makes of what was seen, as inputs (n, ...), float32."""
        return self.units.back(decoder(self.seen, self.labels)).float().reshape(-1, *self.shape)


def averaged(given: Material, shape: tuple[int, ...]) -> Averaged:
    """Returns the attacker's pairs and what was seen, of inputs of ``shape``, the releases of a record averaged."""
    inputs = given.inputs.flatten(1).double()
    units = Units.of(inputs, shape)
    known = gather(given.known, given.known_labels, None)
    pairs = Pairs(units.forward(inputs), given.known_labels, known, given.classes)
    return Averaged(pairs, gather(given.seen, given.seen_labels, None), given.seen_labels, units, shape)
