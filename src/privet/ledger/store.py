"""The chain's file: SQLite, written ahead and synced to the disk before a block counts as stored.

A file that was closed in order has its sha256 beside it, in ``chain.sha256``, so that a change of bytes that belong to
no row is noticed, too; while somebody writes, and after a crash, there is none.

Two tables: ``blocks`` (the genesis at height 0) and ``transactions``, an index from a
transaction's id to where it stands.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from privet.errors import RunError
from privet.transport.durable import sync_folder

SCHEMA = (
    "CREATE TABLE blocks (height INTEGER PRIMARY KEY, block BLOB NOT NULL, certificate BLOB NOT NULL) STRICT",
    "CREATE TABLE transactions (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
"""What the file holds; one that holds anything else is refused."""


class Store:
    """Blocks on disk, in order.

    Args:
        path: the file.
        write: whether to write; then it is made when absent, and nobody else may write.

    Raises:
        RunError: it is no file of a chain, or damaged.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self._write = write
        self._sum = path.with_suffix(".sha256")
        self._log = path.with_name(path.name + "-wal")
        # Without a log beside it nobody writes: then even a folder that is not writable can be read.
        mode = "mode=rwc" if write else "mode=ro" if self._log.exists() else "mode=ro&immutable=1"
        if write:
            self._sum.unlink(missing_ok=True)
            sync_folder(path.parent)
        with self._guarded():
            self._file = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None, timeout=1)
            if write:
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.execute("PRAGMA synchronous=FULL")
                self._file.execute("BEGIN IMMEDIATE")
                if not self._schema():
                    for statement in SCHEMA:
                        self._file.execute(statement)
                self._file.execute("COMMIT")
        if self._schema() != sorted(SCHEMA):
            raise self._damaged("its tables are not those of a chain")

    def base(self) -> int:
        """Returns the height of the first block after the genesis, or 0 when there is none."""
        with self._guarded():
            found = self._file.execute("SELECT min(height) FROM blocks WHERE height > 0").fetchone()[0]
        return found or 0

    def append(self, height: int, block: bytes, certificate: bytes, ids: Sequence[bytes]) -> None:
        """Writes one block with its index through to the disk, or nothing."""
        with self._guarded():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.execute("INSERT INTO blocks VALUES (?, ?, ?)", (height, block, certificate))
                rows = [(each, height, position) for position, each in enumerate(ids)]
                self._file.executemany("INSERT INTO transactions VALUES (?, ?, ?)", rows)
                self._file.execute("COMMIT")
            except BaseException:
                self._file.execute("ROLLBACK")
                raise

    def block(self, height: int) -> tuple[bytes, bytes] | None:
        """Returns the bytes of a block and of its certificate; None when there is none of this height."""
        with self._guarded():
            query = "SELECT block, certificate FROM blocks WHERE height = ?"
            row = self._file.execute(query, (height,)).fetchone()
        return None if row is None else (row[0], row[1])

    def place(self, id: bytes) -> tuple[int, int] | None:
        """Returns height and position of a transaction; None when the index has none of this id."""
        with self._guarded():
            query = "SELECT height, position FROM transactions WHERE id = ?"
            row = self._file.execute(query, (id,)).fetchone()
        return None if row is None else (row[0], row[1])

    def counts(self) -> tuple[int, int]:
        """Returns how many blocks (with the genesis) and how many transactions of the index there are."""
        with self._guarded():
            blocks = self._file.execute("SELECT count(*) FROM blocks NOT INDEXED").fetchone()[0]
            return blocks, self._file.execute("SELECT count(*) FROM transactions").fetchone()[0]

    def check(self) -> None:
        """Checks the structure of the whole file.

        Raises:
            RunError: SQLite finds it damaged, or its sha256 is another than when it was closed.
        """
        with self._guarded():
            found = self._file.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise self._damaged(found.splitlines()[0])
        if self._sum.exists() and not self._log.exists() and self._sum.read_bytes() != self._digest():
            raise self._damaged(f"it is not what {self._sum.name} says; the bytes belong to no block")

    def close(self) -> None:
        """Closes the file; the last to close it writes the log back, and a writer then the file's sha256."""
        self._file.close()
        if self._write and not self._log.exists():
            with self._sum.open("wb") as file:
                file.write(self._digest())
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.path.parent)

    def _digest(self) -> bytes:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().encode() + b"\n"

    def _schema(self) -> list[str]:
        with self._guarded():
            return sorted(row[0] for row in self._file.execute("SELECT coalesce(sql, name) FROM sqlite_master"))

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            if "locked" in str(error):
                raise RunError(f"another process writes {self.path.name}", do="let it end, or stop it") from None
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> RunError:
        return RunError(f"{self.path.name} is damaged: {why}", do="restore it, or fetch the chain again from a miner")
