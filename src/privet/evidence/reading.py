"""Reading a run folder, and the few figures that report, summary and comparison all take from it."""

from __future__ import annotations

import json
import statistics
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import RunError
from privet.evidence.wording import finite, number

Metrics = dict[str, Any]
"""What ``metrics.json`` holds; every part of it may be absent."""

SERVERS = ("edge-server", "coordinator")
"""Parties of the cost list that are not devices."""

_SHAPES: dict[str, type] = {
    **dict.fromkeys(("rounds", "rejected", "guarantees", "claims", "attacks", "costs", "hostile", "warnings"), list),
    **dict.fromkeys(("accuracy_alone", "accuracy_personal", "to_target", "ledger"), dict),
}
_LOWER_IS_CLOSER = ("mse", "rmse", "mae", "error")
_TABLES = ("rounds", "rejected", "guarantees", "claims", "attacks", "costs")


def load_metrics(folder: Path) -> Metrics:
    """Returns what a run measured, with ``run`` set to the folder and ``plan`` to its resolved plan.

    Raises:
        RunError: the folder is missing, unfinished or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"no run at {folder}", do="give the folder of a finished run, for example runs/<id>")
    metrics = _parsed(folder / "metrics.json")
    plan = folder / "plan.toml"
    return metrics | {"run": str(folder), "plan": _plan(plan) if plan.is_file() else {}}


def _parsed(path: Path) -> Metrics:
    if not path.is_file():
        raise RunError(f"{path} is missing", do="the run has not finished; resume it or run it again")
    try:
        metrics = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error})", allowed="one JSON object", do="run it again") from None
    if not isinstance(metrics, dict):
        raise RunError(f"{path} is damaged (no object)", allowed="one JSON object", do="run it again")
    for key, shape in _SHAPES.items():
        value = metrics.get(key)
        wrong = value is not None and not isinstance(value, shape)
        if not wrong and key in _TABLES:
            wrong = not all(isinstance(row, dict) for row in value or ())
        if wrong:
            raise RunError(f"{path} is damaged: {key!r} has the wrong form", do="run it again")
    return metrics


def _plan(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error})", allowed="the plan as the run resolved it") from None


def devices(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the cost rows of the devices, leaving out the servers."""
    return [row for row in metrics.get("costs") or () if row.get("party") not in SERVERS]


def servers(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the cost rows of the edge server and the coordinator."""
    return [row for row in metrics.get("costs") or () if row.get("party") in SERVERS]


def missing(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns ``device`` and ``reason`` of every reply that never came, of all rounds."""
    lists = (row.get("missing") for row in metrics.get("rounds") or ())
    return [entry for rows in lists if isinstance(rows, list) for entry in rows if isinstance(entry, dict)]


def uncaught(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the devices that were hostile on purpose, sent something, and were never rejected."""
    rejected = {str(row.get("device")) for row in metrics.get("rejected") or ()}
    kept_away = [str(row.get("device")) for row in missing(metrics)]
    rounds = len(metrics.get("rounds") or ())
    hostile = (str(device) for device in metrics.get("hostile") or ())
    return sorted(device for device in hostile if device not in rejected and kept_away.count(device) < max(rounds, 1))


def unnamed(ledger: Mapping[str, Any]) -> list[str]:
    """Returns the miners that lied on purpose and whom the ledger does not name; silence is no lie."""
    lied = [row for row in ledger.get("miners") or () if row.get("lie") not in (None, "", "silent")]
    return [str(row.get("name")) for row in lied if not row.get("named")]


def total(row: Mapping[str, Any], *keys: str) -> float | None:
    """Returns the sum of the figures that a row has, or None when it has none of them."""
    known = [value for value in (finite(row.get(key)) for key in keys) if value is not None]
    return sum(known) if known else None


def spread(values: Iterable[float | None]) -> tuple[float, float, float] | None:
    """Returns minimum, median and maximum of the known values, or None when there are none."""
    known = [value for value in values if value is not None]
    return (min(known), statistics.median(known), max(known)) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """Returns the median of the known values, or None when there are none."""
    known = spread(values)
    return known[1] if known else None


@dataclass(frozen=True)
class Leak:
    """One figure of an attack beside what a guess without the view scores.

    Attributes:
        metric: for example ``ssim``.
        value: what the attack scored.
        low, high: its interval, where there is one.
        floors: by kind of guess (``black``, ``mean``), what that guess scores.
    """

    metric: str
    value: float | None
    low: float | None
    high: float | None
    floors: dict[str, float | None]

    @property
    def interval(self) -> str:
        """The interval as text, or ""."""
        return "" if self.low is None or self.high is None else f"[{number(self.low)}, {number(self.high)}]"

    @property
    def floor(self) -> str:
        """The floors as text, or ""."""
        return ", ".join(f"{kind} {number(value)}".strip() for kind, value in self.floors.items())

    @property
    def verdict(self) -> str:
        """Whether the attack beat every guess that does not use the view, or "" when there is nothing to compare."""
        value, floors = self.value, [floor for floor in self.floors.values() if floor is not None]
        if value is None or not floors:
            return ""
        if self.metric in _LOWER_IS_CLOSER:
            beaten = (value if self.high is None else self.high) < min(floors)
        else:
            beaten = (value if self.low is None else self.low) > max(floors)
        if not beaten:
            return "not clearly better than a guess"
        return "better than every guess" + (": it leaks" if self.interval else ", but no interval: may be chance")

    def worse(self, other: float) -> float:
        """Returns this figure or another of the same metric, whichever means that more leaked."""
        mine = other if self.value is None else self.value
        return min(mine, other) if self.metric in _LOWER_IS_CLOSER else max(mine, other)

    def line(self) -> str:
        """Returns the figure, its interval and its floors in one line."""
        text = " ".join(filter(None, (self.metric, number(self.value), self.interval)))
        return f"{text} (floor: {self.floor})" if self.floors else text


def leaks(attack: Mapping[str, Any]) -> list[Leak]:
    """Returns the figures of an attack, each with its interval and the floors named after it.

    ``ssim_low`` and ``ssim_high`` are the interval of ``ssim``; the floor ``ssim_black`` belongs to it.
    """
    metrics = {key: finite(value) for key, value in (attack.get("metrics") or {}).items()}
    floors = {key: finite(value) for key, value in (attack.get("floor") or {}).items()}
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    names = [name for name in metrics if name not in ends]
    mine: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for key, value in floors.items():
        owners = [name for name in names if key == name or key.startswith(f"{name}_")]
        owner = max(owners, key=len, default="")
        mine.setdefault(owner, {})[key.removeprefix(owner).removeprefix("_").replace("_", " ")] = value
    return [
        Leak(name or "other guesses", metrics.get(name), metrics.get(f"{name}_low"), metrics.get(f"{name}_high"), kinds)
        for name, kinds in mine.items()
    ]
