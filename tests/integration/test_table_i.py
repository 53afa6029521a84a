"""The script that measures Table I again, small: it measures, writes, and does not measure again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def ran(out: Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / "paper_001" / "table_i.py"), "--quick", "--out", str(out)]
    around = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=around).stdout


def test_two_small_rows_leak_more_than_the_table_says_and_are_kept(tmp_path: Path) -> None:
    first = ran(tmp_path)
    table = json.loads((tmp_path / "paper_001_table_i.json").read_text(encoding="utf-8"))
    assert list(table["rows"]) == ["MNIST Conv1: 1 of 8", "MNIST Conv2: 1 of 16"]
    for row in table["rows"].values():
        blind = max(value for key, value in row["floor"].items() if key.startswith("ssim") and "95" not in key)
        assert row["metrics"]["ssim_low"] > blind + 0.1
        assert row["metrics"]["label_accuracy_low"] > row["floor"]["label_accuracy"] + 0.2
    assert "<svg" in (tmp_path / "paper_001_table_i.svg").read_text(encoding="utf-8")
    again = ran(tmp_path)
    assert first.endswith(again)  # the verdicts only: nothing was measured
    assert json.loads((tmp_path / "paper_001_table_i.json").read_text(encoding="utf-8")) == table
