"""Multi-Krum of 100 updates of 160,000 values against one float64 Gram product of that size, in CPU time."""

from __future__ import annotations

import json
import statistics
import time

import torch

from privet.aggregation.multi_krum import MultiKrum

DEVICES, VALUES, PAIRS, GOAL = 100, 160_000, 9, 3.0


def main() -> None:
    """Prints the ratio as one JSON line."""
    torch.set_num_threads(1)  # the processor time of two threads counts their waiting for each other
    updates = torch.randn(DEVICES, VALUES, generator=torch.Generator().manual_seed(0))
    doubles, weights, rule = updates.double(), torch.ones(DEVICES), MultiKrum(byzantine=20)
    ratios = []
    for _ in range(PAIRS + 1):
        start = time.process_time()
        doubles @ doubles.T
        middle = time.process_time()
        rule.combine(updates, weights)
        ratios.append((time.process_time() - middle) / (middle - start))
    name = "multi-krum 100 x 160000 against one float64 Gram product"
    print(json.dumps({"name": name, "ratio": round(statistics.median(ratios[1:]), 3), "goal": GOAL}), flush=True)


if __name__ == "__main__":
    main()
