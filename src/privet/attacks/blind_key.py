"""Blind key: a secret linear key is recovered from releases alone.

'The device multiplies by a matrix that nobody else has' looks safe because learning on pairs of other keys fails. But
the cloud of one device's releases is the cloud of its inputs, turned or with its columns reordered, and the attacker
knows what such inputs look like.

Knowledge: inputs of the same kind (no pairs, no key, no access to the device); labels if they travel. An outsider
who taps a line has that, and so has the coordinator.
Cost: about 50 CPU-seconds for an orthogonal key of 5,000 releases of 784 values, 5 for a permutation; one thread.

References:
    :mod:`privet.attacks.keys`.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch

from privet.attacks.contract import Attack, Reconstruction, Target, rows
from privet.attacks.keys import Cloud, put_back, turned_back
from privet.attacks.material import labels_of
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class BlindKey(Attack):
    """Recovers one device's secret orthogonal matrix or permutation from its releases, and undoes it.

    Needs ``seen["features"]`` (n, p), all made with one key, p being the numbers of an input, and
    ``knows["inputs"]`` (m, ...), other inputs of the same kind; not their releases. Of (n, r, p) the mean over the
    releases of a record is taken. Uses ``labels`` when both sides have them, and no randomness of the view.

    Attributes:
        key: what the device claims to have: ``orthogonal`` or ``permutation``.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    key: Literal["orthogonal", "permutation"] = "orthogonal"

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        known, seen, classes = _clouds(view)
        if self.key == "permutation":
            found = put_back(known, seen, classes)
        else:
            found = turned_back(known, seen, classes, rng.child("compared"))
        low, high = known.rows.amin(0), known.rows.amax(0)
        if len(view.shape) == 3:
            low, high = low.min(), high.max()
        return Reconstruction(torch.clamp(found, low, high).reshape(-1, *view.shape))


def _clouds(view: View) -> tuple[Cloud, Cloud, int]:
    """Returns the attacker's inputs and the releases, and the number of labels."""
    (seen,), (inputs,) = rows(view.seen, "features"), rows(view.knows, "inputs")
    if inputs.shape[1:] != view.shape or not view.shape:
        raise InputError(f"the attacker's inputs have shape {tuple(inputs.shape[1:])}", allowed=f"{view.shape}")
    values = seen.float().mean(1) if seen.dim() == 3 else seen.float()
    if values.dim() != 2 or values.shape[1] != math.prod(view.shape):
        raise InputError(
            f"releases of shape {tuple(seen.shape[1:])} are no turned inputs of shape {view.shape}",
            allowed=f"{math.prod(view.shape)} numbers a release",
            do="attack a release that claims a secret linear key",
        )
    if min(len(values), len(inputs)) < 2:
        raise InputError("one row has no spread", allowed="two releases and two inputs, or more")
    known_labels, seen_labels, classes = labels_of(view)
    return Cloud(inputs.flatten(1).float(), known_labels), Cloud(values, seen_labels), classes
