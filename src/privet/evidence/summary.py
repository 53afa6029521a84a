"""The few lines printed at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from privet.evidence.reading import devices, leaks, median, missing, uncaught, unnamed
from privet.evidence.wording import clean, duration, energy, finite, meaning, number, percent, size, statement

_STYLES = {"good": "green", "fair": "yellow", "bad": "bold red", "": ""}
_FIGURES = (
    ("accuracy", "accuracy", percent),
    ("accuracy, with noise", "accuracy_with_noise", percent),
    ("each device alone (mean)", "accuracy_alone_mean", percent),
    ("all data in one place", "accuracy_centralised", percent),
    ("backdoor success", "backdoor_success", percent),
    ("bytes per device", "bytes_per_device", size),
)
"""Label, key of ``metrics.json``, how it is written; a figure that was not measured is left out."""

Row = tuple[str, str, str]


def rows(metrics: Mapping[str, Any]) -> list[Row]:
    """Returns what the summary says as (label, text, tone); tone is ``good``, ``fair``, ``bad`` or ""."""
    found = [(label, write(metrics[key]), "") for label, key, write in _FIGURES if metrics.get(key) is not None]
    found.extend(_own(metrics))
    if crossed := metrics.get("wire"):
        found.append(("bytes between machines", _crossed(crossed), ""))
    joules = median(finite(row.get("joules")) for row in devices(metrics))
    if joules is not None:
        found.append(("energy per device (median)", f"{energy(joules)}, modelled", ""))
    found.extend(_guarantees(metrics))
    if paid := metrics.get("budget"):
        found.append((f"budget for {clean(paid.get('purpose', '?'))}", _spent(paid), ""))
    found.extend(_attacks(metrics))
    found.append(("rejected", *_rejected(metrics)))
    found.extend(_ledger(metrics.get("ledger")))
    found.extend(_rounds(metrics))
    if metrics.get("seconds") is not None:
        found.append(("wall time", duration(metrics["seconds"]), ""))
    if metrics.get("reproducible"):
        found.append(("warning", "noise comes from a seed: whoever knows the seed can subtract it", "bad"))
    found.extend(("warning", clean(warning), "fair") for warning in metrics.get("warnings") or ())
    return found


def _own(metrics: Mapping[str, Any]) -> list[Row]:
    """Returns each device's own accuracy, and what the target accuracy cost."""
    found: list[Row] = []
    if own := metrics.get("accuracy_personal"):
        worst = f"worst {percent(own.get('worst'))} ({clean(own.get('worst_device', '?'))})"
        found.append(("each device's own accuracy", f"mean {percent(own.get('mean'))}, {worst}", ""))
    if target := metrics.get("to_target"):
        whose = "each device's own accuracy" if target.get("measured") == "personal" else "accuracy"
        label = f"until {whose} was {percent(target.get('accuracy'))}"
        if target.get("round") is None:
            return [*found, (label, "never reached", "fair")]
        modelled = f"{duration(target.get('seconds'))} and {energy(target.get('joules_per_device'))} modelled"
        found.append((label, f"{modelled}, {size(target.get('bytes_per_device'))} a device", ""))
    return found


def _guarantees(metrics: Mapping[str, Any]) -> list[Row]:
    found = []
    for guarantee in metrics.get("guarantees") or ():
        means = meaning(guarantee)
        text = statement(guarantee)
        if means.verdict not in text:
            text += f": {means.verdict}"
        found.append((f"guarantee: {clean(guarantee.get('claim', '?'))}", text, means.tone))
    return found or [("guarantee", "no formal guarantee was derived", "bad")]


def _crossed(wire: Mapping[str, Any]) -> str:
    text = f"{size(wire.get('sent'))} to devices, {size(wire.get('received'))} back, all devices together"
    return text + (f"; packing saved {size(wire['saved'])}" if wire.get("saved") else "")


def _spent(paid: Mapping[str, Any]) -> str:
    figures = f"epsilon {number(paid.get('epsilon_spent'))} of {number(paid.get('epsilon'))}"
    return clean(f"{figures} per {paid.get('unit', '?')} is spent, by all runs that share {paid.get('book', '?')}")


def _attacks(metrics: Mapping[str, Any]) -> list[Row]:
    return [
        (
            f"attack: {clean(attack.get('name', '?'))}",
            clean("; ".join(leak.line() for leak in leaks(attack) if "_by_" not in leak.metric) or "no figures"),
            "",
        )
        for attack in metrics.get("attacks") or ()
    ] or [("attack", "none was run; nothing was measured about what leaks", "")]


def _rejected(metrics: Mapping[str, Any]) -> tuple[str, str]:
    rejected = [clean(row.get("device", "?")) for row in metrics.get("rejected") or ()]
    hostile = {clean(device) for device in metrics.get("hostile") or ()}
    counts = {device: rejected.count(device) for device in sorted(set(rejected))}
    shown = [
        f"{device}{' (hostile)' if device in hostile else ''} x {count}" for device, count in list(counts.items())[:5]
    ]
    text = ", ".join(shown) or "none"
    if len(counts) > len(shown):
        text += f", and {len(counts) - len(shown):,} more devices"
    missed = [clean(device) for device in uncaught(metrics)]
    return (text + f"; hostile and never rejected: {', '.join(missed)}", "bad") if missed else (text, "")


def _ledger(ledger: Mapping[str, Any] | None) -> list[Row]:
    """Returns how far the chain came, who is named on it, and whom it trusts least."""
    if not ledger:
        return []
    miners, customers = ledger.get("miners") or [], ledger.get("customers") or []
    agreed = f"{len(miners):,} miners agreed on {ledger.get('height', 0):,} blocks"
    found = [("ledger", f"{agreed}, {percent(ledger.get('share_of_rounds'))} of the rounds' time", "")]
    named = [f"{clean(row.get('name', '?'))} ({clean(row['named'][0])})" for row in miners if row.get("named")]
    missed = [clean(miner) for miner in unnamed(ledger)]
    text = ", ".join(named) or "none"
    if missed:
        text += f"; lied and never named: {', '.join(missed)}"
    found.append(("miners named as liars", text, "bad" if missed else ""))
    low = [clean(row.get("device", "?")) for row in customers if row.get("reputation") == 0]
    found.append(("devices without reputation", ", ".join(low[:5]) + (", ..." if low[5:] else "") or "none", ""))
    return found


def _rounds(metrics: Mapping[str, Any]) -> list[Row]:
    rounds, found = metrics.get("rounds") or (), []
    if void := sum(bool(row.get("void")) for row in rounds):
        found.append(("void rounds", f"{void} of {len(rounds)}: too few sound replies, the model stayed", "bad"))
    if absent := missing(metrics):
        names = {str(row.get("device")) for row in absent}
        found.append(("replies that never came", f"{len(absent):,}, of {len(names):,} devices", "fair"))
    return found


def summary(metrics: Mapping[str, Any]) -> RenderableType:
    """Returns the table that ends a run, for a rich console."""
    table = Table(title=Text(clean(metrics.get("name") or "run")), show_header=False, title_justify="left")
    table.add_column(no_wrap=False, max_width=40)
    table.add_column(overflow="fold")
    for label, text, tone in rows(metrics):
        table.add_row(Text(label), Text(text, style=_STYLES[tone]))
    return table


def plain_summary(metrics: Mapping[str, Any]) -> str:
    """Returns the same lines as plain text, ``label: text`` each."""
    return "\n".join(f"{label}: {text}" for label, text, _ in rows(metrics))
