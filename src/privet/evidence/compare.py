"""Runs side by side: what differs in the plans, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from privet.evidence.reading import devices, leaks, load_metrics, median
from privet.evidence.wording import clean, duration, energy, epsilon, finite, number, percent, size

__all__ = ["compare", "compare_rows", "load_metrics"]

_FIGURES = {
    "accuracy": percent,
    "accuracy_with_noise": percent,
    "accuracy_alone_mean": percent,
    "accuracy_centralised": percent,
    "backdoor_success": percent,
    "bytes_per_device": size,
    "joules_per_device": energy,
    "seconds": duration,
    "rejected": number,
}


def compare_rows(metrics_list: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row a run, JSON values only.

    Each row has ``run``, ``name``, the figures (None where not measured), ``epsilons`` (by claim and
    unit; None is no formal guarantee), ``attacks`` (by attack and figure, the one that leaks most where
    an attack ran more than once) and ``differs`` (by dotted key of the plan, this run's value; None
    where it has none).

    Args:
        metrics_list: what :func:`load_metrics` returned for each run.
    """
    plans = [_flat(metrics.get("plan") or {}) for metrics in metrics_list]
    keys = sorted(set().union(*plans)) if plans else []
    differing = [key for key in keys if any(plan.get(key) != plans[0].get(key) for plan in plans)]
    rows = []
    for metrics, plan in zip(metrics_list, plans, strict=True):
        figures = {key: finite(metrics.get(key)) for key in _FIGURES}
        figures["joules_per_device"] = median(finite(row.get("joules")) for row in devices(metrics))
        figures["rejected"] = len(metrics.get("rejected") or ())
        rows.append(
            {"run": metrics.get("run"), "name": metrics.get("name")}
            | figures
            | {
                "epsilons": _epsilons(metrics),
                "attacks": _attacks(metrics),
                "differs": {key: plan.get(key) for key in differing},
            }
        )
    return rows


def compare(metrics_list: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Returns a table for a rich console: a column a run, a row a figure; rows that no run has are left out."""
    rows = compare_rows(metrics_list)
    table = Table()
    table.add_column("")
    for row in rows:
        table.add_column(Text(clean(row["run"] or row["name"] or "?")), overflow="fold")
    for key in rows[0]["differs"] if rows else ():
        table.add_row(Text(clean(key)), *(_value(row["differs"][key]) for row in rows), style="cyan")
    for key, write in _FIGURES.items():
        if any(row[key] is not None for row in rows):
            table.add_row(key.replace("_", " "), *(Text(write(row[key])) for row in rows))
    for claim in _union(row["epsilons"] for row in rows):
        cells = [epsilon({"epsilon": row["epsilons"][claim]}) if claim in row["epsilons"] else "-" for row in rows]
        table.add_row(Text(f"epsilon: {clean(claim)}"), *map(Text, cells))
    for figure in _union(row["attacks"] for row in rows):
        table.add_row(Text(f"attack: {clean(figure)}"), *(Text(number(row["attacks"].get(figure))) for row in rows))
    return table


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """Returns the leaves of a plan by dotted key; tables in a list are numbered from 0."""
    nested: list[tuple[str, Any]]
    if isinstance(value, dict):
        nested = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        nested = [(str(index), item) for index, item in enumerate(value)]
    else:
        plain = value is None or isinstance(value, bool | int | float | str | list)
        return {at: value if plain else str(value)}
    return {key: leaf for name, item in nested for key, leaf in _flat(item, f"{at}.{name}" if at else name).items()}


def _epsilons(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns epsilon by claim and unit; where two share both, the weaker one."""
    found: dict[str, float | None] = {}
    for row in metrics.get("guarantees") or ():
        key, value = f"{row.get('claim', '?')} (per {row.get('unit', '?')})", finite(row.get("epsilon"))
        before = found.get(key, value)
        found[key] = None if value is None or before is None else max(value, before)
    return found


def _attacks(metrics: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for attack in metrics.get("attacks") or ():
        for leak in leaks(attack):
            if leak.value is not None:
                key = f"{attack.get('name', '?')} {leak.metric}"
                found[key] = leak.worse(found.get(key, leak.value))
    return found


def _union(maps: Any) -> list[str]:
    return list(dict.fromkeys(key for names in maps for key in names))


def _value(value: Any) -> Text:
    return Text("-" if value is None else clean(value if isinstance(value, str) else json.dumps(value, default=str)))
