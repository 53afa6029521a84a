"""What an agent keeps between its processes: settings and rounds, in SQLite, written through to the disk."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from privet.governance.database import opened

_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    release TEXT PRIMARY KEY, round INTEGER NOT NULL, rounds INTEGER NOT NULL, at REAL NOT NULL
) STRICT;
"""


class State:
    """The file ``agent.db`` of a device; several processes may hold it at once.

    Args:
        folder: of the device.

    Raises:
        RunError: the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent.db"
        with self._open() as database:
            database.executescript(_SCHEMA)
        self.path.chmod(0o600)

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return opened(self.path, "free the disk, or join again")

    def settings(self) -> dict[str, Any]:
        """Returns what was kept by :meth:`keep`."""
        with self._open() as database:
            return {key: json.loads(value) for key, value in database.execute("SELECT key, value FROM settings")}

    def keep(self, **settings: Any) -> None:
        """Keeps settings, JSON values, all or none."""
        rows = [(key, json.dumps(value)) for key, value in settings.items()]
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
            database.execute("COMMIT")

    def begun(self, release: str) -> tuple[int, int] | None:
        """Returns the last round of a run that this device took part in, and how many rounds it was said to have."""
        with self._open() as database:
            found = database.execute("SELECT round, rounds FROM rounds WHERE release = ?", (release,)).fetchone()
        return (int(found[0]), int(found[1])) if found else None

    def begin(self, release: str, round: int, rounds: int) -> None:
        """Keeps which round of a run is begun."""
        with self._open() as database:
            insert = "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)"
            database.execute(insert, (release, round, rounds, time.time()))

    def runs(self) -> list[dict[str, Any]]:
        """Returns the runs that this device took part in, latest first."""
        with self._open() as database:
            rows = database.execute("SELECT release, round, rounds, at FROM rounds ORDER BY at DESC").fetchall()
        return [dict(zip(("release", "round", "rounds", "at"), row, strict=True)) for row in rows]
