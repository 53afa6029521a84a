"""Who sent a good update, and what that does to a reputation: pure functions of integers.

The document's Eq. (2) contradicts itself (two cases hold at reputation h with a low evaluation, and its
last line raises the reputation of a rejected customer below h). This reading agrees with its text and
with figures 11 and 12. Its weakness: who starts above h and attacks every second round swings between two
values and is never brought to 0.

References:
    Zhao et al., section IV.B (Eq. 1 and 2) and VI.D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privet.errors import RefusedError

UNSOUND = (1 << 256) - 1
"""The score of an update that failed the miners' checks; no sum of distances is as large."""


@dataclass(frozen=True)
class Evaluation:
    """What a round makes of one update.

    Attributes:
        selected: whether it is part of the new model.
        high: whether it speaks for its sender (the document's a = H).
    """

    selected: bool
    high: bool


def next_reputation(gamma: int, high: bool, h: int, gamma_max: int) -> int:
    """Returns a customer's reputation after one evaluation (Eq. 2 as read above).

    >>> next_reputation(5, True, 5, 100), next_reputation(5, False, 5, 100), next_reputation(8, False, 5, 100)
    (6, 0, 7)
    """
    if high:
        return min(gamma_max, gamma + 1)
    return 0 if gamma == h else max(0, gamma - 1)


def needed(rule: str, f: int) -> int:
    """Returns the fewest updates that a round needs: 2 f + 3 for Multi-Krum, 1 for the mean."""
    return 2 * f + 3 if rule == "multi-krum" else 1


def evaluate(scores: Sequence[int], rule: str, f: int, kappa: int) -> list[Evaluation]:
    """Returns the evaluation of each update from its score.

    Multi-Krum leaves the ``f`` highest scores out (of equal ones the last), also when everybody is
    honest; so an update is held against its sender only when it is left out and its score exceeds
    ``kappa`` times the median. Under ``mean`` every update is selected.

    An update that is :data:`UNSOUND` is left out and held against its sender, and the others are evaluated among
    themselves; when fewer than :func:`needed` are left, none is selected.

    Args:
        scores: exact Krum scores or :data:`UNSOUND`, in the order of the customers' keys.
        rule: ``multi-krum`` or ``mean``.
        f: hostile updates to withstand.
        kappa: how many medians are too much.

    Raises:
        RefusedError: there are fewer updates than :func:`needed`.
    """
    if len(scores) < needed(rule, f):
        raise RefusedError(f"{len(scores)} update(s) for {rule} with f = {f}", allowed=f"{needed(rule, f)} or more")
    sound = [score for score in scores if score != UNSOUND]
    if len(sound) < len(scores):
        enough = len(sound) >= needed(rule, f)
        among = iter(evaluate(sound, rule, f, kappa) if enough else [Evaluation(False, True)] * len(sound))
        return [Evaluation(False, False) if score == UNSOUND else next(among) for score in scores]
    if rule == "mean":
        return [Evaluation(True, True)] * len(scores)
    order = sorted(range(len(scores)), key=lambda at: (scores[at], at))
    left_out = set(order[len(scores) - f :])
    ranked = sorted(scores)
    middle = len(scores) // 2
    twice_median = ranked[middle] + ranked[-1 - middle]
    return [
        Evaluation(at not in left_out, not (at in left_out and 2 * score > kappa * twice_median))
        for at, score in enumerate(scores)
    ]
