"""Six wrong claims and three right ones against the audit, seeds 1 to 5: docs/figures/refutation.json.

    python examples/refutation/check.py     about two minutes on one core

Wrong: the document's epsilon read as a record's, and private trainings with .8 of the noise, half of
it, no clipping, one noise for all steps, and shuffled batches where Poisson samples are claimed.
Right: the document's epsilon for a coordinate, and two private trainings that do what they say, one of
them by Privet's own code.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent
from trainings import Training

from privet.accounting import Guarantee, Sensitivity
from privet.accounting.accountants import guarantee
from privet.evidence.canaries import Steps, Sums, refute_training
from privet.evidence.claims import Refutation
from privet.evidence.observed_steps import observed_steps
from privet.evidence.worst_pair import refute_chain
from privet.mechanisms.bounded_normalisation import BoundedNormalisation
from privet.mechanisms.chain import Chain
from privet.mechanisms.laplace import Laplace
from privet.randomness import seeded
from privet.training.protocols.dp_sgd import DpSgd

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
SEEDS = (1, 2, 3, 4, 5)
DELTA = 1e-5
DOCUMENT = Chain((BoundedNormalisation(64, "batch"), Laplace(math.sqrt(63))))
"""Epsilon 2 a feature value: batches of 64, values within +-sqrt(63), noise of that scale."""
VALUES = 3920
RECORD = Sensitivity("record", "add-or-remove-one")
STEPS, RATE, NOISE, ROWS, CANARIES = 200, 0.1, 1.5, 1000, 4000
SMALL = Training(40, 0.1, 0.8)
CROWD = Steps(20, SMALL.rate, SMALL.noise_multiplier, 1.0)


def document(seed: int, unit: str) -> Refutation:
    """Returns the outcome for the document's chain: its epsilon 2 read for one coordinate or one record."""
    claimed = Guarantee("the document's epsilon", unit, "replace-one", 2.0, DELTA, 1, "pure")  # type: ignore[arg-type]
    sensitivity = Sensitivity(claimed.unit, "replace-one", dimension=VALUES)
    return refute_chain(DOCUMENT, sensitivity, claimed, rng=seeded(seed), trials=600)


def claim(steps: int, rate: float, noise: float) -> Guarantee:
    """Returns what DP-SGD derives."""
    event = PoissonSampledDpEvent(rate, GaussianDpEvent(noise))
    return guarantee("private training, one record", event, RECORD, DELTA, steps)


LONG, SHORT = claim(STEPS, RATE, NOISE), claim(SMALL.steps, SMALL.rate, SMALL.noise_multiplier)


def training(seed: int, sums: Sums) -> Refutation:
    """Returns the outcome of canaries side by side."""
    return refute_training(sums, Steps(ROWS, RATE, NOISE, 1.0), LONG, rng=seeded(seed), trials=CANARIES)


def crowd(seed: int, sums: Sums) -> Refutation:
    """Returns the outcome of one canary a run against a crowd."""
    return refute_training(sums, CROWD, SHORT, rng=seeded(seed), trials=600, crowd=True)


def right(**wrong: object) -> Training:
    """Returns the training that claims ``LONG``, wrong where it is said."""
    return Training(**{"steps": STEPS, "rate": RATE, "noise_multiplier": NOISE, **wrong})  # type: ignore[arg-type]


OWN = DpSgd(rounds=10, local_epochs=2, batch_size=100, noise_multiplier=NOISE, clipping_norm=1.0)
CASES: dict[str, tuple[bool, Callable[[int], Refutation]]] = {
    "the document's epsilon 2 read for a record": (True, lambda seed: document(seed, "record")),
    "noise x .8": (True, lambda seed: training(seed, right(noise_multiplier=0.8 * NOISE))),
    "noise halved": (True, lambda seed: training(seed, right(noise_multiplier=0.5 * NOISE))),
    "missing clipping": (True, lambda seed: training(seed, right(clips=False))),
    "noise added once": (True, lambda seed: training(seed, right(noise="the same"))),
    "shuffled batches, not Poisson samples": (
        True,
        lambda seed: crowd(seed, Training(SMALL.steps, SMALL.rate, SMALL.noise_multiplier, sampler="shuffled")),
    ),
    "right: the document's epsilon 2 for a coordinate": (False, lambda seed: document(seed, "coordinate")),
    "right: DP-SGD by Privet's own code": (False, lambda seed: training(seed, observed_steps(OWN, OWN.rounds))),
    "right: Poisson samples against a crowd": (False, lambda seed: crowd(seed, SMALL)),
}
"""By name: whether the claim is wrong, and the audit of one seed."""


def main() -> None:
    """Runs all cases and writes the table."""
    torch.set_num_threads(1)
    table, started = [], time.perf_counter()
    for name, (wrong, audit) in CASES.items():
        found = [audit(seed) for seed in SEEDS]
        row = {
            "case": name,
            "wrong": wrong,
            "claimed_epsilon": round(found[0].claimed_epsilon or 0.0, 3),
            "lower_bounds": [round(one.lower_bound, 2) for one in found],
            "refuted": [one.refuted for one in found],
            "as_it_should": all(one.refuted == wrong for one in found),
            "confidence": found[0].confidence,
            "trials": found[0].trials,
            "method": found[0].method,
        }
        table.append(row)
        print(f"{name}: claimed {row['claimed_epsilon']}, at least {row['lower_bounds']}, refuted {row['refuted']}")
    whole = {
        "command": "python examples/refutation/check.py",
        "seeds": list(SEEDS),
        "delta": DELTA,
        "seconds": round(time.perf_counter() - started, 1),
        "verdict": "as it should" if all(row["as_it_should"] for row in table) else "NOT as it should",
        "cases": table,
    }
    (FIGURES / "refutation.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(whole["verdict"])


if __name__ == "__main__":
    main()
