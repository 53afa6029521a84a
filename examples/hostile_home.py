"""What one hostile home does to a plain average, and to Multi-Krum: docs/figures/hostile_home.json and .svg.

    python examples/hostile_home.py          nine runs of smart_home.toml (some minutes), then the picture
    python examples/hostile_home.py draw     the picture from what is there

Without attacks and baselines, to be quick. A run that is there already is not run again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

import privet

HERE = Path(__file__).parent
DATA = HERE.parent / "docs" / "figures" / "hostile_home.json"
SEEDS = (1, 2, 3)
NOBODY, MEAN, KRUM = "mean, nobody hostile", "mean, one home hostile", "multi-krum, one home hostile"
STYLES = {NOBODY: ("#000000", "o", "--"), KRUM: ("#0072B2", "s", "-"), MEAN: ("#D55E00", "^", "-")}
HARM, SAME = 0.05, 0.02


def plan(case: str, seed: int) -> privet.Plan:
    """Returns the smart-home plan of one case, without ledger, attacks and baselines."""
    table = privet.Plan.load(HERE / "smart_home.toml").to_table()
    table |= {"seed": seed, "attacks": [], "views": {}, "evidence": {"alone": False, "centralised": False}}
    del table["ledger"]
    if case != KRUM:
        table["aggregation"] = {"name": "mean"}
    if case == NOBODY:
        table["fleet"]["hostile"] = []
    return privet.Plan.from_table(table)


def verdict(runs: dict[str, dict[str, list[float]]]) -> dict[str, bool]:
    """Returns whether the hostile home harms each rule: accuracy per round, by case and seed."""
    last = {case: [rounds[-1] for _, rounds in sorted(runs[case].items())] for case in STYLES}
    return {
        "mean is harmed": all(free - hurt > HARM for free, hurt in zip(last[NOBODY], last[MEAN], strict=True)),
        "multi-krum is not harmed": all(
            free - kept < SAME for free, kept in zip(last[NOBODY], last[KRUM], strict=True)
        ),
    }


def measure() -> None:
    """Runs what is not there yet."""
    found: dict[str, Any] = json.loads(DATA.read_text()) if DATA.is_file() else {}
    runs = found.get("accuracy", {})
    for seed in SEEDS:
        for case in STYLES:
            if str(seed) in runs.setdefault(case, {}):
                continue
            with tempfile.TemporaryDirectory() as folder:
                done = privet.run(plan(case, seed), out=Path(folder) / "run")
            runs[case][str(seed)] = [entry["accuracy"] for entry in done.metrics["rounds"]]
            print(case, seed, runs[case][str(seed)], flush=True)
            DATA.write_text(json.dumps({"accuracy": runs}, indent=1, sort_keys=True) + "\n")


def draw() -> None:
    """Writes the verdict into the data, and the picture beside it."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    runs = json.loads(DATA.read_text())["accuracy"]
    seeds = sorted(set.intersection(*(set(runs[case]) for case in STYLES)))
    shown = {case: {seed: runs[case][seed] for seed in seeds} for case in STYLES}
    summary = {
        "command": "python examples/hostile_home.py",
        "plan": "examples/smart_home.toml without ledger, attacks and baselines",
        "seeds": seeds,
        "hostile": "one of ten homes sends its update negated and five times as large",
        "accuracy": runs,
        "accuracy_after_last_round": {case: round(mean(r[-1] for r in shown[case].values()), 4) for case in STYLES},
        "rule": {
            "mean is harmed": f"for every seed more than {HARM} below nobody hostile, after the last round",
            "multi-krum is not harmed": f"for every seed less than {SAME} below nobody hostile, after the last round",
        },
        "verdict": verdict(shown),
    }
    DATA.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    pyplot.rcParams.update({"svg.hashsalt": "privet", "font.size": 11, "axes.spines.top": False})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for case, (colour, marker, line) in STYLES.items():
        by_round = list(zip(*shown[case].values(), strict=True))
        rounds = range(1, len(by_round) + 1)
        centre = [100 * mean(values) for values in by_round]
        low, high = ([100 * pick(values) for values in by_round] for pick in (min, max))
        axes.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(rounds, centre, color=colour, marker=marker, linestyle=line, label=case)
    axes.set(xlabel="global round", ylabel="test accuracy, %", xticks=list(rounds), ylim=(0, 100))
    axes.set_title(f"Ten homes: mean of {len(seeds)} seed(s), band from lowest to highest", fontsize=11)
    axes.spines["right"].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(DATA.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["draw"]):
        sys.exit("give nothing, or draw")
    if not sys.argv[1:]:
        measure()
    draw()
