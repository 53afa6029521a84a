"""What a source knows of its helpers: how fast each has been, who is late, who failed, who lied."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from privet.transport.contract import Peer

AWAY, LONGEST_AWAY = 1.0, 60.0
"""Seconds for which a helper is left alone after it failed: at first, and at most."""
OUTSTANDING = 4
"""Calls that one helper may owe at a time."""
USUAL = 1e9
"""Multiplications a second of a helper of which nothing is known."""


@dataclass
class Outcome:
    """What happened in one request, and what to say about it.

    Attributes:
        hedged: parts that were asked of a second helper because the first was late.
        redone: parts that were asked again because a helper failed or lied.
        here: parts that the source multiplied because nobody else was left.
        close: images whose winner the source decided, because it was too close for whole numbers.
        said: one line for each event.
        bytes: sent to and received from helpers.
    """

    hedged: int = 0
    redone: int = 0
    here: int = 0
    close: int = 0
    said: list[str] = field(default_factory=list)
    bytes: int = 0


@dataclass(eq=False)
class Part:
    """Some rows of a layer, for one helper.

    Attributes:
        first: the first row.
        last: behind the last row.
        asked: who was asked, in order.
        by: whose answer counts; None for the source's own.
        answered: whether there is an answer.
    """

    first: int
    last: int
    asked: list[Peer] = field(default_factory=list)
    by: Peer | None = None
    answered: bool = False


@dataclass
class _Standing:
    pace: float
    owes: int = 0
    away_until: float = 0.0
    away: float = AWAY
    late: bool = False
    liar: bool = False


class Standings:
    """How the helpers of one source stand.

    Args:
        peers: who they are.
        speeds: multiplications a second of each, where known.
    """

    def __init__(self, peers: Iterable[Peer], speeds: Mapping[Peer, float]) -> None:
        self._of = {peer: _Standing(speeds.get(peer, USUAL)) for peer in peers}
        self._guard = threading.Lock()

    @property
    def liars(self) -> list[Peer]:
        """Who was caught lying; nobody asks them again."""
        return [peer for peer, each in self._of.items() if each.liar]

    def live(self) -> list[Peer]:
        """Returns who can be asked now, the fastest first."""
        now = time.monotonic()
        with self._guard:
            free = {
                peer: each.pace
                for peer, each in self._of.items()
                if not (each.liar or each.late) and each.away_until <= now and each.owes < OUTSTANDING
            }
        return sorted(free, key=lambda peer: -free[peer])

    def pace(self) -> float:
        """Returns the multiplications a second of all who can be asked now, together."""
        return sum(self._of[peer].pace for peer in self.live())

    def split(self, rows: int) -> list[Part]:
        """Returns the rows of a layer in parts, as fast as helpers were; one part for nobody when nobody is there."""
        live = self.live()[:rows]
        paces = [self._of[peer].pace for peer in live]
        total, edges, so_far = sum(paces), [0], 0.0
        for pace in paces:
            so_far += pace
            edges.append(round(rows * so_far / total))
        parts = [Part(begin, end, [peer]) for peer, begin, end in zip(live, edges, edges[1:], strict=False)]
        return [part for part in parts if part.first < part.last] or [Part(0, rows)]

    def another(self, part: Part) -> Peer | None:
        """Returns who else can be asked for a part: the fastest that was not asked yet."""
        return next((peer for peer in self.live() if peer not in part.asked), None)

    def asked(self, peer: Peer) -> None:
        """Notes that a helper owes an answer."""
        with self._guard:
            self._of[peer].owes += 1

    def ended(self, peer: Peer) -> None:
        """Notes that a call ended, however it did."""
        with self._guard:
            self._of[peer].owes -= 1
            self._of[peer].late = False

    def met(self, peer: Peer, work: float, seconds: float) -> None:
        """Notes how fast a helper was."""
        with self._guard:
            each = self._of[peer]
            each.pace += 0.3 * (work / max(seconds, 1e-4) - each.pace)
            each.away = AWAY

    def late(self, peer: Peer) -> None:
        """Notes that somebody else had to be asked as well: it gets nothing until it answers, then half as much."""
        with self._guard:
            self._of[peer].late = self._of[peer].owes > 0
            self._of[peer].pace *= 0.5

    def failed(self, peer: Peer) -> None:
        """Leaves a helper alone for a while, twice as long each time."""
        with self._guard:
            each = self._of[peer]
            each.away_until, each.away = time.monotonic() + each.away, min(2 * each.away, LONGEST_AWAY)

    def lied(self, peer: Peer) -> None:
        """Notes who gave a wrong answer."""
        self._of[peer].liar = True
