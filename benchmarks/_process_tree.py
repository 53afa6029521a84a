"""CPU time and memory of a process and of all that it starts, also of what hides in sessions of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_BECOME_PARENT_OF_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of Linux
_TICKS = os.sysconf("SC_CLK_TCK")
LOOK = 0.25
"""Seconds between two looks; what a process does after the last look before its end is missed."""


class Tree:
    """Everything that this process starts while a block runs.

    Attributes:
        seconds: CPU time of all of it.
        megabytes: most memory of all of it at one look, with what processes share divided among them.
    """

    def __init__(self) -> None:
        self.seconds, self.megabytes = 0.0, 0.0
        self._over, self._spent, self._others = threading.Event(), dict[int, int](), set[int]()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Tree:
        ctypes.CDLL(None).prctl(_BECOME_PARENT_OF_ORPHANS, 1)
        self._others = set(_below(os.getpid()))
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self.seconds = sum(self._spent.values()) / _TICKS
        for pid in _below(os.getpid()):
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.wait(LOOK)
            held = 0
            for pid, ticks in _below(os.getpid()).items():
                if pid in self._others:
                    continue
                self._spent[pid] = ticks
                with suppress(OSError):
                    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                    held += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
            self.megabytes = max(self.megabytes, held / 1024)


def measured(command: Sequence[str | Path], patience: float = 600.0) -> tuple[float, float, float]:
    """Runs a command of one thread a process; returns CPU seconds, MB and seconds.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    started = time.monotonic()
    with Tree() as tree:
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, **quiet, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=patience,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    return tree.seconds, tree.megabytes, time.monotonic() - started


def _below(root: int) -> dict[int, int]:
    """Returns the clock ticks that each descendant of a process has used."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                fields = (path / "stat").read_text().rpartition(") ")[2].split()
                parents[int(path.name)], ticks[int(path.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    below, found = {root}, True
    while found:
        found = {pid for pid, parent in parents.items() if parent in below and pid not in below}
        below |= found
    return {pid: ticks[pid] for pid in below if pid != root}
