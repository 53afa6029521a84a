"""Peak memory of a federated round with 1,000 devices against one with 10, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import sys, torch
from benchmarks.engine import fleet_of
torch.set_num_threads(1)
coordinator, state, _ = fleet_of(int(sys.argv[1]), 6)
from privet.randomness import seeded
for _ in coordinator.rounds(state, 1, 2, seeded(1)):
    pass
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(devices: int) -> float:
    """Returns the peak memory in MB of a process that runs two rounds with so many devices."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(devices)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    """Prints one line of JSON."""
    few, many = peak(10), peak(1000)
    name = "peak memory, 1,000 devices against 10 (same data, LeNet, mean)"
    print(json.dumps({"name": name, "ratio": round(many / few, 3), "goal": 1.05, "MB": [round(few), round(many)]}))


if __name__ == "__main__":
    main()
