"""How long ``privet --help`` takes from a cold process, against 0.3 s: nobody waits for a help page."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ALLOWED = 0.3
REPEATS = 7


def once() -> float:
    """Returns the seconds of wall time that one ``privet --help`` takes."""
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("privet"), "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Prints the median of some calls after one that warms the disk's cache."""
    once()
    seconds = statistics.median(once() for _ in range(REPEATS))
    row = {"name": "privet --help / 0.3 s", "ratio": seconds / ALLOWED, "goal": 1.0, "seconds": round(seconds, 3)}
    sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
