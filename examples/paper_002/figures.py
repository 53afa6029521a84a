"""Reproduces figures 3 to 8 of the smart-home document as data (JSON) and pictures in docs/figures.

    python examples/paper_002/figures.py full      the document's own schedule, twice: about 40 minutes on two cores
    python examples/paper_002/figures.py points    the points of all figures at a smaller schedule: about 20 minutes
    python examples/paper_002/figures.py draw      the pictures and verdicts from what is there

Every point is a run of ``plan.toml`` with a few keys changed; a point that is there already is not
run again. The smaller schedule is 4 devices x 6,000 images and 2 local epochs in place of 10 and 40.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from paper_002_claims import BATCH, BATCHES, BOUNDED, EPSILONS, LOCAL, LOCAL_EPOCHS, key

import privet
from privet.study.experiment import prepare

HERE = Path(__file__).parent
FIGURES = HERE.parents[1] / "docs" / "figures"
POINTS = FIGURES / "paper_002_points.json"
COMMAND = "python examples/paper_002/figures.py"
SMALLER = ["fleet.devices=4", "fleet.examples_per_device=6000", "training.local_epochs=2"]
BATCH_NORMALISATION = ["mechanisms.on_device.0.name=batch-normalisation", "model.normalisation=standardise"]
# What one value would need for a record to have epsilon 8: in one release, and in the document's 80.
FOR_A_RECORD = (0.025, 0.0028)
TECHNIQUES = {BOUNDED: [], BATCH: BATCH_NORMALISATION}


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
        want(BOUNDED, epsilon, 64, LOCAL, 4)
        want(BATCH, epsilon, 64, LOCAL, 2)
    for technique in TECHNIQUES:
        want(technique, None, 64, LOCAL, 2)
        for batch in BATCHES:
            want(technique, None, batch, LOCAL, 1)
            want(technique, 2, batch, LOCAL, 3 if technique == BOUNDED else 1)
    for local in LOCAL_EPOCHS:
        want(BOUNDED, 2, 64, local, 4)
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
        "measured_with": f"privet {done.metrics['version']}",
    }
    POINTS.write_text(json.dumps(points, indent=1, sort_keys=True) + "\n")
    print(name, points[name]["accuracy"], f"{points[name]['seconds']} s", flush=True)


def full() -> None:
    for technique in TECHNIQUES:
        measure(key(technique, 2, 64, 40, True), (technique, 2, 64, 40, 2), True)


def points() -> None:
    for name, point in wanted().items():
        measure(name, point, False)


def guarantees() -> list[dict[str, Any]]:
    """Returns what the document's schedule guarantees a record, derived without training."""
    rows = []
    for epsilon in (*EPSILONS, *FOR_A_RECORD):
        once, whole = (_derive(plan(BOUNDED, epsilon, 64, local, rounds, True)) for local, rounds in ((1, 1), (40, 2)))
        row = {"one value": whole[0].epsilon, "record, own row only, one release": once[1].epsilon}
        row |= {"record, own row only": whole[1].epsilon, "record, whole batch": whole[2].epsilon}
        rows.append(row | {"releases": whole[1].releases, "delta": whole[1].delta, "relation": whole[1].relation})
    return rows


def _derive(schedule: privet.Plan) -> list[Any]:
    # What is guaranteed does not depend on the images, and these need no download.
    experiment = prepare(schedule.with_settings(["data.name=mnist-10k"]))
    return list(schedule.protocol.guarantees(experiment.promise))


def draw() -> None:
    from paper_002_drawing import draw_all, show_verdicts

    figures = draw_all(json.loads(POINTS.read_text()), FIGURES, COMMAND, guarantees())
    for page in (FIGURES / "README.md", FIGURES.parents[1] / "README.md"):
        show_verdicts(page, figures)


if __name__ == "__main__":
    stages: dict[str, Any] = {"full": full, "points": points, "draw": draw}
    chosen = sys.argv[1:] or list(stages)
    if not set(chosen) <= set(stages):
        sys.exit(f"unknown stage {chosen}; allowed: {', '.join(stages)}")
    for stage in chosen:
        stages[stage]()
