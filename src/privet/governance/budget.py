"""Budgets per device and purpose, and the filter that refuses a release before it would exceed one.

What a next release does may depend on what earlier ones said, so adding up guarantees afterwards is not
enough: a privacy filter decides before each release. Here it keeps, for each of a few Renyi orders
fixed in advance, the sum of divergences, and lets a release happen while at least one order is
within what converts to (epsilon, delta / number of orders), or the sum of pure losses within epsilon.

Why that holds: for one fixed order, stopping before the sum exceeds a bound keeps that bound
(Feldman and Zrnic; Lecuyer). Split all outcomes by which order was within its bound at the end; on each
part this filter did what that order's filter would have done, so its delta bounds the part, and the
deltas add up to the budget's.

References:
    Rogers, Roth, Ullman, Vadhan, Privacy Odometers and Filters, NeurIPS 2016; Feldman and Zrnic, Individual
    Privacy Accounting via a Renyi Filter, NeurIPS 2021, theorem 4.3; Lecuyer, Practical Privacy Filters and
    Odometers with Renyi Differential Privacy, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dp_accounting.dp_event import DpEvent

from privet.accounting import Unit
from privet.accounting.accountants import cost
from privet.accounting.renyi import ORDERS
from privet.errors import InputError, RefusedError
from privet.governance.held_log import HeldBook

FIXED = (1.2, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 1024)
"""The Renyi orders of the filter, fixed in advance; few, because delta is shared among them."""

_PLACES = [int(np.flatnonzero(order == ORDERS)[0]) for order in FIXED]


@dataclass(frozen=True)
class Budget:
    """How much one device may spend for one purpose.

    Attributes:
        device: whose data it is.
        purpose: what it may be used for.
        epsilon: the most that all releases together may cost.
        delta: the probability that epsilon does not bound; 0 counts pure losses only.
        unit: who is protected.
    """

    device: str
    purpose: str
    epsilon: float
    delta: float
    unit: Unit

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or not 0 <= self.delta < 1:
            raise InputError(
                f"a budget of epsilon {self.epsilon}, delta {self.delta}",
                allowed="a finite epsilon, more than 0, and 0 <= delta < 1",
            )


@dataclass(frozen=True)
class Spent:
    """What was spent: a sum that only grows.

    Attributes:
        divergences: at each of :data:`FIXED`.
        pure: the sum of pure losses.
    """

    divergences: tuple[float, ...] = (0.0,) * len(FIXED)
    pure: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """Returns both together."""
        sums = tuple(one + two for one, two in zip(self.divergences, other.divergences, strict=True))
        return Spent(sums, self.pure + other.pure)

    def epsilon(self, delta: float) -> float:
        """Returns the epsilon that the filter counts for it; ``math.inf`` where nothing bounds it."""
        if delta == 0:
            return self.pure
        orders, share = np.array(FIXED), delta / len(FIXED)
        figures = np.array(self.divergences) + np.log1p(-1 / orders) - np.log(share * orders) / (orders - 1)
        return max(0.0, min(self.pure, float(figures.min())))

    def to_json(self) -> dict[str, Any]:
        """Returns the figures; null where nothing bounds."""
        return {"divergences": [_or_none(one) for one in self.divergences], "pure": _or_none(self.pure)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Spent:
        """Returns what :meth:`to_json` was made from."""
        return cls(tuple(_or_inf(one) for one in fields["divergences"]), _or_inf(fields["pure"]))


def price(event: DpEvent, count: int = 1) -> Spent:
    """Returns what ``count`` releases of an event cost a budget.

    Raises:
        InputError: no accountant knows the event.
    """
    pure, divergence = cost(event, count)
    return Spent(tuple(float(divergence[place]) for place in _PLACES), pure)


@dataclass
class _Account:
    budget: Budget
    spent: Spent = field(default_factory=Spent)
    releases: dict[str, tuple[str, int]] = field(default_factory=dict)


class Book(HeldBook[Budget]):
    """The budgets of a fleet and what was spent of them, kept in a log of records.

    A release is paid for, on the disk, before it happens: a crash in between loses the release and never the
    payment. Asking again under the same release id pays nothing, so a release can be tried again after a
    crash. One process at a time holds a book. Use it as a context manager, or ``close()`` it.

    Args:
        path: the log of records; made when absent, replayed and verified when there.
        budgets: to open; one that is open already must be the same.

    Raises:
        RunError: a record was changed, removed, inserted or reordered.
        RefusedError: a budget is open with other figures, or another process holds the book.
    """

    def __init__(self, path: Path, budgets: Sequence[Budget] = ()) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        super().__init__(path, budgets)

    def open(self, budget: Budget) -> None:
        """Records a budget; opening the same one again changes nothing.

        Raises:
            RefusedError: this device and purpose have another budget: what is promised is not raised.
        """
        known = self._accounts.get((budget.device, budget.purpose))
        if known is None:
            self._record("budget", asdict(budget))
        elif known.budget != budget:
            raise RefusedError(
                f"{budget.device} has a budget for {budget.purpose!r} of epsilon {known.budget.epsilon:g} per "
                f"{known.budget.unit}, not {budget.epsilon:g} per {budget.unit}",
                do="keep to it, or name another purpose",
            )

    def spend(self, release: str, device: str, purpose: str, event: DpEvent, *, unit: Unit, count: int = 1) -> bool:
        """Pays for a release, on the disk, before it happens.

        Args:
            release: its id; the same id is paid for once.
            device: whose data is released.
            purpose: what for.
            event: what one release does.
            unit: of the event; must be that of the budget.
            count: how often it is done.

        Returns:
            True when it was paid for now, False when it had been before.

        Raises:
            RefusedError: there is no budget, or it would be exceeded; nothing was recorded.
            InputError: no accountant knows the event, its unit differs, or the id was paid for something else.
        """
        return self.spend_each(release, [device], purpose, event, unit=unit, count=count) > 0

    def spend_each(
        self, release: str, devices: Sequence[str], purpose: str, event: DpEvent, *, unit: Unit, count: int = 1
    ) -> int:
        """Pays for a release of each device's data, or for none: one that can't pay refuses for all.

        Returns:
            How many were paid for now.

        Raises:
            RefusedError, InputError: as :meth:`spend`.
        """
        asked = price(event, count)
        body = {"release": release, "purpose": purpose, "event": str(event), "count": count} | asked.to_json()
        new = [
            device for device in devices if self._payable(release, device, purpose, (str(event), count), asked, unit)
        ]
        for device in new:
            self._record("spent", body | {"device": device})
        return len(new)

    def _payable(
        self, release: str, device: str, purpose: str, what: tuple[str, int], asked: Spent, unit: Unit
    ) -> bool:
        """Whether a release is still to be paid for; refuses what exceeds the budget."""
        account = self._account(device, purpose)
        budget = account.budget
        if unit != budget.unit:
            raise InputError(f"the release is counted per {unit}, the budget of {device} per {budget.unit}")
        if release in account.releases:
            if account.releases[release] != what:
                raise InputError(f"release {release!r} was paid for with other noise", do="give it an id of its own")
            return False
        before, after = account.spent.epsilon(budget.delta), account.spent.plus(asked).epsilon(budget.delta)
        if not after <= budget.epsilon:
            raise RefusedError(
                f"{device}, {purpose!r}: release {release!r} would raise epsilon from {before:.4g} to {after:.4g} per "
                f"{unit}",
                allowed=f"{budget.epsilon:g} at delta {budget.delta:g}",
                do="add noise, release less often, or stop here",
            )
        return True

    def spent(self, device: str, purpose: str) -> float:
        """Returns the epsilon that the filter has counted so far, at the budget's delta.

        Raises:
            RefusedError: there is no budget.
        """
        account = self._account(device, purpose)
        return account.spent.epsilon(account.budget.delta)

    def _account(self, device: str, purpose: str) -> _Account:
        known = self._accounts.get((device, purpose))
        if known is None:
            raise RefusedError(f"{device} has no budget for {purpose!r}", do="open one")
        return known

    def _replay(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "budget":
            budget = Budget(**body)
            self._accounts[budget.device, budget.purpose] = _Account(budget)
        elif kind == "spent":
            account = self._accounts[body["device"], body["purpose"]]
            account.spent = account.spent.plus(Spent.from_json(body))
            account.releases[body["release"]] = (body["event"], body["count"])


def _or_none(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None


def _or_inf(figure: float | None) -> float:
    return math.inf if figure is None else figure
