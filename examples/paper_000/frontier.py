"""The frontier: accuracy against what the strongest attacker finds, for every obfuscator.

python examples/paper_000/frontier.py mnist [SEED ...]    needs the full MNIST; about 30 minutes of one core a seed
python examples/paper_000/frontier.py cifar               needs the JPEG copy of CIFAR-10 and cifar_cloud.py's model

Trained networks and finished evaluations are kept in the user's cache: what was interrupted goes on where it stopped,
and a call without anything left to do only draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib import pyplot
from paper_000_trained import CODED, EFFORT, OBFUSCATORS, PAIRS, evaluated, rows, trained, user_model

from privet.accounting.release_bits import ReleaseBits
from privet.inference.offload import accuracies
from privet.models.cost import multiplications
from privet.study.obfuscate import ATTACKERS, SHARES, accuracy

DOCS = Path(__file__).parents[2] / "docs"
FIGURES, PAGE = DOCS / "figures", DOCS / "explanation" / "obfuscation.md"
NAMES = {"mnist": "MNIST", "cifar": "CIFAR-10 (JPEG copy)"}
STUDENTS = {"mnist": ("prototype", "prototype, LeNet"), "cifar": ("prototype",)}
SEEDS = {"mnist": (0, 1, 2, 3, 4), "cifar": (0,)}
RECORDS = 2_000
GROUPS = (
    ("published", ("ObfNet1", "ObfNet2"), "#D55E00", "s"),
    ("neither noise nor a bound", ("bottleneck", "trained", "secret", "convolutional"), "#E69F00", "^"),
    ("noise, with an epsilon", ("noise", "response"), "#56B4E9", "D"),
    ("one of K codes, with a bound", ("prototype", "posterior"), "#009E73", "o"),
)


def point(data: str, row: str, seed: int) -> dict[str, Any]:
    """Returns what one obfuscator of one seed reaches and lets through."""
    found, made = evaluated(data, row, seed, RECORDS), trained(data, row, seed)
    worst = found["worst"]
    codes = max(made.obfuscator.codes(side) for side in made.sides)
    classes = made.trained.classes
    return {
        "accuracy": found["accuracy_obfuscated"],
        "multiplications": found["multiplications"],
        "bits": found["bits"],
        "epsilon": found["guarantee"]["epsilon"] if found["guarantee"] else None,
        "reidentified": worst["reidentified"],
        "reidentified_in_class": worst["reidentified_in_class"],
        "bound_in_class_once": ReleaseBits(int(codes)).rank_1(RECORDS, classes) if found["bits"] is not None else None,
        "ssim": worst["ssim"],
        "ssim_by": worst["ssim_by"],
        "ssim_above_floor": worst["ssim_above_floor"],
        "attacks": {
            name: {key: one[key] for key in ("party", "ssim", "psnr", "reidentified", "reidentified_in_class")}
            | {"repeats": ATTACKERS[name].view == "repeats"}
            for name, one in found["attacks"].items()
        },
    }


def alone(data: str, seed: int) -> dict[str, Any]:
    """Returns what devices reach that send nothing, or only what they are least sure of."""
    model, own = user_model(data, seed), rows(data)
    theirs = model.answer(own.test_inputs)
    told: dict[str, Any] = {"cloud": {"accuracy": accuracy(theirs, own.test_labels)}}
    told["cloud"]["multiplications"] = multiplications(model.network, model.shape)
    for row in STUDENTS[data]:
        network = trained(data, row, seed).sides[0].encoder.get_submodule("0").eval()
        with torch.no_grad():
            mine = torch.cat([network(part) for part in own.test_inputs.split(1000)])
        reached = accuracies(mine, theirs, own.test_labels, (0.0, *SHARES))
        told[f"student of {row}"] = {
            "multiplications": multiplications(network, model.shape),
            "send_nothing": reached[0],
            "offload": dict(zip((f"{share:g}" for share in SHARES), reached[1:], strict=True)),
        }
    return told


def summary(each: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean and the ends over seeds of what is drawn."""

    def over(read: Any) -> dict[str, float]:
        values = [read(one) for one in each.values()]
        return {"mean": mean(values), "low": min(values), "high": max(values)}

    return {
        "accuracy": over(lambda one: one["accuracy"]),
        "reidentified_in_class": over(lambda one: one["reidentified_in_class"]["value"]),
        "once": over(lambda one: max(a["reidentified_in_class"] for a in one["attacks"].values() if not a["repeats"])),
        "ssim_above_floor": over(lambda one: one["ssim_above_floor"]),
        "multiplications": next(iter(each.values()))["multiplications"],
    }


def draw(data: str, told: dict[str, Any]) -> None:
    pyplot.rcParams.update({"svg.hashsalt": "privet", "font.size": 10})
    pyplot.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    first = next(iter(told["alone"].values()))
    for axes, key, label in (
        (panels[0], "reidentified_in_class", "worst re-identification among 2,000, class known, %"),
        (panels[1], "ssim_above_floor", "worst SSIM above what the class alone gives"),
    ):
        points: list[tuple[float, float, str]] = []
        for group, starts, colour, marker in GROUPS:
            for at, (row, one) in enumerate(each for each in told["rows"].items() if each[0].startswith(starts)):
                scale = 100 if key == "reidentified_in_class" else 1
                x, y = scale * one["over_seeds"][key]["mean"], 100 * one["over_seeds"]["accuracy"]["mean"]
                axes.plot(x, y, marker, color=colour, label=group if not at else None)
                points.append((x, y, row))
        for name, student in first.items():
            if name != "cloud":
                axes.axhline(100 * student["send_nothing"], color="#000000", linewidth=0.8, linestyle="--")
                share = student["offload"]["0.3"]
                axes.axhline(100 * share, color="#999999", linewidth=0.8, linestyle=":")
        axes.set_xlabel(label)
        name_points(axes, points)
    panels[0].set_xlim(left=0)
    panels[0].set_ylabel("accuracy, %")
    panels[0].legend(fontsize=8, loc="center", bbox_to_anchor=(0.6, 0.35))
    panels[1].set_title("dashed: the device sends nothing; dotted: it sends the 30 % it is least sure of", fontsize=8)
    figure.suptitle(NAMES[data], fontsize=11)
    figure.savefig(FIGURES / f"obfuscation_frontier_{data}.svg", metadata={"Date": None})


def name_points(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Writes names beside points, above or below where others are near."""
    taken: list[tuple[float, float]] = []
    for x, y, name in points:
        at, high = axes.transData.transform((x, y))
        for move in (4, -9, 13, -18, -27, -36):
            if all(abs(high + move - other) > 9 or abs(at - left) > 90 for left, other in taken):
                break
        taken.append((at, high + move))
        axes.annotate(name, (x, y), textcoords="offset pixels", xytext=(7, move), fontsize=7)


def table(told: dict[str, Any]) -> str:
    """Returns the figure's rows as a table, the most recognisable first."""
    lines = [
        "| obfuscator | accuracy | worst re-identification | by | of one release | worst SSIM over the class alone "
        "| multiplications | promise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, one in sorted(
        told["rows"].items(), key=lambda each: -each[1]["over_seeds"]["reidentified_in_class"]["mean"]
    ):
        over, first = one["over_seeds"], next(iter(one["seeds"].values()))
        promise = [f"{first['bits']:.2g} bits"] if first["bits"] is not None else []
        promise += [f"epsilon {first['epsilon']:.3g}"] if first["epsilon"] is not None else []
        cells = [row, spread(over["accuracy"], 2), spread(over["reidentified_in_class"], 1)]
        cells += [first["reidentified_in_class"]["by"], spread(over["once"], 1)]
        cells += [f"{over['ssim_above_floor']['mean']:.3f}".replace("0.", ".", 1), f"{over['multiplications']:,}"]
        lines.append(f"| {' | '.join([*cells, ', '.join(promise) or 'none'])} |")
    return "\n".join(lines)


def spread(over: dict[str, float], digits: int) -> str:
    """Returns a share's mean over seeds and, if they differ, its ends, in per cent."""
    middle, low, high = (f"{100 * over[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{middle} %" if low == high else f"{middle} % ({low} to {high})"


def fill(data: str, told: dict[str, Any]) -> None:
    """Puts the table where the page has a place for it."""
    begin, end = f"<!-- frontier of {data} -->\n", "<!-- end of frontier -->"
    before, rest = PAGE.read_text().split(begin)
    _, after = rest.split(end, 1)
    PAGE.write_text(f"{before}{begin}\n{table(told)}\n\n{end}{after}")


def write(name: str, data: str, **figures: Any) -> dict[str, Any]:
    """Writes figures with what they were measured on and by; returns all of it."""
    told = {"data": NAMES[data], "command": f"python examples/paper_000/frontier.py {data}"} | figures
    (FIGURES / f"{name}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    return told


def main() -> None:
    torch.set_num_threads(1)
    data = sys.argv[1] if len(sys.argv) > 1 else "mnist"
    seeds = tuple(map(int, sys.argv[2:])) or SEEDS[data]
    without = write(f"offload_{data}", data, alone={str(seed): alone(data, seed) for seed in seeds})
    each: dict[str, Any] = {}
    for seed in seeds:
        for row in (*OBFUSCATORS[data], *(row for row, (basis, _) in CODED.items() if basis in OBFUSCATORS[data])):
            found = point(data, row, seed)
            each.setdefault(row, {})[str(seed)] = found
            worst = found["reidentified_in_class"]
            print(seed, row, f"{found['accuracy']:.4f}", f"{worst['value']:.4f} by {worst['by']}", flush=True)
    told = write(
        f"obfuscation_frontier_{data}",
        data,
        attacked=f"{RECORDS:,} test rows, looked for among themselves, class known",
        attackers=f"{PAIRS:,} pairs of their own, {EFFORT:g} of the usual steps",
        seeds=list(seeds),
        rows={row: {"seeds": one, "over_seeds": summary(one)} for row, one in each.items()},
        alone=without["alone"],
    )
    draw(data, told)
    fill(data, told)


if __name__ == "__main__":
    main()
