"""Writes docs/figures/private_training.json from finished runs of the plans beside this file.

For each plan: ``privet run examples/private/PLAN.toml --out runs/PLAN``, then
``python examples/private/results.py runs/PLAN ...``. A plan whose run isn't named keeps what the file says of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from privet.study.plan import Plan

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "docs" / "figures" / "private_training.json"
WANTED = {"hog_distributed": (0.97, 1.0), "hog_each_device": (0.96, 1.0), "lenet_distributed": (0.95, 3.0)}
"""Plan -> the least accuracy and the most epsilon that count as reproduced."""


def result(name: str, run: Path) -> dict[str, object]:
    plan = Plan.load(HERE / f"{name}.toml")
    if Plan.load(run / "plan.toml") != plan:
        raise SystemExit(f"{run} is a run of another plan than {name}.toml")
    metrics = json.loads((run / "metrics.json").read_text())
    accuracy, (guarantee, *_) = metrics["accuracy"], metrics["guarantees"]
    least, most = WANTED[name]
    return {
        "plan_digest": plan.digest,
        "command": f"privet run examples/private/{name}.toml --out runs/{name}",
        "accuracy": accuracy,
        "guarantee": guarantee,
        "goal": {"accuracy": least, "epsilon": most},
        "reproduced": accuracy >= least and guarantee["epsilon"] is not None and guarantee["epsilon"] <= most,
    }


def main() -> None:
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for run in map(Path, sys.argv[1:]):
        name = Plan.load(run / "plan.toml").name.removeprefix("private-").replace("-", "_")
        known[name] = result(name, run)
    OUT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
