"""Draws figures 3 to 8 of the smart-home document from measured points: JSON, SVG and the page that shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from paper_002_claims import CLEAR_MARGIN, FIGURES, MARGIN, Claim, Figure, Line, Points, full_schedule

matplotlib.use("svg")
from matplotlib import pyplot

DOCUMENT = 'Y. Zhao and others, "Privacy-Preserving Blockchain-Based Federated Learning for IoT Devices", section VI.B'
SCHEDULE = {
    "devices": 4,
    "images per device": 6000,
    "local epochs": "2; in figure 8 1, 2 and 4",
    "seeds": 1,
    "accuracy": "10,000 test images, no noise at the test",
}
DIFFERENCES = [
    "4 devices in place of 10",
    "2 local epochs in place of 40; figure 8 has 1, 2 and 4 where the document goes up to 40",
    "momentum 0.9, which the document doesn't name",
    "hidden widths 32, 28, 24 and 16, which the document leaves open",
    "local training in bfloat16",
    "one seed",
]
VERDICT_RULE = "reproduced: all claims hold; in part: some; not reproduced: none"
# Okabe and Ito's colours, each with a marker of its own: readable without colour, too.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))
LOOK = {"svg.hashsalt": "privet", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}


def draw_all(points: Points, folder: Path, command: str, guarantees: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Writes ``paper_002_figure_3.json`` and ``.svg`` to ``_8``, ``paper_002_full`` likewise, and ``paper_002.md``.

    Args:
        points: measured runs by name.
        folder: where to write.
        command: what made the points.
        guarantees: what epsilon means for a record; goes with figure 3.
    """
    figures = [make(points) for make in FIGURES]
    measured_with = sorted({point["measured_with"] for point in points.values()})
    for figure in figures:
        table = table_of(figure, command, measured_with)
        if figure.number == 3:
            table["guarantees"] = list(guarantees)
        _write(folder / f"paper_002_figure_{figure.number}.json", table)
        picture(figure, folder / f"paper_002_figure_{figure.number}.svg")
    lines, claims = full_schedule(points)
    _write(folder / "paper_002_full.json", full_table(lines, claims, command))
    full_picture(lines, folder / "paper_002_full.svg")
    (folder / "paper_002.md").write_text(page(figures, lines, claims, guarantees, measured_with), encoding="utf-8")
    return figures


def show_verdicts(path: Path, figures: Sequence[Figure]) -> None:
    """Puts the verdicts into the last column of a page's rows ``| number | shows | verdict |``."""
    text = path.read_text(encoding="utf-8")
    for figure in figures:
        text = re.sub(
            rf"^(\| {figure.number} \| [^|\n]+ \|) [^|\n]+ \|$", rf"\1 {figure.verdict} |", text, flags=re.MULTILINE
        )
    path.write_text(text, encoding="utf-8")


def table_of(figure: Figure, command: str, measured_with: Sequence[str]) -> dict[str, Any]:
    """Returns everything about a figure as a table for JSON."""
    return {
        "document": f"{DOCUMENT}, figure {figure.number}",
        "title": figure.title,
        "command": f"{command} points draw",
        "points": "paper_002_points.json",
        "measured with": measured_with,
        "schedule": SCHEDULE,
        "differences from the document": DIFFERENCES,
        "x": {"meaning": figure.x_label, "values": list(figure.x)},
        "lines": [_plain(line) for line in figure.lines],
        "levels": [_plain(line) for line in figure.levels],
        "claims": [_claim(claim) for claim in figure.claims],
        "verdict": figure.verdict,
        "verdict rule": VERDICT_RULE,
    }


def full_table(lines: Sequence[Line], claims: Sequence[Claim], command: str) -> dict[str, Any]:
    """Returns the result at the document's own schedule as a table for JSON."""
    return {
        "document": DOCUMENT,
        "command": f"{command} full draw",
        "points": "paper_002_points.json",
        "schedule": "10 devices, 6,000 images each, 40 local and 2 global epochs, batches of 64, epsilon 2, one seed",
        "differences from the document": DIFFERENCES[2:],
        "global epochs": [1, 2],
        "lines": [_plain(line) for line in lines],
        "claims": [_claim(claim) for claim in claims],
    }


def picture(figure: Figure, path: Path) -> None:
    """Draws a figure."""
    with pyplot.rc_context(LOOK):
        sheet, axes = pyplot.subplots(figsize=(7.6, 3.9), layout="constrained")
        for (colour, marker), line in zip(STYLES, figure.lines, strict=False):
            axes.plot(figure.x, _percent(line.y), color=colour, marker=marker, label=line.label)
        for (colour, _), level in zip(STYLES, figure.levels, strict=False):
            if level.y[0] is not None:
                axes.axhline(100 * level.y[0], color=colour, linestyle="--", linewidth=1.2, label=level.label)
        axes.set_xscale("log")
        axes.set_xticks(figure.x, [str(x) for x in figure.x])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        _finish(axes, figure.x_label, f"{figure.title}: {figure.verdict}")
        sheet.savefig(path, metadata={"Date": None})
        pyplot.close(sheet)


def full_picture(lines: Sequence[Line], path: Path) -> None:
    """Draws both normalisations at the document's schedule."""
    with pyplot.rc_context(LOOK):
        sheet, axes = pyplot.subplots(figsize=(7.6, 3.9), layout="constrained")
        for (colour, marker), line in zip(STYLES, lines, strict=False):
            axes.plot([1, 2], _percent(line.y), color=colour, marker=marker, label=line.label)
        axes.set_xticks([1, 2])
        axes.set_ylim(0, 100)
        _finish(axes, "global epoch of 40 local ones", "The document's schedule at epsilon 2")
        sheet.savefig(path, metadata={"Date": None})
        pyplot.close(sheet)


def page(
    figures: Sequence[Figure],
    lines: Sequence[Line],
    claims: Sequence[Claim],
    guarantees: Sequence[Mapping[str, Any]],
    measured_with: Sequence[str],
) -> str:
    """Returns the page that shows all figures, as Markdown."""
    parts = [
        "# Figures of the smart-home document, measured again",
        "<!-- Written by examples/paper_002/figures.py draw; change that, not this. -->",
        f"The document is {DOCUMENT}.\n`make figures` measures all of this again. The measured points are in "
        "[paper_002_points.json](paper_002_points.json), and\na JSON file of the same name stands beside each picture. "
        f"Measured with {'; '.join(measured_with)}.",
        f"Two accuracies differ when they are more than {100 * MARGIN:g} point apart. "
        "A figure is *reproduced* when all claims hold,\n"
        "*in part* when some do, *not reproduced* when none does. The rules are in "
        "`examples/paper_002/paper_002_claims.py`.",
        "\n".join(["| figure | shows | verdict | claims that hold |", "|---|---|---|---|", *map(_row, figures)]),
        "## The document's own schedule",
        "10 devices, 6,000 images each, 40 local and 2 global epochs, batches of 64, learning rate 0.01, epsilon 2. "
        f"A clear margin\nis more than {100 * CLEAR_MARGIN:g} points.",
        "\n".join(
            [
                "| normalisation | after 1 global epoch | after 2 | after 2, noise at the test, too |",
                "|---|---|---|---|",
                *(
                    f"| {line.label} | {_show(line.y[0])} | {_show(line.y[1])} | {_show(line.y_with_noise[1])} |"
                    for line in lines
                ),
            ]
        ),
        _claims(claims),
        "![Accuracy of both normalisations at the document's schedule](paper_002_full.svg)",
        "## What this epsilon means for a record",
        "The epsilon on every axis here is the document's: one value of one record, one release. Derived for a whole "
        "record, by\n`dp_accounting` at delta "
        f"{guarantees[0]['delta']:f}".rstrip("0")
        + f", over the document's {guarantees[0]['releases']} releases:",
        "\n".join(
            [
                "| one value | its own features, one release | all releases | with the rows that it moves |",
                "|---|---|---|---|",
                *map(_guarantee, guarantees),
            ]
        ),
        "Labels and the front's uploaded weights have no formal guarantee at all.",
        "## The figures",
        "They use a smaller schedule: " + "; ".join(DIFFERENCES) + ".",
    ]
    for figure in figures:
        name = f"paper_002_figure_{figure.number}"
        parts += [
            f"### Figure {figure.number}: {figure.verdict}",
            f"![{figure.title}]({name}.svg)",
            _claims(figure.claims) + f"\n\nNumbers: [{name}.json]({name}.json).",
        ]
    return "\n\n".join(parts) + "\n"


def _guarantee(row: Mapping[str, Any]) -> str:
    names = ("record, own row only, one release", "record, own row only", "record, whole batch")
    cells = (f"{row[name]:,.0f}" if row[name] >= 100 else f"{row[name]:.2g}" for name in names)
    return f"| {row['one value']:.2g} | {' | '.join(cells)} |"


def _row(figure: Figure) -> str:
    held = sum(claim.holds is True for claim in figure.claims)
    shows = figure.title[0].lower() + figure.title[1:]
    return f"| {figure.number} | {shows} | {figure.verdict} | {held} of {len(figure.claims)} |"


def _claims(claims: Sequence[Claim]) -> str:
    words = {True: "holds", False: "does not hold", None: "not measured"}
    rows = [f"| {claim.text} | {claim.rule} | {words[claim.holds]} |" for claim in claims]
    return "\n".join(["| the document says | it holds when | here |", "|---|---|---|", *rows])


def _show(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _finish(axes: Any, x_label: str, title: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title, fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_lines():
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _percent(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else 100 * value for value in values]


def _plain(line: Line) -> dict[str, Any]:
    return {"label": line.label, "accuracy": line.y, "accuracy with noise at the test": line.y_with_noise}


def _claim(claim: Claim) -> dict[str, Any]:
    return {"claim": claim.text, "rule": claim.rule, "holds": claim.holds}


def _write(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
