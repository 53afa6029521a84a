"""Reproduces figures 3 to 8 of the smart-home document as data (JSON) and pictures in docs/figures.

    python examples/paper_002/figures.py full      the document's own schedule, twice: about 40 minutes on two cores
    python examples/paper_002/figures.py points    the points of all figures at a smaller schedule: about 20 minutes
    python examples/paper_002/figures.py draw      the pictures and verdicts from what is there

Every point is a run of ``plan.toml`` with a few keys changed; a point that is there already is not
run again. The smaller schedule is 4 devices x 6,000 images and 3 local epochs in place of 10 and 40.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import privet

HERE = Path(__file__).parent
FIGURES = HERE.parents[1] / "docs" / "figures"
POINTS = FIGURES / "paper_002_points.json"
COMMAND = "python examples/paper_002/figures.py"
SMALLER = ["fleet.devices=4", "fleet.examples_per_device=6000", "training.local_epochs=3"]
BATCH_NORMALISATION = ["mechanisms.on_device.0.name=batch-normalisation", "model.normalisation=standardise"]
TECHNIQUES = {"bounded": [], "batch normalisation": BATCH_NORMALISATION}
EPSILONS = (1, 2, 5, 10)
BATCHES = (32, 64, 128, 256)
LOCAL_EPOCHS = (1, 2, 4, 8)


def key(technique: str, epsilon: float | None, batch: int, local: int, full: bool = False) -> str:
    noise = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
    return f"{'full, ' if full else ''}{technique}, {noise}, batch {batch}, {local} local epochs"


def plan(technique: str, epsilon: float | None, batch: int, local: int, rounds: int, full: bool) -> privet.Plan:
    bound = (batch - 1) ** 0.5
    settings = [
        *TECHNIQUES[technique],
        f"training.batch_size={batch}",
        f"training.rounds={rounds}",
        *([] if full else SMALLER),
        f"training.local_epochs={local}",
        f"model.bound={bound}",
    ]
    if epsilon is not None:
        settings.append(f"mechanisms.on_device.1.epsilon_per_coordinate={float(epsilon)}")
    table = privet.Plan.load(HERE / "plan.toml").with_settings(settings)
    if epsilon is not None:
        return table
    quiet = table.to_table()
    quiet["mechanisms"]["on_device"] = quiet["mechanisms"]["on_device"][:1]
    return privet.Plan.from_table(quiet)


def wanted() -> dict[str, tuple[str, float | None, int, int, int]]:
    """Returns the smaller schedule's points: technique, epsilon, batch size, local epochs, global epochs."""
    points: dict[str, tuple[str, float | None, int, int, int]] = {}

    def want(technique: str, epsilon: float | None, batch: int, local: int, rounds: int) -> None:
        name = key(technique, epsilon, batch, local)
        if name not in points or points[name][-1] < rounds:
            points[name] = (technique, epsilon, batch, local, rounds)

    for epsilon in EPSILONS:
        want("bounded", epsilon, 64, 3, 4)
        want("batch normalisation", epsilon, 64, 3, 2)
    for technique in TECHNIQUES:
        want(technique, None, 64, 3, 2)
        for batch in BATCHES:
            want(technique, None, batch, 3, 1)
            want(technique, 2, batch, 3, 3 if technique == "bounded" else 1)
    for local in LOCAL_EPOCHS:
        want("bounded", 2, 64, local, 4)
    return points


def measure(name: str, point: tuple[str, float | None, int, int, int], full: bool) -> None:
    points = json.loads(POINTS.read_text()) if POINTS.is_file() else {}
    if name in points:
        return
    with tempfile.TemporaryDirectory() as folder:
        done = privet.run(plan(*point, full), out=Path(folder) / "run")
    points = json.loads(POINTS.read_text()) if POINTS.is_file() else {}
    points[name] = {
        "accuracy": [entry["accuracy"] for entry in done.metrics["rounds"]],
        "accuracy_with_noise": [entry["accuracy_with_noise"] for entry in done.metrics["rounds"]],
        "seconds": round(done.metrics["seconds"], 1),
        "precision": done.metrics["precision"],
        "plan_digest": done.metrics["plan_digest"],
        "guarantees": done.metrics["guarantees"],
    }
    POINTS.write_text(json.dumps(points, indent=1, sort_keys=True) + "\n")
    print(name, points[name]["accuracy"], f"{points[name]['seconds']} s", flush=True)


def full() -> None:
    for technique in TECHNIQUES:
        measure(key(technique, 2, 64, 40, True), (technique, 2, 64, 40, 2), True)


def points() -> None:
    for name, point in wanted().items():
        measure(name, point, False)


def draw() -> None:
    from paper_002_drawing import draw_all

    draw_all(json.loads(POINTS.read_text()), FIGURES, COMMAND)


if __name__ == "__main__":
    stages: dict[str, Any] = {"full": full, "points": points, "draw": draw}
    chosen = sys.argv[1:] or list(stages)
    if not set(chosen) <= set(stages):
        sys.exit(f"unknown stage {chosen}; allowed: {', '.join(stages)}")
    for stage in chosen:
        stages[stage]()
