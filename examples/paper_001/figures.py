"""Reproduces figures 3(a) to 3(f) of the distributed-inference document as data (JSON) and pictures in docs/figures.

    python examples/paper_001/figures.py measure     every simulation: about five minutes of one core
    python examples/paper_001/figures.py draw        the pictures and verdicts from what is there

Every point is 320 requests planned by Algorithm 1. A point that is there already is not simulated again.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from paper_001_drawing import MIXES, NETWORKS, SIZES, TOLERANCES, draw_all, key

from privet.inference.distributed.fleets import named_fleet
from privet.inference.distributed.networks import paper_network
from privet.inference.distributed.planners.distprivacy import Distprivacy
from privet.inference.distributed.simulator import simulate
from privet.inference.distributed.workload import workload

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
POINTS = FIGURES / "paper_001_points.json"


def wanted() -> list[tuple[str, tuple[str, ...], float]]:
    """Returns every point: fleet, networks, tolerance."""
    points = [(MIXES[mix], NETWORKS, tolerance) for mix in MIXES for tolerance in TOLERANCES]
    points += [(f"paper:{size}", NETWORKS, tolerance) for size in SIZES for tolerance in TOLERANCES]
    return points + [("paper:60", (network,), tolerance) for network in NETWORKS for tolerance in TOLERANCES]


def measure() -> None:
    for fleet, networks, tolerance in wanted():
        points = json.loads(POINTS.read_text()) if POINTS.is_file() else {}
        name = key(fleet, networks, tolerance)
        if name in points:
            continue
        loads = [workload(paper_network(network, weights=False), tolerance) for network in networks]
        found = simulate(loads, named_fleet(fleet), Distprivacy())
        points[name] = {field: _short(value) for field, value in dataclasses.asdict(found).items()}
        POINTS.write_text(json.dumps(points, indent=1, sort_keys=True) + "\n")
        print(name, points[name]["rejected_share"], points[name]["mean_latency_s"], flush=True)


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def draw() -> None:
    for verdict in draw_all(json.loads(POINTS.read_text()), FIGURES, "python examples/paper_001/figures.py"):
        print(verdict)


if __name__ == "__main__":
    stages: dict[str, Any] = {"measure": measure, "draw": draw}
    chosen = sys.argv[1:] or list(stages)
    if not set(chosen) <= set(stages):
        sys.exit(f"unknown stage {chosen}; allowed: {', '.join(stages)}")
    for stage in chosen:
        stages[stage]()
