"""Who could learn what: of all attacks on one party's view, the one that found most, a row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from privet.evidence.reading import Leak, leaks
from privet.evidence.wording import clean, number, percent

ANYONE = "whoever has the global model"


@dataclass(frozen=True)
class Exposure:
    """One thing that one party could learn.

    Attributes:
        party: who.
        what: in words.
        figure: how well, with its 95 % interval where there is one.
        floor: what the best guess scores that does not use what the party saw.
        verdict: how the two compare.
        attack: which attack found most.
        beaten: whether the attack is clearly better than a guess.
    """

    party: str
    what: str
    figure: str
    floor: str
    verdict: str
    attack: str
    beaten: bool


_WORDS: dict[str, tuple[str, str]] = {
    "reidentified": ("whose record it was, picked among candidates", "share picked right"),
    "ssim": ("what a record looks like", "SSIM, 1 is equal"),
    "error": ("a record's values", "error, 0 is equal"),
    "labels_found": ("the labels of a device's records", "share found"),
    "auc": ("whether a device holds records of a kind", "area under the curve, 0.5 is a guess"),
    "found": ("an attribute of a record that is otherwise known", "share found"),
}
"""By metric: what it means to be good at it, and how to read the figure."""
_MEMBERS = ("whether a record was trained on", "area under the curve, 0.5 is a guess")
_OF_A_CLASS = {
    "ssim": ("what records of a class have in common", "SSIM, 1 is equal"),
    "error": ("what records of a class have in common", "error, 0 is equal"),
}
_SHARES = ("reidentified", "labels_found", "found")


def exposures(attacks: Iterable[Mapping[str, Any]]) -> list[Exposure]:
    """Returns a row for each party and each thing that an attack tried to learn, the worst attacker's figure in it.

    Args:
        attacks: findings, as in ``metrics.json``.
    """
    worst: dict[tuple[str, str], tuple[Leak, str, str]] = {}
    for attack in attacks:
        party, figures = clean(attack.get("view") or "?"), leaks(attack)
        for leak in figures:
            what, unit = _meaning(party, leak.metric, [figure.metric for figure in figures])
            if not what or leak.value is None:
                continue
            key = (party, what)
            if key not in worst or worst[key][0].worse(leak.value) == leak.value != worst[key][0].value:
                worst[key] = (leak, unit, clean(attack.get("name") or "?"))
    return [_row(party, what, *found) for (party, what), found in sorted(worst.items())]


def _meaning(party: str, metric: str, others: list[str]) -> tuple[str, str]:
    if party == ANYONE and metric in _OF_A_CLASS:
        return _OF_A_CLASS[metric]
    if party == ANYONE and metric == "reidentified":
        return "", ""  # of a class's mean, which is nobody's record
    if metric == "auc" and "tpr_at_1_percent_fpr" in others:
        return _MEMBERS
    return _WORDS.get(metric, ("", ""))


def _row(party: str, what: str, leak: Leak, unit: str, attack: str) -> Exposure:
    write = percent if leak.metric in _SHARES else number
    ends = "" if leak.low is None else f" [{write(leak.low)} to {write(leak.high)}]"
    floors = [floor for floor in leak.floors.values() if floor is not None]
    best = None
    for floor in floors:
        best = floor if best is None else Leak(leak.metric, best, None, None, {}).worse(floor)
    return Exposure(
        party=party,
        what=what,
        figure=f"{write(leak.value)}{ends} ({unit})",
        floor=write(best),
        verdict=leak.verdict,
        attack=attack,
        beaten=leak.verdict.startswith("better"),
    )
