"""What a record may hold: every field known, none missing, each of its type and in its range."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from privet.errors import InputError
from privet.ledger.encoding import Value

Field: TypeAlias = Callable[[Value], bool]
"""Says whether a value may stand in a field."""

LIMIT = 1 << 53
"""Amounts and counters stay below, so that a reader whose integers are floats reads them right."""


def whole(low: int = 0, high: int = LIMIT - 1) -> Field:
    """Returns the field of integers from ``low`` to ``high``."""
    return lambda value: type(value) is int and low <= value <= high


def binary(low: int, high: int | None = None) -> Field:
    """Returns the field of byte strings of ``low`` to ``high`` bytes, or of exactly ``low``."""
    return lambda value: type(value) is bytes and low <= len(value) <= (low if high is None else high)


def text(high: int) -> Field:
    """Returns the field of texts of 1 to ``high`` characters."""
    return lambda value: type(value) is str and 0 < len(value) <= high


def one_of(*words: str) -> Field:
    """Returns the field of the given words."""
    return lambda value: type(value) is str and value in words


def rows(*columns: Field) -> Field:
    """Returns the field of lists of rows whose first column rises strictly, so that none repeats."""

    def holds(value: Value) -> bool:
        if not isinstance(value, list):
            return False
        if not all(
            isinstance(row, list)
            and len(row) == len(columns)
            and all(column(item) for column, item in zip(columns, row, strict=True))
            for row in value
        ):
            return False
        keys: list[Any] = [row[0] for row in value]  # type: ignore[index]
        return all(first < second for first, second in itertools.pairwise(keys))

    return holds


def cid(value: Value) -> bool:
    """Says whether a value is the 36 bytes of a CIDv1: raw or dag-pb, sha2-256."""
    return type(value) is bytes and len(value) == 36 and value[:4] in (b"\x01\x55\x12\x20", b"\x01\x70\x12\x20")


key = digest = binary(32)
"""A public Ed25519 key, or a sha256."""

signature = binary(64)
"""An Ed25519 signature."""


def read(what: str, value: Value, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Returns a map after checking that it holds exactly these fields.

    Raises:
        InputError: a field is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(value, dict) or value.keys() != fields.keys():
        raise InputError(f"{what} must hold exactly: {', '.join(fields)}")
    for name, sound in fields.items():
        if not sound(value[name]):
            raise InputError(f"{what}: {name} is of the wrong type or out of range")
    return value
