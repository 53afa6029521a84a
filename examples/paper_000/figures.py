"""Figures 3 and 4 of the document on ObfNet, and a third row that it does not have: the reconstructions.

python examples/paper_000/figures.py     about 30 minutes of one core the first time; needs the full MNIST

Trained networks are kept in the user's cache, so that a second call draws at once.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from matplotlib import pyplot
from paper_000_trained import rows, trained, user_model

from privet.attacks.fresh_inverse import FreshInverse
from privet.engines.view import View
from privet.evidence.similarity import ssim
from privet.inference.obfuscation import Obfuscation
from privet.randomness import seeded, system
from privet.study.obfuscate import accuracy
from privet.study.obfuscation_views import Rows

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
DOCUMENT = "M. Zheng and others, Challenges of Privacy-Preserving Machine Learning in IoT"
COMMAND = "python examples/paper_000/figures.py"
PAIRS, COUNT, SHOWN = 20_000, 10, 10
PRINTED = {"model": 0.9898, "obfnet2": 0.9829}


def figure_4(own: Rows) -> None:
    """Ten bars: the model's accuracy on what each ObfNet2 makes of the test images."""
    two, one = trained("mnist", "ObfNet2", 0, COUNT), trained("mnist", "ObfNet1", 0)
    plain = accuracy(user_model("mnist", 0).answer(own.test_inputs), own.test_labels)
    bars, mean = list(two.figures["accuracies"]), float(two.figures["accuracy_obfuscated"])
    told = {
        "document": DOCUMENT,
        "command": COMMAND,
        "data": "MNIST, 60,000 to train, 10,000 to test; one seed",
        "accuracy_plain": plain,
        "accuracy_obfnet1": one.figures["accuracy_obfuscated"],
        "accuracies_obfnet2": bars,
        "accuracy_obfnet2_mean": mean,
        "printed": PRINTED,
        "goal": {"model": 0.9898, "obfnet1": 0.982, "obfnet2_mean": 0.982},
        "reproduced": plain >= 0.9898 and mean >= 0.982 and one.figures["accuracy_obfuscated"] >= 0.982,
    }
    _write("paper_000_figure_4", told)
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    axes.bar(range(COUNT), [100 * bar for bar in bars], color="#0072B2")
    axes.axhline(100 * plain, color="#000000", linewidth=1)
    axes.axhline(100 * PRINTED["obfnet2"], color="#D55E00", linestyle="--", linewidth=1)
    axes.annotate(f"samples as they are: {plain:.2%}", (COUNT - 0.5, 100 * plain), ha="right", va="bottom", fontsize=9)
    means = f"the document's mean: {PRINTED['obfnet2']:.2%} (dashed); ours: {mean:.2%}"
    axes.annotate(means, (COUNT - 0.5, 98.7), ha="right", va="bottom", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(ylim=(96, 100), xlabel="ObfNet2-x", ylabel="accuracy, %", xticks=range(COUNT))
    figure.savefig(FIGURES / "paper_000_figure_4.svg", metadata={"Date": None})


def figure_3(own: Rows) -> None:
    """Samples, what two obfuscators make of them, and what an inverse learned from pairs makes of that."""
    shown = torch.stack([(own.test_labels == label).nonzero()[0, 0] for label in range(SHOWN)])
    lines = [("samples", own.test_inputs[shown])]
    told: dict[str, object] = {"document": DOCUMENT, "command": COMMAND, "pairs": PAIRS, "inverse": "residual"}
    for row, count in (("ObfNet1", 1), ("ObfNet2", COUNT)):
        made = trained("mnist", row, 0, count)
        left, back = _undone(made, own)
        lines += [(f"{row}{'-0' if count > 1 else ''}: sent", left[shown]), ("recovered", back[shown])]
        told[row] = {
            "ssim_sent": float(ssim(left.clamp(0, 1), own.test_inputs).mean()),
            "ssim_recovered": float(ssim(back, own.test_inputs).mean()),
        }
    _write("paper_000_figure_3", told)
    figure, grid = pyplot.subplots(len(lines), SHOWN, figsize=(SHOWN * 0.75, len(lines) * 0.85), layout="constrained")
    for axes_row, (name, images) in zip(grid, lines, strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=float(images.quantile(0.99)) or 1)
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.savefig(FIGURES / "paper_000_figure_3.png", dpi=110)


def _undone(made: Obfuscation, own: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the first obfuscator makes of the test images, and the inverse of that."""
    pairs = seeded(0, "pairs").permutation(len(own.inputs))[:PAIRS]
    left = made.release(own.test_inputs, system())
    view = View(
        "coordinator",
        {"features": left.flatten(1), "labels": own.test_labels},
        {
            "inputs": own.inputs[pairs],
            "labels": own.labels[pairs],
            "features": made.release(own.inputs[pairs], system()).flatten(1),
        },
        shape=made.trained.shape,
        classes=own.classes,
    )
    return left, FreshInverse()(view, seeded(0, "inverse")).inputs


def _write(name: str, told: dict[str, object]) -> None:
    (FIGURES / f"{name}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    pyplot.rcParams.update({"svg.hashsalt": "privet", "font.size": 10})
    figure_4(rows("mnist"))
    figure_3(rows("mnist"))


if __name__ == "__main__":
    main()
