"""Runs every benchmark of this folder, one after the other, and sets the ratios beside the goals.

A benchmark is one file here. It prints JSON lines ``{"name": ..., "ratio": ..., "goal": ...}``, where a
ratio at or below its goal meets it; any other key is shown as a note. ``python -m benchmarks engine``
runs only ``engine.py``. The exit status is 1 when a benchmark did not run to its end; a missed goal
is shown, because the machine may be busy with something else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent


def measure(name: str) -> list[dict[str, Any]]:
    """Runs one benchmark and returns its rows; a benchmark that fails is one row without a ratio."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent, stdout=subprocess.PIPE, text=True, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return rows if done.returncode == 0 and rows else [*rows, {"name": f"{name} (exit {done.returncode})"}]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the rows as a table."""
    table = Table("what", "ratio", "goal", "", "notes")
    for row in rows:
        notes = ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("name", "ratio", "goal"))
        if "ratio" not in row:
            table.add_row(row["name"], "-", "-", "did not finish", notes)
            continue
        verdict = "met" if row["ratio"] <= row["goal"] else "MISSED"
        table.add_row(row["name"], f"{row['ratio']:.2f}", f"<= {row['goal']:.2f}", verdict, notes)
    console.print(table)


def main() -> int:
    """Runs the benchmarks named on the command line, or all."""
    found = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    wanted = sys.argv[1:] or found
    if unknown := sorted(set(wanted) - set(found)):
        sys.stderr.write(f"no benchmark called {', '.join(unknown)}; there are: {', '.join(found)}\n")
        return 2
    rows = []
    for name in wanted:
        sys.stderr.write(f"{name} ...\n")
        rows += measure(name)
    show(rows, Console(width=None if sys.stdout.isatty() else 140))
    return 0 if all("ratio" in row for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
