"""Every aggregation rule against every attack: docs/figures/robustness.json and .svg.

    python examples/robustness.py          the matrix (about ten minutes of one core), then the picture
    python examples/robustness.py next     only the next partition and seed that is missing
    python examples/robustness.py draw     the picture, and the tables of the page, from what is there

What is there already is not measured again. `privet bench robustness` prints the same rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib
import torch

from privet.study import robustness

DOCS = Path(__file__).parent.parent / "docs"
DATA, PAGE = DOCS / "figures" / "robustness.json", DOCS / "explanation" / "robust-aggregation.md"
BEGIN, END = "<!-- tables by examples/robustness.py -->", "<!-- end of tables -->"
TITLES = {"iid": "rows alike on every device", "by-label": "labels shared out by a Dirichlet draw of 0.5"}
SEEDS = (1, 2, 3)
MOST_LOST, MOST_OPEN = 0.10, 0.05
"""What a cell may lose against the honest run, and how often a trigger may work, before it is named as open."""


def rows() -> list[dict[str, Any]]:
    """Returns what was measured so far."""
    return json.loads(DATA.read_text())["rows"] if DATA.is_file() else []


def measure(at_most: int) -> None:
    """Measures so many of the partitions and seeds that are not there yet."""
    torch.set_num_threads(1)
    there = rows()
    done = {(row["partition"], row["seed"]) for row in there}
    missing = [(part, seed) for seed in SEEDS for part in robustness.PARTITIONS if (part, seed) not in done]
    for partition, seed in missing[:at_most]:
        rules, attacks = list(robustness.AGGREGATORS), list(robustness.ATTACKS)
        there += list(robustness.matrix(rules, attacks, [partition], [seed]))
        write(there)
        print(partition, seed, flush=True)


def write(there: list[dict[str, Any]]) -> None:
    """Writes the rows, the means over seeds, and which cells are open."""
    standing = robustness.standing(there)
    found = {
        "command": "python examples/robustness.py, or privet bench robustness --json",
        "devices": robustness.DEVICES,
        "hostile": robustness.HOSTILE,
        "rounds": robustness.ROUNDS,
        "rule": f"open: loses more than {MOST_LOST} of accuracy against the honest run of the same rule, or "
        f"the trigger works on more than {MOST_OPEN} of the rows of other classes, and on more than twice what it "
        "does on that honest model; means over the seeds",
        "open": open_cells(there),
        "standing": [
            {key: round(value, 4) if isinstance(value, float) else value for key, value in one.items()}
            for one in standing
        ],
        "rows": there,
    }
    DATA.write_text(json.dumps(found, indent=1) + "\n")


def open_cells(there: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns, by rule, the cells in which it does not stand."""
    found: dict[str, list[str]] = {}
    for rule, attack, partition in dict.fromkeys((r["aggregator"], r["attack"], r["partition"]) for r in there):
        _, lost, door, floor = cell(there, rule, attack, partition)
        found.setdefault(rule, [])
        if lost > MOST_LOST:
            found[rule].append(f"{attack}, {partition}: loses {100 * lost:.1f} points")
        if opened(door, floor):
            found[rule].append(f"{attack}, {partition}: the trigger works on {100 * (door or 0):.1f} %")
    return found


def opened(door: float | None, floor: float) -> bool:
    """Tells whether a trigger works: too often, and more often than on a model that nobody attacked."""
    return door is not None and door > MOST_OPEN and door > 2 * floor


def cell(
    there: list[dict[str, Any]], rule: str, attack: str, partition: str
) -> tuple[float, float, float | None, float]:
    """Returns a cell's accuracy, what it lost, its backdoor success and that of the unharmed model."""
    key = (rule, attack, partition)
    seeds = [row for row in there if (row["aggregator"], row["attack"], row["partition"]) == key]
    reached = mean(row["accuracy"] for row in seeds)
    lost = mean(row["honest_accuracy"] for row in seeds) - reached
    if seeds[0]["backdoor_success"] is None:
        return reached, lost, None, 0.0
    floor = mean(row["backdoor_floor"] for row in seeds)
    return reached, lost, mean(row["backdoor_success"] for row in seeds), floor


def draw() -> None:
    """Writes the picture: one table of cells a partition, darker the more is lost."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    there = rows()
    write(there)
    rules, attacks = list(robustness.AGGREGATORS), list(robustness.ATTACKS)
    pyplot.rcParams.update({"svg.hashsalt": "privet", "font.size": 9})
    parts = [name for name in robustness.PARTITIONS if any(row["partition"] == name for row in there)]
    figure, tables = pyplot.subplots(len(parts), 1, figsize=(11, 5.2 * len(parts)), layout="constrained", squeeze=False)
    for axes, partition in zip(tables[:, 0], parts, strict=True):
        cells = [[cell(there, rule, attack, partition) for attack in attacks] for rule in rules]
        harm = [[max(lost, door - floor if door is not None else 0.0) for _, lost, door, floor in row] for row in cells]
        axes.imshow(harm, cmap="Greys", vmin=0, vmax=0.6, aspect="auto")
        for y, row in enumerate(cells):
            for x, (reached, lost, door, floor) in enumerate(row):
                bad = lost > MOST_LOST or opened(door, floor)
                text = f"{100 * reached:.0f}" + ("" if door is None else f" | {100 * door:.0f}")
                ink = "white" if harm[y][x] > 0.3 else "black"
                axes.text(x, y, text, ha="center", va="center", color=ink, weight="bold" if bad else "normal")
        axes.set_xticks(range(len(attacks)), attacks, rotation=30, ha="right")
        axes.set_yticks(range(len(rules)), rules)
        axes.tick_params(length=0)
        seeds = len({row["seed"] for row in there if row["partition"] == partition})
        axes.set_title(
            f"4 of 20 hostile, {TITLES[partition]}, mean of {seeds} seed(s): accuracy %, after the bar backdoor "
            "success %;\ndark: harmed; bold: loses more than 10 points, or the trigger works on more than 5 %",
            fontsize=9,
        )
    figure.savefig(DATA.with_suffix(".svg"), metadata={"Date": None})
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tables_of(there)}{END}{rest.partition(END)[2]}", encoding="utf-8")


def tables_of(there: list[dict[str, Any]]) -> str:
    """Returns the tables of the page, one a partition; open cells are bold."""
    lines: list[str] = []
    for partition in robustness.PARTITIONS:
        seeds = len({row["seed"] for row in there if row["partition"] == partition})
        if not seeds:
            continue
        lines += ["", f"{TITLES[partition][0].upper()}{TITLES[partition][1:]}, mean of {seeds} seed(s):", ""]
        lines += ["| rule | " + " | ".join(robustness.ATTACKS) + " |", "|---" * (1 + len(robustness.ATTACKS)) + "|"]
        for rule in robustness.AGGREGATORS:
            found = []
            for attack in robustness.ATTACKS:
                reached, lost, door, floor = cell(there, rule, attack, partition)
                text = f"{100 * reached:.0f}" + ("" if door is None else f" / {100 * door:.0f}")
                found.append(f"**{text}**" if lost > MOST_LOST or opened(door, floor) else text)
            lines.append(f"| {rule} | " + " | ".join(found) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["next"], ["draw"]):
        sys.exit("give nothing, next or draw")
    if sys.argv[1:] != ["draw"]:
        measure(1 if sys.argv[1:] else 1000)
    if sys.argv[1:] != ["next"]:
        draw()
