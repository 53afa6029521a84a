"""Budgets of bits per subject and purpose, for releases that are one of few codes.

K codes tell at most log2 K bits of min-entropy leakage, and releases one after another at most the sum, whatever
the later ones depend on: all of them together are one of the product's codes. So what was spent is a sum, and a release
that would exceed the budget is refused before it happens.

References:
    Espinoza, Smith, Min-entropy as a Resource, Information and Computation 2013, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from privet.errors import InputError, RefusedError
from privet.governance.held_log import HeldBook

SLACK = 1e-9
"""Bits that may be missing: sums of logarithms are rounded, and so few tell nothing."""


@dataclass(frozen=True)
class BitBudget:
    """How many bits may leave of one subject for one purpose.

    Attributes:
        subject: whose samples they are.
        purpose: what the answers are for.
        bits: the most that all releases together may tell.
    """

    subject: str
    purpose: str
    bits: float

    def __post_init__(self) -> None:
        if not self.subject or not self.purpose:
            raise InputError("a budget of nobody, or for nothing", do="name a subject and a purpose")
        if not 0 < self.bits < math.inf:
            raise InputError(f"a budget of {self.bits} bits", allowed="a finite number, more than 0")


@dataclass
class _Account:
    budget: BitBudget
    releases: dict[str, float] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        return math.fsum(self.releases.values())


class BitBook(HeldBook[BitBudget]):
    """The bit budgets of a device's subjects and what was spent of them, kept in a log of records.

    A release is paid for, on the disk, before it happens: a crash in between loses the release and never the payment.
    The same release id is paid for once, so a release that is repeated from a memo is free. One process at a time
    holds a book. Use it as a context manager, or ``close()`` it.

    Args:
        path: the log of records; made when absent, replayed and verified when there.
        budgets: to open; one that is open already must be the same.
        mark: of the book as it was last seen, where somebody kept that.

    Raises:
        RunError: a record was changed, removed, inserted or reordered, or the book has lost records since the mark.
        RefusedError: a budget is open with other figures, or another process holds the book.
    """

    def __init__(self, path: Path, budgets: Sequence[BitBudget] = (), mark: str = "") -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        super().__init__(path, budgets, mark)

    def open(self, budget: BitBudget) -> None:
        """Records a budget; opening the same one again changes nothing.

        Raises:
            RefusedError: this subject and purpose have another budget: what is promised is not raised.
        """
        known = self._accounts.get((budget.subject, budget.purpose))
        if known is None:
            self._record("bit-budget", asdict(budget))
        elif known.budget != budget:
            raise RefusedError(
                f"{budget.subject} has a budget for {budget.purpose!r} of {known.budget.bits:g} bits, "
                f"not {budget.bits:g}",
                do="keep to it, or name another purpose",
            )

    def spend(self, releases: Sequence[str], subject: str, purpose: str, bits: float) -> int:
        """Pays for releases, on the disk, before they happen: for all of them, or for none.

        Args:
            releases: their ids; the same id is paid for once, and named twice it counts once.
            subject: of whom they are.
            purpose: what for.
            bits: what each tells at most.

        Returns:
            How many were paid for now.

        Raises:
            RefusedError: there is no budget, or it would be exceeded, as by bits that nobody counted (``math.inf``);
                nothing was recorded.
            InputError: the bits are negative or no number, or an id was paid for with other bits.
        """
        if not bits >= 0:
            raise InputError(f"a release of {bits} bits", allowed="0 or more")
        account = self._account(subject, purpose)
        for each in releases:
            if account.releases.get(each, bits) != bits:
                raise InputError(f"release {each!r} was paid for with other bits", do="give it an id of its own")
        new = [each for each in dict.fromkeys(releases) if each not in account.releases]
        after = account.spent + bits * len(new) if new else account.spent
        if not after <= account.budget.bits + SLACK:
            raise RefusedError(
                f"{subject}, {purpose!r}: {len(new)} release(s) of {bits:.4g} bits would raise what was told from "
                f"{account.spent:.4g} to {after:.4g} bits",
                allowed=f"{account.budget.bits:g}",
                do="use fewer codes, release less often, or stop here",
            )
        for each in new:
            self._record("bits", {"release": each, "subject": subject, "purpose": purpose, "bits": bits})
        return len(new)

    def spent(self, subject: str, purpose: str) -> float:
        """Returns the bits that were told so far, at most.

        Raises:
            RefusedError: there is no budget.
        """
        return self._account(subject, purpose).spent

    def accounts(self) -> list[tuple[BitBudget, float]]:
        """Returns the budgets with the bits that were told of each so far, in the order in which they were opened."""
        return [(account.budget, account.spent) for account in self._accounts.values()]

    def _account(self, subject: str, purpose: str) -> _Account:
        known = self._accounts.get((subject, purpose))
        if known is None:
            raise RefusedError(f"{subject} has no budget of bits for {purpose!r}", do="open one")
        return known

    def _replay(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "bit-budget":
            budget = BitBudget(**body)
            self._accounts[budget.subject, budget.purpose] = _Account(budget)
        elif kind == "bits":
            self._accounts[body["subject"], body["purpose"]].releases[body["release"]] = body["bits"]
