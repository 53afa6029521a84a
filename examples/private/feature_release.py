"""What features cost that are released once, by a front that does not train: accuracy against epsilon.

    python examples/private/feature_release.py      a few minutes; writes docs/figures/feature_release.json

Every point is a run of ``feature_release.toml`` with other noise; needs the full MNIST.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

import privet

HERE = Path(__file__).parent
FIGURE = HERE.parents[1] / "docs" / "figures" / "feature_release.json"
SIGMAS = {8: 1.2006, 4: 2.163, 2: 3.988}
"""Standard deviation for each epsilon of the features at delta 1e-5: twice the clip times the noise multiplier."""
POINTS: tuple[tuple[int, float | None], ...] = ((8, None), (4, None), (2, None), (4, 4.0), (4, 2.0), (2, 2.0))
REFERENCE = {"8, labels in the clear": 0.84, "4, labels in the clear": 0.75}
"""Measured before on 64 dimensions, clean features at inference."""


def measure(features: int, label: float | None) -> dict[str, object]:
    plan = privet.Plan.load(HERE / "feature_release.toml")
    plan = plan.with_settings([f"mechanisms.on_device.1.sigma={SIGMAS[features]}"])
    table = plan.to_table()
    table["training"].pop("label_epsilon")
    if label is not None:
        table["training"]["label_epsilon"] = label
    with tempfile.TemporaryDirectory() as folder:
        done = privet.run(privet.Plan.from_table(table), out=Path(folder) / "run").metrics
    return {
        "accuracy": done["accuracy"],
        "accuracy_with_noise": done["accuracy_with_noise"],
        "guarantees": done["guarantees"],
        "bytes_per_device": done["bytes_per_device"],
        "seconds": round(done["seconds"], 1),
        "plan_digest": done["plan_digest"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for features, label in POINTS:
        name = f"{features}, labels {'in the clear' if label is None else f'{label:g}'}"
        found[name] = measure(features, label)
        print(name, found[name]["accuracy"], found[name]["guarantees"][-1]["epsilon"], flush=True)
        figure = {
            "title": "Features released once by a fixed front: accuracy on clean features of the device",
            "points": "epsilon of the features, epsilon of the label; per record, replace-one, delta 1e-5, 1 release",
            "reference": REFERENCE,
            "measured": found,
            "words": "Rounds and epochs of the head are free: the edge server trains on the cached release. What "
            "anybody learns of a record, from the release or from the head, is bounded by the last guarantee.",
            "command": "python examples/private/feature_release.py",
        }
        FIGURE.write_text(json.dumps(figure, indent=1) + "\n")
