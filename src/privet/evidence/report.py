"""The page that an officer reads and signs: one HTML file with everything in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from privet.errors import RunError
from privet.evidence import panels, pictures, wording
from privet.evidence.exposure import exposures
from privet.evidence.reading import Metrics, devices, leaks, load_metrics, missing, servers, uncaught, unnamed
from privet.evidence.wording import clean, duration, energy, number, percent, size
from privet.ledger import verify


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` from the files of a run folder and returns its path.

    The page needs no network and no script. The chain of records and the model's digest are checked
    while it is written; a failure is printed on the page in red, it does not stop the report.

    Args:
        folder: a run folder with at least ``metrics.json``.

    Raises:
        RunError: the folder is missing, unfinished or damaged.
    """
    folder = Path(folder)
    page = render(folder)
    path = folder / "report.html"
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(page, encoding="utf-8", errors="replace")
    os.replace(fresh, path)
    return path


def render(folder: Path) -> str:
    """Returns the page of a run folder as HTML.

    Raises:
        RunError: the folder is missing, unfinished or damaged.
    """
    metrics = load_metrics(folder)
    plan = Path(folder) / "plan.toml"
    loader = FileSystemLoader(Path(__file__).parent)
    paper = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    figures = {"percent": percent, "size": size, "duration": duration, "energy": energy, "number": number}
    paper.filters.update({name: _unbroken(write) for name, write in figures.items()})
    paper.filters.update(clean=clean, epsilon=wording.epsilon)
    everything = {
        "metrics": _Sparse(metrics),
        "rounds": _sparse(metrics.get("rounds")),
        "rejected": _sparse(metrics.get("rejected")),
        "hostile": metrics.get("hostile") or [],
        "warnings": metrics.get("warnings") or [],
        "name": clean(metrics.get("name") or Path(folder).resolve().name),
        "started": _moment(metrics.get("started")),
        "did": panels.sentence(metrics),
        "tiles": panels.tiles(metrics),
        "guarantees": [(row, wording.meaning(row)) for row in _sparse(metrics.get("guarantees"))],
        "claims": [(row, wording.check(row)) for row in _sparse(metrics.get("claims"))],
        "attacks": [(row, leaks(row)) for row in _sparse(metrics.get("attacks"))],
        "exposures": exposures(metrics.get("attacks") or ()),
        "strips": pictures.strips(Path(folder) / "pictures"),
        "accuracy_charts": panels.accuracy_charts(metrics),
        "alone": sorted((metrics.get("accuracy_alone") or {}).items()),
        "devices": _sparse(devices(metrics)),
        "servers": _sparse(servers(metrics)),
        "cost_spread": panels.cost_spread(devices(metrics)),
        "cost_charts": panels.cost_charts(metrics),
        "gain": panels.gain(metrics),
        "missed": uncaught(metrics),
        "ledger": metrics.get("ledger"),
        "unnamed": unnamed(metrics.get("ledger") or {}),
        "seal": seal(metrics, Path(folder)),
        "run_literal": json.dumps(metrics["run"], ensure_ascii=False),
        "plan_text": plan.read_text(encoding="utf-8") if plan.is_file() else "",
        "missing": missing(metrics),
        "absences": panels.absences(metrics),
        "many": panels.MANY,
    }
    return paper.get_template("report.html.j2").render(everything)


def _moment(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return "" if text is None else clean(text)


def _unbroken(write: Callable[[object], str]) -> Callable[[object], str]:
    """A figure and its unit stay on one line."""
    return lambda value: write(value).replace(" ", "\u00a0")


class _Sparse(dict[str, Any]):
    """A row of which any part may be absent: what is absent is None, and the page says so."""

    def __missing__(self, key: str) -> None:
        return None


def _sparse(rows: list[dict[str, Any]] | None) -> list[_Sparse]:
    return [_Sparse(row) for row in rows or ()]


def seal(metrics: Metrics, folder: Path) -> dict[str, Any]:
    """Returns what a reader needs to check the run: head hash and digests, and whether they hold now."""
    checked: dict[str, Any] = {"records": 0, "head": "", "faults": [], "model_checked": False, "plan_checked": False}
    if metrics["plan"] and metrics.get("plan_digest"):
        canonical = json.dumps(metrics["plan"], sort_keys=True, separators=(",", ":"), default=str)
        checked["plan_checked"] = hashlib.sha256(canonical.encode()).hexdigest() == metrics["plan_digest"]
        if not checked["plan_checked"]:
            checked["faults"].append("plan.toml is not the plan whose hash the run recorded")
    try:
        records = verify(folder / "records.jsonl")
        checked |= {"records": len(records), "head": records[-1].hash if records else ""}
    except RunError as error:
        checked["faults"].append(error.wrong)
    if (folder / "model.safetensors").exists() and metrics.get("digest"):
        # torch takes a second to import, and only this check needs it
        from privet.tensors import digest, load

        try:
            checked["model_checked"] = digest(load(folder / "model.safetensors")) == metrics["digest"]
            if not checked["model_checked"]:
                checked["faults"].append("model.safetensors is not the model whose digest the run recorded")
        except RunError as error:
            checked["faults"].append(f"model.safetensors: {error.wrong}")
    return checked
