"""Writes docs/figures/private_training.json from runs of the plans beside this file.

python examples/private/results.py              runs every plan first: about ten minutes, needs the full MNIST
python examples/private/results.py RUN ...      takes these finished runs; other plans keep what the file says
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import privet
from privet.study.plan import Plan

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "docs" / "figures" / "private_training.json"
WANTED = {
    "hog_distributed": (0.97, 1.0),
    "hog_each_device": (0.96, 1.0),
    "lenet_distributed": (0.95, 3.0),
    "scattering_distributed": (0.97, 1.0),
}
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


def made() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name in WANTED:
            yield privet.run(Plan.load(HERE / f"{name}.toml"), out=Path(folder) / name).path


def main() -> None:
    known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for run in map(Path, sys.argv[1:]) if sys.argv[1:] else made():
        name = Plan.load(run / "plan.toml").name.removeprefix("private-").replace("-", "_")
        known[name] = result(name, run)
    OUT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
