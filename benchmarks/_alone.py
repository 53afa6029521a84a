"""The same schedule as benchmarks/_flower_simulation.py on the engine in this process."""

from __future__ import annotations

import sys

import torch

from benchmarks.engine import fleet_of
from privet.randomness import seeded


def main() -> None:
    """Runs ``python -m benchmarks._alone DEVICES ROWS ROUNDS``."""
    torch.set_num_threads(1)
    devices, rows, rounds = (int(one) for one in sys.argv[1:])
    coordinator, state, _ = fleet_of(devices, rows)
    for done in coordinator.rounds(state, 1, rounds, seeded(1)):
        if done.replies != devices:
            raise RuntimeError(f"{done.replies} replies")


if __name__ == "__main__":
    main()
