"""Draws the comparison of optimisers and personalisations: a picture, and the page with the tables."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

from privet.evidence.wording import duration, energy, size

matplotlib.use("svg")
from matplotlib import pyplot

COLUMNS = (
    "training",
    "accuracy",
    "own, mean",
    "own, worst device",
    "bytes a device",
    "round",
    "time",
    "bytes a device",
    "energy a device",
)
HEAD = "| " + " | ".join(COLUMNS) + " |"
TITLES = {
    "images": "Handwritten digits, 20 devices that hold about two digits each",
    "appliances": "Currents of appliances, 10 devices with their own mix of appliances",
}
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
"""Between these lines of the page the tables stand."""


def table(task: str, data: dict[str, Any]) -> str:
    """Returns one task's table in Markdown."""
    target, rounds = data["tasks"][task]["target"], data["tasks"][task]["rounds"]
    lines = [
        f"### {TITLES[task]}",
        "",
        f"{rounds} rounds; the last four columns are what it took to reach {target:.0%}.",
        "",
        HEAD,
        "|---" + "|---:" * 8 + "|",
    ]
    for name, row in data["rows"].items():
        if name.startswith(f"{task}: "):
            lines.append(line(name.removeprefix(f"{task}: "), list(row["seeds"].values())))
    return "\n".join([*lines, ""])


def line(method: str, seeds: list[dict[str, Any]]) -> str:
    """Returns one method's row."""

    def over(key: str) -> float:
        return mean(figures[key] for figures in seeds)

    reached = [figures["to_target"] for figures in seeds]
    costs = ["-"] * 4
    if all(one["round"] is not None for one in reached):
        until = {key: mean(one[key] for one in reached) for key in reached[0]}
        costs = [
            f"{until['round']:.0f}",
            duration(until["seconds"]),
            size(until["bytes_per_device"]),
            energy(until["joules_per_device"]),
        ]
    accuracy = "" if method in ("each device alone", "FedPer") else f"{over('accuracy'):.1%}"
    sent = size(over("bytes_per_device"))
    if method == "each device alone":  # measured as Ditto without its pull, whose global model it doesn't use
        sent, costs = "none", [costs[0], "-", "none", "-"]
    cells = [method, accuracy, f"{over('own_mean'):.1%}", f"{over('own_worst'):.1%}", sent]
    return "| " + " | ".join(cells + costs) + " |"


def picture(data: dict[str, Any], path: Path) -> None:
    """Draws each training's own accuracy, mean and worst device, on both tasks."""
    figure, axes = pyplot.subplots(1, len(TITLES), figsize=(10, 4.8), layout="constrained", sharey=True)
    for axis, (task, title) in zip(axes, TITLES.items(), strict=True):
        rows = {name.removeprefix(f"{task}: "): row for name, row in data["rows"].items() if name.startswith(task)}
        names = list(rows)[::-1]
        for key, colour, marker, label in (
            ("own_mean", "#1f5fa8", "o", "mean of the devices"),
            ("own_worst", "#b3472f", "x", "worst device"),
        ):
            at = [mean(one[key] for one in rows[name]["seeds"].values()) for name in names]
            axis.scatter(at, names, color=colour, marker=marker, label=label, zorder=3)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1)
        axis.set_xlabel("accuracy on rows like the device's own")
        axis.grid(axis="x", alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower left")
    matplotlib.rcParams["svg.hashsalt"] = "optimisers"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def draw(data: dict[str, Any], svg: Path, page: Path) -> None:
    """Writes the picture, and the tables into the page.

    Args:
        data: what ``optimisers.json`` holds.
        svg: where the picture goes.
        page: whose tables are replaced.
    """
    picture(data, svg)
    tables = "\n".join(table(task, data) for task in TITLES)
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
