"""Epsilon of 10,000 heterogeneous steps against 2 s of processor time, all accountants together."""

from __future__ import annotations

import json
import time

import numpy as np
from dp_accounting.dp_event import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
)

from privet.accounting.accountants import epsilon

STEPS, ALLOWED, DELTA = 10_000, 2.0, 1e-5


def compositions() -> dict[str, list[DpEvent]]:
    """Returns 10,000 steps of several kinds, by name."""
    draw = np.random.default_rng(0)
    few = np.geomspace(20, 200, 100)[draw.integers(100, size=STEPS)]
    many = draw.uniform(20, 200, STEPS)
    sampled = draw.uniform(1, 4, STEPS)
    kinds = (GaussianDpEvent, LaplaceDpEvent)
    return {
        "Gaussian and Laplace of 100 noises": [kinds[n % 2](float(noise)) for n, noise in enumerate(few)],
        "Laplace of 10,000 noises": [LaplaceDpEvent(float(noise)) for noise in many],
        "Gaussian of 10,000 noises": [GaussianDpEvent(float(noise)) for noise in many],
        "sampled Gaussian of 10,000 noises": [
            PoissonSampledDpEvent(0.01, GaussianDpEvent(float(noise))) for noise in sampled
        ],
    }


def main() -> None:
    """Prints one line of JSON for each composition."""
    epsilon(LaplaceDpEvent(1.0), DELTA)
    for name, steps in compositions().items():
        start = time.process_time()
        figure, accountant = epsilon(ComposedDpEvent(steps), DELTA)
        seconds = time.process_time() - start
        row = {"name": f"epsilon of 10,000 steps / 2 s: {name}", "ratio": round(seconds / ALLOWED, 3), "goal": 1.0}
        print(json.dumps(row | {"epsilon": round(figure, 4), "by": accountant}), flush=True)


if __name__ == "__main__":
    main()
