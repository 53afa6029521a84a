"""Robust rules on 100 updates of 160,000 values against one float64 Gram product of that size, in CPU time."""

from __future__ import annotations

import json
import statistics
import time

import torch

from privet.aggregation.bulyan import Bulyan
from privet.aggregation.centred_clipping import CentredClipping
from privet.aggregation.contract import Aggregator, Circumstances
from privet.aggregation.coordinate_median import CoordinateMedian
from privet.aggregation.fltrust import Fltrust
from privet.aggregation.foolsgold import Foolsgold
from privet.aggregation.krum import Krum
from privet.aggregation.multi_krum import MultiKrum
from privet.aggregation.nnm import Nnm
from privet.aggregation.norm_bound import NormBound
from privet.aggregation.rfa import Rfa
from privet.aggregation.trimmed_mean import TrimmedMean
from privet.parts import name_of

DEVICES, VALUES, PAIRS, HOSTILE, GOAL = 100, 160_000, 5, 20, 5.0
RULES: tuple[Aggregator, ...] = (
    Krum(HOSTILE),
    CoordinateMedian(),
    TrimmedMean(HOSTILE),
    Rfa(),
    CentredClipping(),
    NormBound(),
    Fltrust(),
    Nnm(HOSTILE, TrimmedMean(HOSTILE)),
    Nnm(HOSTILE, MultiKrum(HOSTILE)),
    Bulyan(HOSTILE),
    Foolsgold(),
)
SLOWER = {"nnm + multi-krum": (7.0, "makes three products of that size: distances, the mixing, distances again")}
"""Rules known to be slower: their goal, and why."""


def main() -> None:
    """Prints one JSON line a rule."""
    torch.set_num_threads(1)  # the processor time of two threads counts their waiting for each other
    updates = torch.randn(DEVICES, VALUES, generator=torch.Generator().manual_seed(0))
    doubles, weights = updates.double(), torch.ones(DEVICES)
    around = Circumstances(tuple(f"device-{number:03d}" for number in range(DEVICES)), trusted=updates[0])
    for rule in RULES:
        ratios = []
        for _ in range(PAIRS + 1):
            start = time.process_time()
            doubles @ doubles.T
            middle = time.process_time()
            rule.combine(updates, weights, around)
            ratios.append((time.process_time() - middle) / (middle - start))
        name = name_of(rule) + (f" + {name_of(rule.inner)}" if isinstance(rule, Nnm) else "")
        goal, why = SLOWER.get(name, (GOAL, ""))
        what = f"{name} 100 x 160000 against one float64 Gram product"
        row = {"name": what, "ratio": round(statistics.median(ratios[1:]), 3), "goal": goal}
        print(json.dumps(row | ({"slower because it": why} if why else {})), flush=True)


if __name__ == "__main__":
    main()
