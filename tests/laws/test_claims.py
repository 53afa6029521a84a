"""Laws of refutation: every mechanism's right claim survives a worst pair, and a claim of twice its noise doesn't."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
from dp_accounting.dp_event import NonPrivateDpEvent, ZCDpEvent

from privet import parts
from privet.accounting import Guarantee, Sensitivity
from privet.accounting.accountants import epsilon, guarantee
from privet.evidence.worst_pair import refute_chain, worst_pair
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.contract import Mechanism
from privet.randomness import seeded

SEEDS = range(1, 6)
DELTA = 1e-5
CASES = [("record", "replace-one"), ("record", "add-or-remove-one"), ("coordinate", "replace-one")]
PLACES = {"exponential": 64}
"""Values of a vector here, where more than 2 are needed to come near the derived bound."""
LOOSE = {("exponential", "coordinate"): "one score that moves alone loses half of what the event says"}
LIMITS = [2.0**power for power in range(-5, 4)]


def built(name: str) -> Mechanism:
    """Returns a part with 1.5 for whatever it requires."""
    cls = parts.find("mechanisms", name)
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return cls(**{field: 4 if field == "batch_size" else 1.5 for field in needed})


def noises() -> list[tuple[str, str, str]]:
    found = []
    for name in parts.names("mechanisms"):
        for unit, relation in CASES:
            bounded = Sensitivity(unit, relation, dimension=2).bounded(linf=0.25)
            if not isinstance(built(name).event(bounded), NonPrivateDpEvent):
                found.append((name, unit, relation))
    return found


@functools.cache
def claimed(noise: Mechanism, sensitivity: Sensitivity) -> tuple[Clip, Guarantee]:
    """Returns the clip with which the noise claims an epsilon nearest 1, and that claim."""

    def distance(clip: Clip) -> float:
        cost = epsilon(Chain((clip, noise)).event(sensitivity), DELTA)[0]
        return abs(math.log(cost)) if 0 < cost < math.inf else math.inf

    clip = min((Clip(limit, "linf") for limit in LIMITS), key=distance)
    return clip, guarantee("law", Chain((clip, noise)).event(sensitivity), sensitivity, DELTA, 1)


def lessened(clip: Clip, noise: Mechanism, factor: float) -> Chain:
    """Returns the chain with less noise: values that reach further, where the noise does not set itself."""
    if "epsilon" in {field.name for field in dataclasses.fields(noise)}:
        return Chain((clip, dataclasses.replace(noise, epsilon=noise.epsilon * factor)))  # type: ignore[attr-defined]
    return Chain((Clip(clip.limit * factor, "linf"), noise))


@pytest.mark.parametrize(("name", "unit", "relation"), noises(), ids=str)
class TestEveryNoise:
    def test_a_right_claim_survives(self, name: str, unit: Any, relation: Any) -> None:
        noise, sensitivity = built(name), Sensitivity(unit, relation, dimension=PLACES.get(name, 2))
        clip, claim = claimed(noise, sensitivity)
        for seed in SEEDS:
            found = refute_chain(Chain((clip, noise)), sensitivity, claim, rng=seeded(seed), trials=1500)
            assert not found.refuted, found
            assert 0 <= found.lower_bound <= found.reach

    def test_half_the_noise_is_refuted(self, name: str, unit: Any, relation: Any) -> None:
        noise, sensitivity = built(name), Sensitivity(unit, relation, dimension=PLACES.get(name, 2))
        clip, claim = claimed(noise, sensitivity)
        # Concentrated privacy bounds every Renyi divergence and leaves a gap at each delta.
        loose = (name, unit) in LOOSE or isinstance(Chain((clip, noise)).event(sensitivity), ZCDpEvent)
        wrong = lessened(clip, noise, 4.0 if loose else 2.0)
        for seed in SEEDS:
            found = refute_chain(wrong, sensitivity, claim, rng=seeded(seed), trials=4000)
            assert found.refuted, found

    def test_the_pair_is_as_far_apart_as_the_bound_allows(self, name: str, unit: Any, relation: Any) -> None:
        sensitivity = Sensitivity(unit, relation, dimension=PLACES.get(name, 2))
        for clip in (Clip(0.5, "l1"), Clip(0.5, "l2"), Clip(0.5, "linf")):
            chain = Chain((clip, built(name)))
            if isinstance(chain.event(sensitivity), NonPrivateDpEvent):
                continue
            pair, bound = worst_pair(chain, sensitivity), clip.bound(sensitivity)
            change = (pair.inside - pair.outside).double()
            assert change.norm().item() <= bound.l2 + 1e-6
            if unit != "coordinate":
                assert change.norm().item() == pytest.approx(bound.l2, rel=1e-5)
