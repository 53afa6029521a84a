"""What is allowed: who takes part, and budgets that refuse before they are exceeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privet.governance.bit_budget import BitBook as BitBook
    from privet.governance.bit_budget import BitBudget as BitBudget
    from privet.governance.budget import Book as Book
    from privet.governance.budget import Budget as Budget

__all__ = ["BitBook", "BitBudget", "Book", "Budget"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use, since what counts budgets takes a second to import and enrolment needs none
        from privet.governance import bit_budget, budget

        return getattr(bit_budget if name.startswith("Bit") else budget, name)
    raise AttributeError(f"module 'privet.governance' has no attribute {name!r}")
