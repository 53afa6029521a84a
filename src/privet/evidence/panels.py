"""What the report shows of a run's figures: one sentence, the main figures, and the charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from privet.evidence.charts import Bar, Line, bar_chart, line_chart
from privet.evidence.reading import Metrics, devices, missing, spread, total
from privet.evidence.wording import clean, duration, energy, finite, number, percent, size

MANY = 20
"""More rows than this are folded away behind their minimum, median and maximum."""
_WIDTHS = {"wide": 680, "narrow": 350}


def sentence(metrics: Metrics) -> str:
    """Returns in one sentence what was done, saying only what the run folder says."""
    plan = metrics.get("plan") or {}
    fleet, hostile, rounds = len(devices(metrics)), len(metrics.get("hostile") or ()), len(metrics.get("rounds") or ())
    who = f"{fleet:,} device{'s' * (fleet != 1)}" if fleet else "A fleet of devices"
    if hostile:
        who += f" ({hostile:,} of them hostile on purpose)"
    model, data, training, aggregation = (_part(plan, key) for key in ("model", "data", "training", "aggregation"))
    text = f"{who} trained {'the model ' + model if model else 'one model'}"
    if (size_ := finite(metrics.get("parameters"))) is not None:
        text += f" of {number(size_)} parameters"
    text += f" on {data}" if data else ""
    text += f" in {rounds:,} round{'s' * (rounds != 1)}" if rounds else ""
    text += f" by {training} training" if training else ""
    return text + (f"; {aggregation} combined their updates." if aggregation else ".")


def _part(plan: Mapping[str, Any], key: str) -> str:
    section = plan.get(key)
    if not isinstance(section, dict):
        return ""
    return clean(section.get("name") or section.get("protocol") or "")


def tiles(metrics: Metrics) -> list[tuple[str, str, str]]:
    """Returns the main figures as (label, figure, note), leaving out what was not measured."""
    joules = spread(finite(row.get("joules")) for row in devices(metrics))
    rejected = metrics.get("rejected") or []
    own, target = metrics.get("accuracy_personal") or {}, metrics.get("to_target") or {}
    found = [
        ("Accuracy of the shared model", metrics.get("accuracy"), percent, "on test records"),
        ("Accuracy with noise", metrics.get("accuracy_with_noise"), percent, "noise also at test time"),
        ("Each device's own accuracy", own.get("mean"), percent, f"mean; the worst has {percent(own.get('worst'))}"),
        ("Each device alone", metrics.get("accuracy_alone_mean"), percent, "mean, without the fleet"),
        ("All data in one place", metrics.get("accuracy_centralised"), percent, "no device would allow it"),
        ("Backdoor success", metrics.get("backdoor_success"), percent, _unharmed(metrics)),
        ("Sent and received", metrics.get("bytes_per_device"), size, "per device, whole run"),
        ("Between machines", _wire(metrics), size, "both ways, all devices, as measured"),
        ("Time to the target", target.get("seconds"), duration, f"{percent(target.get('accuracy'))}, modelled"),
        ("Energy", joules[1] if joules else None, energy, "per device, modelled, median"),
        ("Wall time", metrics.get("seconds"), duration, "of this run"),
    ]
    shown = [(label, write(value), note) for label, value, write, note in found if value is not None]
    shown.insert(min(4, len(shown)), ("Weakest guarantee", *_weakest(metrics)))
    if rejected:
        shown.append(("Updates rejected", f"{len(rejected):,}", f"of {_distinct(rejected)}"))
    return shown


def _wire(metrics: Metrics) -> float | None:
    wire = metrics.get("wire")
    return wire["sent"] + wire["received"] if wire else None


def _unharmed(metrics: Metrics) -> str:
    floor = finite(metrics.get("backdoor_floor"))
    known = "" if floor is None else f"; {percent(floor)} in a model nobody attacked"
    return f"triggered test records taken for the adversary's class{known}"


def _distinct(rejected: list[dict[str, Any]]) -> str:
    count = len({str(row.get("device")) for row in rejected})
    return f"{count:,} device{'s' * (count != 1)}"


def _weakest(metrics: Metrics) -> tuple[str, str]:
    guarantees = metrics.get("guarantees") or []
    if not guarantees:
        return "none", "no guarantee was derived"
    worst = max(guarantees, key=lambda row: _order(finite(row.get("epsilon"))))
    known = finite(worst.get("epsilon"))
    figure = "none" if known is None else f"epsilon {number(known)}"
    return figure, f"{clean(worst.get('claim', ''))}, per {clean(worst.get('unit', '?'))}"


def _order(epsilon: float | None) -> float:
    return float("inf") if epsilon is None else epsilon


def gain(metrics: Metrics) -> float | None:
    """Returns how much better the shared model is than a device alone, or None when that is unknown."""
    shared, alone = finite(metrics.get("accuracy")), finite(metrics.get("accuracy_alone_mean"))
    return None if shared is None or alone is None else shared - alone


def absences(metrics: Metrics) -> list[tuple[str, int, str]]:
    """Returns (why, how often, which devices, the most frequent first) of replies that never came."""
    by_reason: dict[str, Counter[str]] = {}
    for row in missing(metrics):
        by_reason.setdefault(str(row.get("reason")), Counter())[str(row.get("device"))] += 1
    found = []
    for why, counts in sorted(by_reason.items()):
        told = ", ".join(f"{device} x {count}" for device, count in counts.most_common(MANY))
        more = len(counts) - MANY
        found.append((why, counts.total(), told + (f", and {more:,} more devices" if more > 0 else "")))
    return found


def accuracy_charts(metrics: Metrics) -> list[tuple[str, Markup]]:
    """Returns the accuracy of each round against the baselines, once for wide and once for narrow screens."""
    rounds = [row for row in metrics.get("rounds") or () if finite(row.get("round")) is not None]
    if not rounds:
        return []
    at = [float(row["round"]) for row in rounds]
    lines = [
        Line("shared model", [(x, row.get("accuracy")) for x, row in zip(at, rounds, strict=True)]),
        Line(
            "shared model, with noise", [(x, row.get("accuracy_with_noise")) for x, row in zip(at, rounds, strict=True)]
        ),
    ]
    baselines = {"each device alone (mean)": "accuracy_alone_mean", "all data in one place": "accuracy_centralised"}
    for name, key in baselines.items():
        lines.append(Line(name, [(x, metrics.get(key)) for x in (min(at), max(at))], baseline=True))
    told = ", ".join(f"round {number(x)}: {percent(row.get('accuracy'))}" for x, row in zip(at, rounds, strict=True))
    charts = {
        kind: line_chart(
            lines,
            title="Test accuracy after each round",
            description=f"Accuracy of the shared model: {told if len(rounds) <= MANY else 'see the table'}.",
            x_label="round",
            y_label="test accuracy",
            tick=lambda level: f"{100 * level:.4g} %",
            width=width,
        )
        for kind, width in _WIDTHS.items()
    }
    return [(kind, chart) for kind, chart in charts.items() if chart]


_COSTS = {
    "Bytes per device": (("sent", "received"), ("sent", "received"), size),
    "Time per device, modelled": (
        ("compute_seconds_modelled", "transfer_seconds_modelled"),
        ("computing", "transferring"),
        duration,
    ),
    "Energy per device, modelled": (("joules",), (), energy),
}
"""By chart: the keys that are stacked, what the legend calls them, how a total is written."""


def cost_charts(metrics: Metrics) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """Returns, by kind of cost, bars of every device, or of minimum, median and maximum for a large fleet."""
    rows = devices(metrics)
    charts = []
    for title, (keys, names, write) in _COSTS.items():
        known = [row for row in rows if total(row, *keys) is not None]
        if not known:
            continue
        if len(rows) > MANY:
            at = sorted(known, key=lambda row: total(row, *keys) or 0.0)
            picks = {"least": at[0], "middle": at[len(at) // 2], "most": at[-1]}
            known = [row | {"party": f"{pick}: {row.get('party')}"} for pick, row in picks.items()]
        bars = [
            Bar(clean(row.get("party", "?")), [finite(row.get(key)) for key in keys], write(total(row, *keys)))
            for row in known
        ]
        told = ", ".join(f"{bar.name} {bar.text}" for bar in bars)
        drawn = [
            (kind, bar_chart(bars, title=title, description=told, parts=names, width=width))
            for kind, width in _WIDTHS.items()
        ]
        charts.append((title, drawn))
    return charts


def cost_spread(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Returns (what, minimum, median, maximum) of each cost over the devices."""
    writers = {
        "sent": ("Sent", size),
        "received": ("Received", size),
        "compute_seconds_modelled": ("Computing, modelled", duration),
        "transfer_seconds_modelled": ("Transferring, modelled", duration),
        "joules": ("Energy, modelled", energy),
        "seconds_measured": ("Computing, measured here", duration),
    }
    found = {key: spread(finite(row.get(key)) for row in rows) for key in writers}
    table = []
    for key, three in found.items():
        if three:
            label, write = writers[key]
            table.append((label, write(three[0]), write(three[1]), write(three[2])))
    return table
