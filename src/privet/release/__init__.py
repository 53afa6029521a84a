"""Publishing answers about a data set."""

from privet.release.contract import Answer

__all__ = ["Answer"]
