"""What is allowed: budgets that refuse before they are exceeded."""

from privet.governance.budget import Book, Budget

__all__ = ["Book", "Budget"]
