"""One line for everything that can be wrong with a plan: the key, what is allowed, what to do."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from privet.errors import PlanError, PrivetError, nearest

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

_ALLOWED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "an integer",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_type": "text",
    "too_short": "at least {min_length} values",
    "tuple_type": "a list",
}
"""Pydantic's kinds of error that a plan can meet, in the words of a plan."""


class KeyBelowError(ValueError):
    """A problem with a key below the one that is being checked.

    Args:
        below: the rest of the dotted key, or "" for the key itself.
        error: what is wrong with it.
    """

    def __init__(self, below: str, error: PrivetError) -> None:
        super().__init__(below)
        self.below = below
        self.error = error


def refuse_unknown(given: Iterable[str], known: list[str]) -> None:
    """Refuses the first key that is not known, naming the nearest one.

    Raises:
        KeyBelowError: a key is unknown.
    """
    for key in given:
        if key not in known:
            raise KeyBelowError(
                key, PlanError("unknown key", allowed=", ".join(known) or "no keys", do=nearest(key, known))
            )


def one_line(error: ValidationError, above: str = "") -> PlanError:
    """Returns the first problem that pydantic found, as one line about one dotted key of the plan."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(step) for step in (above, *first["loc"]) if step != "")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ValidationError):
        return one_line(cause, key)
    if isinstance(cause, KeyBelowError):
        return about(".".join(step for step in (key, cause.below) if step), cause.error)
    if isinstance(cause, PrivetError):
        return about(key, cause)
    see = f"see: privet plan explain {key}"
    if first["type"] in ("missing", "missing_argument"):
        return PlanError(f"{key}: missing", do=f"add it; {see}")
    if first["type"] == "value_error":
        return PlanError(f"{key}: {cause}", do=see)
    allowed = _ALLOWED.get(first["type"])
    if allowed is None:
        return PlanError(f"{key}: {first['msg']}, not {shown(first['input'])}", do=see)
    return PlanError(
        f"{key}: {shown(first['input'])} is refused", allowed=allowed.format(**first.get("ctx", {})), do=see
    )


def about(key: str, error: PrivetError) -> PlanError:
    """Returns an error as one about a key of the plan."""
    return PlanError(f"{key}: {error.wrong}" if key else error.wrong, allowed=error.allowed, do=error.do)


def shown(value: Any) -> str:
    """Returns a value as short text, however large it is."""
    return _SHORT.repr(value)
