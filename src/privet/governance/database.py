"""SQLite as fleets and agents keep what must survive a power cut."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.errors import RunError


@contextmanager
def opened(path: Path, do: str) -> Iterator[sqlite3.Connection]:
    """Yields a connection that writes through to the disk and commits each statement; closed afterwards.

    Args:
        path: the file, made when absent; several processes may hold it at once.
        do: what to do when it can't be used.

    Raises:
        RunError: the file is damaged, or the disk is full.
    """
    try:
        database = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            yield database
        finally:
            database.close()
    except sqlite3.OperationalError as error:  # the disk is full, the folder can't be written, somebody holds the file
        raise RunError(f"{path} can't be used ({error})", do="make room or rights there, and try again") from None
    except sqlite3.DatabaseError as error:
        raise RunError(f"{path} can't be used ({error})", do=do) from None
