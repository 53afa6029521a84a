"""Refutes the document's epsilon as a claim about a whole record: docs/figures/paper_002_refutation.json.

    python examples/paper_002/refutation.py      seconds

Two records whose 3,920 normalised values lie at opposite ends of the interval pass the document's noise 600 times
each. The likelihood ratio says which of the two it was; how often it is right bounds every epsilon that could hold.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from privet.evidence.audit import clopper_pearson
from privet.mechanisms.laplace import Laplace
from privet.randomness import seeded

DATA = Path(__file__).parents[2] / "docs" / "figures" / "paper_002_refutation.json"
TRIALS, DIMENSION, BATCH = 600, 3920, 64
CLAIMS = (0.5, 1.0, 2.0)


def refute(claimed: float) -> dict[str, float | bool]:
    """Tests the claim that one release is ``claimed``-differentially private for a record."""
    edge = math.sqrt(BATCH - 1)
    noise, rng = Laplace(scale=2 * edge / claimed), seeded(1, "refutation")
    here, there = torch.full((TRIALS, DIMENSION), edge), torch.full((TRIALS, DIMENSION), -edge)

    def says_here(seen: torch.Tensor) -> int:
        return int((((seen - there).abs() - (seen - here).abs()).sum(1) > 0).sum())

    right, wrong = says_here(noise(here, rng)), says_here(noise(there, rng))
    least = clopper_pearson(right, TRIALS)[0]
    most = clopper_pearson(wrong, TRIALS)[1]
    bound = math.log(least / most)
    return {
        "claimed": claimed,
        "true positive rate": right / TRIALS,
        "false positive rate": wrong / TRIALS,
        "epsilon at least": round(bound, 2),
        "refuted": bound > claimed,
    }


if __name__ == "__main__":
    table = {
        "command": "python examples/paper_002/refutation.py",
        "trials on each side": TRIALS,
        "confidence": "one end of each of two Clopper-Pearson intervals of 95 %, which is 95 % together",
        "claims": [refute(claimed) for claimed in CLAIMS],
    }
    DATA.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
