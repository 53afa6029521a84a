"""What figures 3 to 8 of the smart-home document claim, each as a rule over measured points.

A point is one run: its accuracy on the test images after every global epoch. Two accuracies differ when they are
more than ``MARGIN`` apart: with 10,000 test images the standard error of one is at most 0.5 points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BOUNDED, BATCH = "bounded", "batch normalisation"
EPSILONS = (1, 2, 5, 10)
BATCHES = (32, 64, 128)
LOCAL_EPOCHS = (1, 2, 4)
LOCAL = 2
MARGIN = 0.01
CLEAR_MARGIN = 0.05
GOAL = 0.9

Values = Sequence[float]
Points = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One thing that the document says.

    Attributes:
        text: what it says, in our words.
        rule: when measured numbers agree.
        holds: whether they do; None when a number is missing.
    """

    text: str
    rule: str
    holds: bool | None


@dataclass(frozen=True)
class Line:
    """One line of a figure: accuracy at each x, None where it was not measured."""

    label: str
    y: list[float | None]
    y_with_noise: list[float | None]


@dataclass(frozen=True)
class Figure:
    """One figure of the document, measured again.

    Attributes:
        number: in the document.
        title: what it shows.
        x_label: meaning of ``x``.
        x: where accuracy was measured.
        lines: what was measured.
        claims: what the document says about it.
        levels: further lines, of one value each.
    """

    number: int
    title: str
    x_label: str
    x: tuple[int, ...]
    lines: list[Line]
    claims: list[Claim]
    levels: list[Line] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``reproduced`` when all claims hold, ``not reproduced`` when none does, otherwise ``in part``."""
        held = [claim.holds for claim in self.claims]
        if None in held:
            return "not measured"
        return "reproduced" if all(held) else "in part" if any(held) else "not reproduced"


def key(technique: str, epsilon: float | None, batch: int, local: int, full: bool = False) -> str:
    """Returns the name of a point."""
    noise = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
    return f"{'full, ' if full else ''}{technique}, {noise}, batch {batch}, {local} local epochs"


def rises(values: Values, margin: float = MARGIN) -> bool:
    """Says whether the last value is clearly above the first and no step falls clearly."""
    steps = [right - left for left, right in itertools.pairwise(values)]
    return values[-1] - values[0] > margin and all(step > -margin for step in steps)


def falls(values: Values) -> bool:
    """Says whether the values rise from right to left."""
    return rises(values[::-1])


def above(upper: Values, lower: Values) -> bool:
    """Says whether every value is clearly above its counterpart."""
    return all(high - low > MARGIN for high, low in zip(upper, lower, strict=True))


def drops(rounds: Values) -> bool:
    """Says whether accuracy after some global epoch beyond the second is clearly below that after the second."""
    return rounds[1] - min(rounds[2:]) > MARGIN


def epochs_to_reach(goal: float, rounds: Values) -> float:
    """Returns the first global epoch whose accuracy is not clearly below the goal; infinite if none is."""
    return next((number for number, value in enumerate(rounds, start=1) if goal - value <= MARGIN), float("inf"))


def claim(text: str, rule: str, check: Any, *rows: Sequence[float | None]) -> Claim:
    """Returns a claim with the outcome of its rule on the rows, or None when a number is missing."""
    complete = all(value is not None for row in rows for value in row)
    return Claim(text, rule, bool(check(*rows)) if complete else None)


def line(label: str, points: Points, names: Sequence[str], epoch: int) -> Line:
    """Returns the accuracy of several points after one global epoch."""

    def values(which: str) -> list[float | None]:
        rounds = [points[name][which] if name in points else [] for name in names]
        return [row[epoch - 1] if len(row) >= epoch else None for row in rounds]

    return Line(label, values("accuracy"), values("accuracy_with_noise"))


def figure_3(points: Points) -> Figure:
    """Accuracy against epsilon for both normalisations, after two global epochs."""
    noisy = [line(t, points, [key(t, e, 64, LOCAL) for e in EPSILONS], 2) for t in (BOUNDED, BATCH)]
    quiet = [line(f"{t}, no noise", points, [key(t, None, 64, LOCAL)], 2) for t in (BOUNDED, BATCH)]
    claims = [
        claim(
            "with noise, bounded normalisation is more accurate than batch normalisation",
            f"above by more than {MARGIN} at every epsilon",
            above,
            noisy[0].y,
            noisy[1].y,
        )
    ]
    claims += [
        claim(
            f"with {own.label}, the larger epsilon, the closer to no noise",
            f"the distance falls: by more than {MARGIN} in all, and no step grows it by that much",
            lambda values, level: falls([abs(level[0] - value) for value in values]),
            own.y,
            level.y,
        )
        for own, level in zip(noisy, quiet, strict=True)
    ]
    return Figure(3, "Accuracy against epsilon", "epsilon of one value, one release", EPSILONS, noisy, claims, quiet)


def figure_4(points: Points) -> Figure:
    """Accuracy against batch size at epsilon 2, after one global epoch."""
    lines = [line(t, points, [key(t, 2, size, LOCAL) for size in BATCHES], 1) for t in (BOUNDED, BATCH)]
    claims = [_worse_with_batch(own, "epsilon 2") for own in lines]
    text = "with noise, bounded normalisation is more accurate at every batch size"
    claims.append(claim(text, f"above by more than {MARGIN} at every size", above, lines[0].y, lines[1].y))
    return Figure(4, "Accuracy against batch size at epsilon 2", "batch size", BATCHES, lines, claims)


def figure_5(points: Points) -> Figure:
    """Accuracy against batch size without noise, after one global epoch."""
    lines = [line(t, points, [key(t, None, size, LOCAL) for size in BATCHES], 1) for t in (BOUNDED, BATCH)]
    text = "without noise, batch normalisation is the more accurate one"
    claims = [claim(text, f"above by more than {MARGIN} at every size", above, lines[1].y, lines[0].y)]
    claims += [_worse_with_batch(own, "no noise") for own in lines]
    return Figure(5, "Accuracy against batch size without noise", "batch size", BATCHES, lines, claims)


def figure_6(points: Points) -> Figure:
    """Accuracy against batch size after 1, 2 and 3 global epochs, at epsilon 2."""
    names = [key(BOUNDED, 2, size, LOCAL) for size in BATCHES]
    lines = [line(_epochs(epoch), points, names, epoch) for epoch in (1, 2, 3)]
    rule = f"above by more than {MARGIN} at every batch size"
    claims = [
        claim("two global epochs do better than one", rule, above, lines[1].y, lines[0].y),
        claim("two global epochs do better than three", rule, above, lines[1].y, lines[2].y),
    ]
    return Figure(6, "Accuracy against batch size by global epochs, epsilon 2", "batch size", BATCHES, lines, claims)


def figure_7(points: Points) -> Figure:
    """Accuracy against epsilon after 1 to 4 global epochs."""
    names = [key(BOUNDED, epsilon, 64, LOCAL) for epsilon in EPSILONS]
    lines = [line(_epochs(epoch), points, names, epoch) for epoch in (1, 2, 3, 4)]
    rows = [own.y for own in lines]
    claims = [
        claim(
            "the larger epsilon, the more accurate",
            f"for every number of global epochs: up by more than {MARGIN} in all, and no step down by that much",
            lambda *rows: all(rises(row) for row in rows),
            *rows,
        ),
        claim(
            "at least 90 % after two global epochs for epsilon above 1",
            f"at least {GOAL} at every epsilon measured above 1",
            lambda row: min(row[1:]) >= GOAL,
            lines[1].y,
        ),
        claim(
            "a third or fourth global epoch can cost accuracy",
            f"for some epsilon, below two global epochs by more than {MARGIN}",
            lambda *rows: any(drops(rounds) for rounds in zip(*rows, strict=True)),
            *rows,
        ),
    ]
    return Figure(7, "Accuracy against epsilon by global epochs", "epsilon of one value", EPSILONS, lines, claims)


def figure_8(points: Points) -> Figure:
    """Accuracy against local epochs after 1 to 4 global epochs, at epsilon 2."""
    names = [key(BOUNDED, 2, 64, local) for local in LOCAL_EPOCHS]
    lines = [line(_epochs(epoch), points, names, epoch) for epoch in (1, 2, 3, 4)]
    rows = [own.y for own in lines]
    claims = [
        claim(
            "fewer local epochs need more global epochs for the same accuracy",
            f"no smaller number of them gets within {MARGIN} of what the largest has after two global epochs, in two",
            lambda *rows: all(epochs_to_reach(rows[1][-1], own[:-1]) > 2 for own in _by_point(rows)[:-1]),
            *rows,
        ),
        claim(
            "with the most local epochs, more than two global epochs cost accuracy",
            f"after three or four, below two by more than {MARGIN}",
            lambda *rows: drops(_by_point(rows)[-1]),
            *rows,
        ),
    ]
    title = "Accuracy against local epochs by global epochs, epsilon 2"
    return Figure(8, title, "local epochs", LOCAL_EPOCHS, lines, claims)


def full_schedule(points: Points) -> tuple[list[Line], list[Claim]]:
    """Returns both normalisations at the document's own schedule, by global epoch, and what was to be shown."""
    names = [key(technique, 2, 64, 40, full=True) for technique in (BOUNDED, BATCH)]
    lines = []
    for technique, name in zip((BOUNDED, BATCH), names, strict=True):
        epochs = [line("", points, [name], epoch) for epoch in (1, 2)]
        lines.append(Line(technique, [e.y[0] for e in epochs], [e.y_with_noise[0] for e in epochs]))
    last = [[own.y[-1]] for own in lines]
    claims = [
        claim(
            "bounded normalisation beats batch normalisation by a clear margin",
            f"above by more than {CLEAR_MARGIN} after two global epochs",
            lambda own, other: own[0] - other[0] > CLEAR_MARGIN,
            *last,
        ),
        claim(
            "bounded normalisation reaches 90 %",
            f"at least {GOAL} after two global epochs",
            lambda own: own[0] >= GOAL,
            last[0],
        ),
    ]
    return lines, claims


FIGURES = (figure_3, figure_4, figure_5, figure_6, figure_7, figure_8)


def _worse_with_batch(own: Line, noise: str) -> Claim:
    rule = f"down by more than {MARGIN} from the smallest to the largest, and no step up by that much"
    return claim(f"at {noise}, with {own.label}, accuracy falls as batches grow", rule, falls, own.y)


def _epochs(count: int) -> str:
    return f"{count} global epoch{'s' if count > 1 else ''}"


def _by_point(rows: Sequence[Values]) -> list[tuple[float, ...]]:
    return list(zip(*rows, strict=True))
