"""Figures and guarantees in words that a person can read and sign."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "-"
_UNITS = {
    "coordinate": "one single value of one record (all its other values held fixed)",
    "record": "one record",
    "device": "everything that one device holds",
}
_RELATIONS = {"add-or-remove-one": "was there at all", "replace-one": "was this one or another in its place"}
_STRENGTHS = ((1.0, "strong", "good"), (3.0, "moderate", "fair"), (10.0, "weak", "fair"))


def clean(text: object) -> str:
    """Returns text with everything unprintable (control codes, direction marks) replaced by ``?``."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))


def finite(value: object) -> float | None:
    """Returns a finite number as a float, and anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def number(value: object) -> str:
    """Returns a number with three significant digits or, from a thousand on, every digit grouped.

    >>> number(359084.6), number(0.03149), number(1e-05), number(2.0)
    ('359,085', '0.0315', '0.00001', '2')
    """
    if value is None:
        return MISSING
    known = finite(value)
    if known is None:
        return "not a number"
    if known == 0:
        return "0"
    if abs(known) >= 1e15 or abs(known) < 1e-6:
        return f"{known:.3g}"
    if abs(known) >= 999.5:
        return f"{known:,.0f}"
    places = max(0, 2 - math.floor(math.log10(abs(known))))
    text = f"{known:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: object) -> str:
    """Returns a share of one as per cent.

    >>> percent(.9512)
    '95.1 %'
    """
    known = finite(value)
    return number(value) if known is None else f"{100 * known:.1f} %"


def _scaled(value: object, steps: tuple[str, ...]) -> str:
    known = finite(value)
    if known is None:
        return number(value)
    at = 0
    while abs(known) >= 999.5 and at < len(steps) - 1:
        known, at = known / 1000, at + 1
    return f"{number(known)} {steps[at]}"


def size(value: object) -> str:
    """Returns bytes with a decimal unit.

    >>> size(123456), size(12)
    ('123 kB', '12 B')
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def energy(value: object) -> str:
    """Returns joules with a decimal unit."""
    return _scaled(value, ("J", "kJ", "MJ", "GJ"))


def duration(value: object) -> str:
    """Returns seconds as a person says them.

    >>> duration(61.2), duration(800), duration(7260)
    ('61.2 s', '13 min 20 s', '2 h 1 min')
    """
    known = finite(value)
    if known is None or known < 99.95:
        return number(value) + (" s" if known is not None else "")
    whole = round(known)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


@dataclass(frozen=True)
class Meaning:
    """What one guarantee means for the person who must sign.

    Attributes:
        verdict: two or three words.
        tone: ``good``, ``fair`` or ``bad``; how the verdict is coloured.
        sentence: the meaning in plain words.
    """

    verdict: str
    tone: str
    sentence: str


def guess_bound(epsilon: float, delta: float) -> float:
    """Returns how often an observer at best guesses right between two neighbours of equal odds.

    References:
        Kairouz, Oh, Viswanath, "The Composition Theorem for Differential Privacy" (2015), theorem 2.1:
        the best test against (epsilon, delta) has total error 2 (1 - delta) / (1 + e^epsilon).
    """
    shrunk = math.exp(-max(epsilon, 0.0))
    return min(1.0, (1 + delta * shrunk) / (1 + shrunk))


def meaning(guarantee: Mapping[str, Any]) -> Meaning:
    """Returns what a guarantee of ``metrics.json`` means; an epsilon of ``None`` is no guarantee.

    The strength comes from how often an observer can guess right, so a large delta weakens it too.
    """
    epsilon, delta = finite(guarantee.get("epsilon")), finite(guarantee.get("delta")) or 0.0
    unit = str(guarantee.get("unit"))
    if epsilon is None:
        return Meaning(
            "no formal guarantee", "bad", "Nothing is proved. Treat what this claim names as visible to whoever saw it."
        )
    right = guess_bound(epsilon, delta)
    what = _UNITS.get(unit, clean(unit))
    which = _RELATIONS.get(str(guarantee.get("relation")), "was in the data")
    shown = "practically every time" if right >= 0.9999 else f"at most {percent(right)} of the time"
    question = f"Asked whether {what} {which}, with even odds beforehand, an observer"
    odds = math.log(right / (1 - right)) if right < 1 else math.inf
    hopeless = ("no meaningful protection", "bad")
    verdict, tone = next(((word, tone) for limit, word, tone in _STRENGTHS if odds <= limit + 1e-3), hopeless)
    if tone == "bad":
        sentence = f"The bound allows the worst. {question} may guess right {shown}. Do not rely on it."
    else:
        sentence = f"{question} guesses right {shown} (blind guessing: 50 %)."
    if unit == "coordinate":
        sentence += " This covers one value taken alone: it is no statement about a whole record or a person."
        if tone != "bad":
            verdict, tone = f"{verdict}, for one value alone", "fair"
    return Meaning(verdict, tone, sentence)


def epsilon(guarantee: Mapping[str, Any]) -> str:
    """Returns epsilon as a number, or ``no formal guarantee``."""
    known = finite(guarantee.get("epsilon"))
    return "no formal guarantee" if known is None else number(known)


def statement(guarantee: Mapping[str, Any]) -> str:
    """Returns a guarantee in one line: epsilon with its unit, relation, delta, releases and accountant."""
    figure = epsilon(guarantee)
    if finite(guarantee.get("epsilon")) is not None:
        figure = f"epsilon {figure}"
    releases = finite(guarantee.get("releases"))
    parts = [
        f"{figure} per {clean(guarantee.get('unit', '?'))} ({clean(guarantee.get('relation', '?'))})",
        f"delta {number(guarantee.get('delta'))}",
        f"{number(releases)} release{'' if releases == 1 else 's'}",
        clean(guarantee.get("accountant", "?")),
    ]
    return ", ".join(parts)


def check(row: Mapping[str, Any]) -> Meaning:
    """Returns what the check of a claim (an entry of ``claims`` in ``metrics.json``) came to."""
    claimed, found, reach = (finite(row.get(key)) for key in ("claimed_epsilon", "lower_bound", "reach"))
    if claimed is None or found is None:
        return Meaning("no claim", "bad", "There is nothing to refute, and nothing is protected.")
    if not row.get("trials"):
        return Meaning("not tested", "fair", "No test here fits this claim.")
    sure = f"{number(100 * (finite(row.get('confidence')) or 0.0))} % confidence"
    if row.get("refuted"):
        return Meaning("refuted", "bad", f"Epsilon is at least {number(found)}, with {sure}: the claim is false.")
    sentence = f"Epsilon is at least {number(found)}, with {sure}, which does not contradict the claim."
    if reach is not None and reach <= claimed:
        sentence += f" So few trials can't show more than {number(reach)}: no outcome could have refuted this claim."
    return Meaning("not refuted", "", sentence)
