"""What epsilon 2 means: docs/figures/what_epsilon_2_means.{json,svg}.

    python examples/refutation/figure.py     some seconds; matplotlib and, for the last line, the figures of
                                             examples/private in docs/figures/private_training.json

One picture: a record and its features as the document releases them, the document's claim, what it
composes to for a whole record, what a test of two records refutes, and a plan that holds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from check import DELTA, DOCUMENT, VALUES, document
from dp_accounting.dp_event import LaplaceDpEvent, SelfComposedDpEvent
from matplotlib.axes import Axes
from torch import Tensor

from privet import parts
from privet.accounting.accountants import epsilon
from privet.randomness import seeded

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
BATCH, SHOWN = 64, 5
RED, GREEN, GREY = "#b3261e", "#1b6e3c", "#555555"
COLOURS = {"claim": GREY, "refutation": RED, "composition": RED, "holds": GREEN}


def features() -> tuple[Tensor, Tensor, Tensor]:
    """Returns a digit (28, 28), and some of its feature maps before and after the document's noise."""
    data = parts.build("datasets", {"name": "mnist-10k"}).load()
    images = torch.from_numpy(data.train_inputs[:BATCH])
    model = parts.build("models", {"name": "smart-home-cnn", "normalisation": "batch"})
    torch.manual_seed(1)
    front, _ = model.cut(model.build(tuple(images.shape[1:]), 10), None)
    with torch.no_grad():
        flat = front(images).flatten(1)
    side = math.isqrt(flat.shape[1] // 80)
    clean = DOCUMENT.without_noise()(flat, seeded(1))
    noisy = DOCUMENT(flat, seeded(1))
    first = [value[0].view(80, side, side)[: SHOWN * SHOWN] for value in (clean, noisy)]
    return images[0].squeeze(), _mosaic(first[0]), _mosaic(first[1])


def _mosaic(maps: Tensor) -> Tensor:
    side = maps.shape[-1]
    return maps.view(SHOWN, SHOWN, side, side).permute(0, 2, 1, 3).reshape(SHOWN * side, SHOWN * side)


def holding() -> dict[str, Any] | None:
    """Returns the most accurate measured plan whose epsilon for a record is at most 2, if there is one yet."""
    path = FIGURES / "private_training.json"
    if not path.is_file():
        return None

    measured = [
        {"epsilon": row["guarantee"]["epsilon"], "accuracy": row["accuracy"]}
        for row in json.loads(path.read_text()).values()
        if row["guarantee"]["unit"] == "record"
    ]
    rows = [row for row in measured if row["epsilon"] <= 2]
    return max(rows, key=lambda row: row["accuracy"], default=None)


def figures() -> list[dict[str, Any]]:
    """Returns the lines of the picture: what is said, epsilon, its unit, and which kind of statement it is."""
    once = SelfComposedDpEvent(LaplaceDpEvent(0.5), VALUES)
    refutation = document(1, "record")
    rows = [
        {
            "kind": "claim",
            "epsilon": 2.0,
            "unit": "one of 3,920 values, one release",
            "text": "the document's claim",
        },
        {
            "kind": "refutation",
            "epsilon": refutation.lower_bound,
            "unit": "one record, one release, 95 % confidence",
            "text": f"at least, by {refutation.trials} + {refutation.trials} trials on two records",
        },
    ]
    for releases in (1, 80):
        cost, accountant = epsilon(once, DELTA, count=releases)
        rows.append(
            {
                "kind": "composition",
                "epsilon": cost,
                "unit": f"one record, {releases} release{'s' * (releases > 1)} ({accountant})",
                "text": "what the claim composes to",
            }
        )
    found = holding()
    if found:
        rows.append(
            {
                "kind": "holds",
                "epsilon": found["epsilon"],
                "unit": "one record, the whole training",
                "text": f"a plan that holds: {100 * found['accuracy']:.1f} % on MNIST",
                "source": {key: value for key, value in found.items() if isinstance(value, str | int | float)},
            }
        )
    return rows


def draw(rows: list[dict[str, Any]]) -> None:
    """Draws the picture."""
    mpl.rcParams.update({"svg.hashsalt": "privet", "font.size": 10})
    page = plt.figure(figsize=(9.6, 5.6), layout="constrained")
    above, below = page.subfigures(2, 1, height_ratios=(1, 1.25))
    titles = (
        "a record",
        f"{SHOWN * SHOWN} of its 80 feature maps, normalised",
        "the same, as released at epsilon 2",
    )
    for axes, picture, title in zip(above.subplots(1, 3), features(), titles, strict=True):
        axes.imshow(picture, cmap="gray")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    _lines(below.subplots(), rows)
    page.savefig(FIGURES / "what_epsilon_2_means.svg", metadata={"Date": None})
    plt.close(page)


def _lines(axes: Axes, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        colour = COLOURS[row["kind"]]
        axes.plot([row["epsilon"]], [place], "o" if row["kind"] != "refutation" else ">", color=colour, markersize=9)
        axes.annotate(
            f"{row['epsilon']:,.3g}" if row["epsilon"] < 100 else f"{row['epsilon']:,.0f}",
            (row["epsilon"], place),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
        )
    axes.axvspan(0.5, 10, color=GREEN, alpha=0.07, linewidth=0)
    axes.text(0.55, 0.45, "below 10: a guarantee means something", fontsize=8, color=GREEN)
    axes.set_yticks(list(places), [f"{row['text']}\n{row['unit']}" for row in rows])
    axes.set(xscale="log", xlim=(0.5, 4e6), ylim=(0.2, len(rows) + 0.6), xlabel=f"epsilon (delta {DELTA:g})")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Writes the data and the picture."""
    torch.set_num_threads(1)
    rows = figures()
    whole = {"command": "python examples/refutation/figure.py", "delta": DELTA, "lines": rows}
    if rows[-1]["kind"] != "holds":
        whole["missing"] = "the plan that holds: docs/figures/private_training.json is not there yet"
    (FIGURES / "what_epsilon_2_means.json").write_text(json.dumps(whole, indent=1) + "\n")
    draw(rows)
    for row in rows:
        print(f"{row['epsilon']:,.2f}: {row['text']} ({row['unit']})")


if __name__ == "__main__":
    main()
