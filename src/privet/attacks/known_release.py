"""Known release: whoever has the obfuscator computes it on every candidate and compares.

Nothing needs to be undone or learned: of a deterministic obfuscator every distinct output is recognised, however
little of the picture it keeps, so that rank-1 is exactly (distinct outputs) / N. A stochastic one is recognised by
the likelihood. Where a participant picked one of several obfuscators, the best of them counts.

Knowledge: the obfuscator, or all that a participant picks from (the coordinator, which trained them; an outsider
who has the app of a device).
Cost: computing the obfuscator on the candidates, and one product of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.likelihoods import likelihoods
from privet.attacks.material import averaged, material
from privet.attacks.neighbours import looked_up
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source


@part
class KnownRelease(Attack):
    """Computes the obfuscator on every candidate and takes the one whose release is equal, nearest or likeliest.

    Needs ``view.release``, ``seen["features"]`` (n, d) or (n, r, d), ``knows["inputs"]`` (m, ...), and their
    ``knows["features"]``, of which it learns what is random; without those nothing is. ``view.release`` may
    give (c, t, d): one of t obfuscators was picked, and the attacker takes the best. Uses ``labels`` when both
    sides have them. Its guess is looked up among its own pairs; the matcher does not need it.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        release = release_of(view)
        given = material(completed(view, release))
        known = averaged(given, view.shape)

        def match(candidates: Tensor) -> Tensor:
            return likelihoods(given, release(given.inputs), release(candidates))

        guess = known.undone(looked_up(known.pairs, view.shape, rng.child("held out")))
        return Reconstruction(guess, matchers={"release": match})


def release_of(view: View) -> Callable[[Tensor], Tensor]:
    """Returns the mechanism that the party can compute.

    Raises:
        InputError: it can't.
    """
    if view.release is None:
        raise InputError("the view has no release", do="attack from a party that has the obfuscator")
    return view.release


def completed(view: View, release: Callable[[Tensor], Tensor]) -> View:
    """Returns a view with pairs, made by a release that has nothing random where the party has none of its own."""
    if "features" in view.knows or "features" not in view.seen or "inputs" not in view.knows:
        return view
    made = release(view.knows["inputs"])
    made = made if made.dim() == 2 else made[:, 0]
    if view.seen["features"].dim() == 3:
        made = made[:, None].expand(-1, view.seen["features"].shape[1], -1)
    return replace(view, knows=view.knows | {"features": made})
