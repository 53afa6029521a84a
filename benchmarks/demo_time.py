"""The demo's wall time against the two minutes it may take on two cores."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from sys import executable

LIMIT = 120.0


def main() -> None:
    """Prints one line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(executable).with_name("privet")), "demo", "--out", f"{folder}/run"]
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds = time.perf_counter() - start
    name = "privet demo, wall time against two minutes"
    print(json.dumps({"name": name, "ratio": round(seconds / LIMIT, 3), "goal": 1.0, "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
