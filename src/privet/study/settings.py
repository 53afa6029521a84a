"""``--set KEY=VALUE``: changes to a plan's table before it is checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from privet import parts
from privet.errors import PlanError

_PART = re.compile(
    r"data|model|training|aggregation(?:\.inner)*|attacks\.\d+|mechanisms\.on_(?:device|server)\.\d+"
    r"|fleet\.(?:partition|availability|hostile\.\d+\.behaviour|imperfect\.\d+\.imperfection)"
)
"""Dotted keys of tables that describe a part."""


def apply(table: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Returns a copy of a plan's table with settings applied in order.

    A value is read as TOML; what is not TOML is text, so ``model.name=lenet`` needs no quotes. A number in
    a key is a place in a list; the place after the last one appends. Setting the ``name`` of a part starts
    that part afresh: nothing of the old part's table is kept, so set its other fields afterwards.

    >>> apply({"aggregation": {"name": "krum", "byzantine": 2}}, ["aggregation.name=mean"])
    {'aggregation': {'name': 'mean'}}

    Raises:
        PlanError: a setting is not ``KEY=VALUE``, or its key runs through something that is no table or list.
    """
    out: dict[str, Any] = copied(table)
    for setting in settings:
        key, equals, text = setting.partition("=")
        steps = key.strip().split(".")
        if not equals or not all(steps):
            raise PlanError(f"--set {setting}: not a setting", allowed="KEY=VALUE, for example training.rounds=3")
        _put(out, steps, _value(text.strip()))
    return out


def copied(value: Any) -> Any:
    """Returns a copy of a plan's table in which nested tables and lists are copies too; built parts are kept."""
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [copied(item) for item in value]
    return value


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = table["value"]
    return value if set(table) == {"value"} and isinstance(value, bool | int | float | str | list | dict) else text


def _put(table: dict[str, Any], steps: list[str], value: Any) -> None:
    at: Any = table
    for depth, step in enumerate(steps[:-1]):
        at = _child(at, step, steps, depth)
    if steps[-1] == "name" and _PART.fullmatch(".".join(steps[:-1])):
        at.clear()
    if isinstance(at, list):
        _child(at, steps[-1], steps, len(steps) - 1)
        at[int(steps[-1])] = value
    elif isinstance(at, dict):
        at[steps[-1]] = value
    else:
        raise _no_table(steps, len(steps) - 1)


def _child(at: Any, step: str, steps: list[str], depth: int) -> Any:
    if isinstance(at, dict):
        at.setdefault(step, [] if steps[depth + 1].isdecimal() else {})
        at[step] = _as_table(at[step])
        return at[step]
    if not isinstance(at, list):
        raise _no_table(steps, depth)
    if not step.isdecimal() or int(step) > len(at):
        key = ".".join(steps[: depth + 1])
        raise PlanError(f"{key}: no such place in the list", allowed=f"0 to {len(at)}, where {len(at)} appends")
    if int(step) == len(at):
        at.append({})
    at[int(step)] = _as_table(at[int(step)])
    return at[int(step)]


def _as_table(value: Any) -> Any:
    return parts.to_table(value) if getattr(type(value), "__is_part__", False) else value


def _no_table(steps: list[str], depth: int) -> PlanError:
    above = ".".join(steps[:depth])
    return PlanError(
        f"{'.'.join(steps)}: {above} is neither a table nor a list", do=f"see: privet plan explain {above}"
    )
