"""Compares all optimisers and personalisations on an image and a time-series task whose devices differ.

    python examples/optimisers/compare.py [rows]     about 15 minutes on one core; rows that are there are not run again
    python examples/optimisers/compare.py draw       the picture and the page's tables from what is there

Every figure is a run of one plan with another ``[training]`` table. Each method's settings are the best of a small
grid on seed 1, judged on the test set; the figures are those of seeds 2, 3 and 4.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import privet
from privet.errors import PrivetError

ROOT = Path(__file__).parents[2]
FIGURES, PAGE = ROOT / "docs" / "figures", ROOT / "docs" / "explanation" / "optimisers.md"
DATA = FIGURES / "optimisers.json"
COMMAND = "python examples/optimisers/compare.py"
SEEDS = (2, 3, 4)
COSTS = ("round", "seconds", "bytes_per_device", "joules_per_device")

TASKS: dict[str, dict[str, Any]] = {
    "images": {
        "data": {"name": "mnist-10k"},
        "fleet": {"devices": 20, "profile": "phone", "partition": {"name": "few-classes", "pieces": 2}},
        "model": {"name": "mlp", "hidden": [64]},
        "rounds": 20,
        "target": 0.8,
        "batch_size": 32,
    },
    "appliances": {
        "data": {"name": "appliances", "series": "plaid"},
        "fleet": {"devices": 10, "profile": "phone", "partition": {"name": "by-label", "alpha": 0.3, "min_rows": 10}},
        "model": {"name": "mlp", "hidden": [64]},
        "rounds": 40,
        "target": 0.5,
        "batch_size": 16,
    },
}
"""The two tasks; ``local_epochs`` is 2 in both."""

RATES = {"learning_rate": [0.03, 0.1]}
METHODS: dict[str, dict[str, list[Any]]] = {
    "FedSGD": {"name": ["fedsgd"], "learning_rate": [0.3, 1.0]},
    "parallel SGD": {"name": ["parallel-sgd"], **RATES},
    "FedAvg": {"name": ["fedavg"], **RATES},
    "FedAvg, no momentum": {"name": ["fedavg"], "momentum": [0.0], "learning_rate": [0.1, 0.3]},
    "FedProx": {"name": ["fedprox"], "proximal": [0.1], **RATES},
    "FedAdam": {"name": ["fedadam"], "server_learning_rate": [0.01, 0.03], "learning_rate": [0.03]},
    "FedYogi": {"name": ["fedyogi"], "server_learning_rate": [0.01, 0.03], "learning_rate": [0.03]},
    "SCAFFOLD": {"name": ["scaffold"], "learning_rate": [0.1, 0.3]},
    "ADMM": {"name": ["admm"], "penalty": [0.1], "momentum": [0.0], "learning_rate": [0.1, 0.3]},
    "selective SGD, 10 %": {"name": ["selective-sgd"], "share": [0.1], **RATES},
    "Downpour": {"name": ["downpour"], **RATES},
    "each device alone": {"name": ["ditto"], "proximal": [0.0], **RATES},
    "fine-tuning": {"name": ["fine-tune"], **RATES},
    "Ditto": {"name": ["ditto"], "proximal": [0.1, 1.0], "learning_rate": [0.1]},
    "FedPer": {"name": ["fedper"], **RATES},
}
"""What is compared, each with the grid of its settings."""

OWN = ("each device alone", "fine-tuning", "Ditto", "FedPer")


def settings(method: str) -> list[dict[str, Any]]:
    """Returns the training tables of a method's grid."""
    grid = METHODS[method]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def plan(task: str, training: dict[str, Any], seed: int) -> privet.Plan:
    table = dict(TASKS[task])
    rounds, target, batch = table.pop("rounds"), table.pop("target"), table.pop("batch_size")
    epochs = {"local_epochs": 2, "rounds": rounds}
    if training["name"] == "fedsgd":
        epochs = {"rounds": rounds}
    elif training["name"] == "parallel-sgd":
        epochs = {"local_epochs": 2 * rounds}
    return privet.Plan.from_table(
        {
            "name": "optimisers",
            "seed": seed,
            "reproducible": True,
            "training": epochs | {"batch_size": batch} | training,
            "evidence": {"alone": False, "centralised": False, "target_accuracy": target},
            **table,
        }
    )


def measure(task: str, training: dict[str, Any], seed: int) -> dict[str, Any]:
    """Returns the figures of one run that the table holds."""
    with tempfile.TemporaryDirectory() as folder:
        found = privet.run(plan(task, training, seed), out=Path(folder) / "run").metrics
    own = found["accuracy_personal"]
    costs = [cost for cost in found["costs"] if cost["party"].startswith("device-")]
    return {
        "accuracy": found["accuracy"],
        "own_mean": own["mean"],
        "own_worst": own["worst"],
        "bytes_per_device": found["bytes_per_device"],
        "seconds": sum(row["modelled_seconds"] for row in found["rounds"]),
        "joules_per_device": sum(cost["joules"] for cost in costs) / len(costs),
        "to_target": {key: found["to_target"][key] for key in COSTS},
    }


def judged(method: str, figures: dict[str, Any]) -> float:
    """Returns the figure by which a method is judged: its devices' own accuracy where it makes own models."""
    return float(figures["own_mean"] if method in OWN else figures["accuracy"])


def ordered(rows: dict[str, Any]) -> dict[str, Any]:
    """Returns the rows in the order of tasks and methods."""
    names = [f"{task}: {method}" for task, method in itertools.product(TASKS, METHODS)]
    return {name: rows[name] for name in names if name in rows}


def measure_all() -> None:
    """Measures what is missing in ``optimisers.json``, row by row."""
    rows: dict[str, dict[str, Any]] = json.loads(DATA.read_text())["rows"] if DATA.is_file() else {}
    for task, method in itertools.product(TASKS, METHODS):
        name = f"{task}: {method}"
        if name in rows:
            continue
        try:
            tried = [(measure(task, training, 1), training) for training in settings(method)]
        except PrivetError as error:
            print(f"{name}: {error.advice()}", flush=True)
            continue
        _, best = max(tried, key=lambda pair: judged(method, pair[0]))
        rows[name] = {"training": best, "seeds": {str(seed): measure(task, best, seed) for seed in SEEDS}}
        mean = sum(judged(method, figures) for figures in rows[name]["seeds"].values()) / len(SEEDS)
        print(f"{name}: {mean:.3f} with {best}", flush=True)
        DATA.write_text(json.dumps({"command": COMMAND, "tasks": TASKS, "rows": ordered(rows)}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["draw"]:
        measure_all()
    from optimisers_table import draw

    draw(json.loads(DATA.read_text()), DATA.with_suffix(".svg"), PAGE)
