"""Counting the votes of one height: each voter once in each step, and whoever votes twice is named."""

from __future__ import annotations

from collections.abc import Mapping

from privet.ledger.messages import Offence
from privet.ledger.votes import Vote, is_quorum


class Tally:
    """Authentic votes of one chain and height; checking that they are is the caller's part.

    Args:
        weights: voting weight of every miner by its key.

    Attributes:
        certified: period and block of the first quorum of certify votes, or None.
    """

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self.weights = weights
        self.total = sum(weights.values())
        self.certified: tuple[int, bytes] | None = None
        self._cast: dict[tuple[int, str], dict[bytes, Vote]] = {}
        self._weight: dict[tuple[int, str, bytes], int] = {}
        self._choice: dict[tuple[int, str], bytes] = {}
        self._ended: dict[int, dict[bytes, Vote]] = {}
        self._ended_weight: dict[int, int] = {}

    def add(self, vote: Vote) -> Offence | None:
        """Counts a vote, unless its voter has voted in this step; returns both when they contradict each other."""
        cast = self._cast.setdefault((vote.period, vote.step), {})
        before = cast.get(vote.voter)
        if before is not None:
            return None if before.block == vote.block else Offence(before, vote)
        cast[vote.voter] = vote
        self._weigh(vote)
        return None

    def choice(self, period: int, step: str) -> bytes | None:
        """Returns what more than two thirds chose in a step, which may be ``NOTHING``; None while nothing has them."""
        return self._choice.get((period, step))

    def votes(self, period: int, step: str, block: bytes) -> list[Vote]:
        """Returns the votes for one block in a step."""
        return [vote for vote in self._cast.get((period, step), {}).values() if vote.block == block]

    def ending(self, period: int) -> tuple[Vote, ...]:
        """Returns one certify or next vote of each miner that ended a period; empty without a quorum of them."""
        ended = is_quorum(self._ended_weight.get(period, 0), self.total)
        return tuple(self._ended[period].values()) if ended else ()

    def all_ended(self, period: int) -> bool:
        """Returns whether every miner has ended a period."""
        return self._ended_weight.get(period, 0) == self.total

    def _weigh(self, vote: Vote) -> None:
        weight = self.weights[vote.voter]
        place = (vote.period, vote.step, vote.block)
        self._weight[place] = self._weight.get(place, 0) + weight
        if is_quorum(self._weight[place], self.total):
            self._choice[vote.period, vote.step] = vote.block
            if vote.step == "certify" and self.certified is None:
                self.certified = (vote.period, vote.block)
        if vote.step != "soft" and vote.voter not in self._ended.setdefault(vote.period, {}):
            self._ended[vote.period][vote.voter] = vote
            self._ended_weight[vote.period] = self._ended_weight.get(vote.period, 0) + weight
