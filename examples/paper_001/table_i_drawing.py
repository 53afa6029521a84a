"""Table I beside ours: a verdict a row, and the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from paper_001_drawing import DOCUMENT, LOOK

from privet.inference.distributed.table_i import TABLE, Row

NAME = "paper_001_table_i"
CLOSE = 0.05
ABOUT = {
    "document": f"{DOCUMENT}, Table I",
    "title": "Similarity of recovered images by the number of maps that a helper holds",
    "command": "python examples/paper_001/table_i.py",
    "attack": "black box: an inverse network learned from public pairs, which names the class too (partial-maps)",
    "ssim": "Gaussian window of 11, sigma 1.5; mean over the attacked images, its 95 % interval, and 95th percentile",
    "maps": "m maps are those that vary most over public images; weakest is the one that varies least",
    "networks": "LeNet and the CIFAR network are trained, accuracy below; VGG19 has random weights",
    "floors": "guesses that use nothing received: a black image, the mean image, the mean of the true class",
    "verdict rule": f"reproduced: every published point measured is within {CLOSE}; none for other images and weights",
}
Rows = Mapping[str, Mapping[str, Any]]


def number(value: float) -> str:
    """Returns a similarity as the document prints it."""
    return f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}"


def points(row: Row, rows: Rows) -> dict[int, Mapping[str, Any]]:
    """Returns what was measured for a row of the table, by number of maps."""
    measured = {count: rows.get(f"{row.layer}: {count} of {row.maps}") for count in range(1, row.maps + 1)}
    return {count: found for count, found in measured.items() if found is not None}


def verdict(row: Row, rows: Rows) -> str:
    """Returns one sentence about a row."""
    found = points(row, rows)
    if not found:
        return f"{row.layer}: not measured."
    printed = {row.maps >> step: value for step, value in enumerate(row.similarity)}
    gaps = {count: found[count]["metrics"]["ssim"] - printed[count] for count in found if count in printed}
    fewest = min(found)
    ours = number(found[fewest]["metrics"]["ssim"])
    said = f"{fewest} of {row.maps} maps gives {ours}, where the document prints {number(printed[min(printed)])} for"
    said += f" {min(printed)}"
    if row.maps in found and row.maps != fewest:
        said += (
            f"; all {row.maps} give {number(found[row.maps]['metrics']['ssim'])}, printed {number(printed[row.maps])}"
        )
    if found[fewest]["network"] == "vgg19":
        return f"{row.layer}: other images and weights; on {found[fewest]['images']} with random weights {said}."
    if gaps and all(abs(gap) <= CLOSE for gap in gaps.values()):
        return f"{row.layer}: reproduced; {said}."
    more = found[fewest]["metrics"]["ssim"] > printed[min(printed)] + CLOSE
    return f"{row.layer}: not reproduced, {'few maps leak more' if more else 'our attack gets less'}; {said}."


def order(name: str, row: Mapping[str, Any]) -> tuple[int, int]:
    """Returns where a row stands: by the rows of Table I and falling numbers of maps, then all others."""
    layers = [each.layer for network in ("lenet", "cifar", "vgg19") for each in TABLE[network]]
    return (layers.index(row["layer"]), -2 * row["held"] + name.endswith("weakest")) if row["layer"] else (99, 0)


def lines(rows: Rows) -> list[str]:
    """Returns the measured rows as lines of a table in Markdown, those of Table I first."""
    written = []
    for name, row in sorted(rows.items(), key=lambda item: order(*item)):
        metrics, floor = row["metrics"], row["floor"]
        blind = max(value for key, value in floor.items() if key.startswith("ssim") and "95" not in key)
        cells = [number(metrics["ssim"]), number(metrics["ssim_95th"]), f"{metrics['psnr']:.1f}"]
        cells.append(f"{100 * metrics['label_accuracy']:.0f} %" if "label_accuracy" in metrics else "-")
        cells += [f"{100 * metrics['reidentified']:.0f} %", number(blind)]
        printed = "-" if row["published"] is None else number(row["published"])
        name += f" ({row['images']}, random weights)" if row["network"] == "vgg19" else ""
        written.append(f"| {name} | {printed} | {' | '.join(cells)} |")
    return written


def draw(table: dict[str, Any], folder: Path) -> list[str]:
    """Writes the JSON with its verdicts, and the picture; returns the verdicts."""
    shown = [row for network in ("lenet", "cifar", "vgg19") for row in TABLE[network]]
    verdicts = [verdict(row, table["rows"]) for row in shown]
    told = ABOUT | {"accuracy": table["accuracy"], "verdicts": verdicts, "rows": table["rows"]}
    (folder / f"{NAME}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with pyplot.rc_context(LOOK | {"font.size": 9}):
        sheet, grid = pyplot.subplots(3, 3, figsize=(9.6, 7.6), layout="constrained", sharey=True)
        for axes, row, said in zip(grid.flat, shown, verdicts, strict=True):
            panel(axes, row, points(row, table["rows"]), said.split(": ")[1].split(";")[0].split(",")[0].rstrip("."))
        for axes in grid[:, 0]:
            axes.set_ylabel("SSIM")
        for axes in grid[-1]:
            axes.set_xlabel("maps held")
        grid.flat[0].legend(frameon=False, fontsize=8, loc="center left")
        sheet.savefig(folder / f"{NAME}.svg", metadata={"Date": None})
        pyplot.close(sheet)
    return verdicts


def panel(axes: Any, row: Row, found: Mapping[int, Mapping[str, Any]], said: str) -> None:
    """Draws one row of the table."""
    counts = [row.maps >> step for step in range(len(row.similarity))]
    axes.plot(counts, row.similarity, color="#999999", marker="s", label="document")
    if found:
        ours = sorted(found)
        mean = [found[m]["metrics"]["ssim"] for m in ours]
        axes.plot(ours, mean, color="#D55E00", marker="o", label="ours, mean")
        top = [found[m]["metrics"]["ssim_95th"] for m in ours]
        axes.plot(ours, top, color="#D55E00", linestyle=":", label="ours, 95th percentile")
        blind = [value for key, value in found[ours[0]]["floor"].items() if key.startswith("ssim") and "95" not in key]
        axes.axhline(max(blind), color="#0072B2", linestyle="--", label="best blind guess")
    axes.set_xscale("log", base=2)
    ticks = sorted({*counts, 1})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.03)
    axes.set_title(f"{row.layer}: {said}", fontsize=9)
    axes.grid(alpha=0.3)
