"""A log of records that one process at a time holds, and books of budgets that are kept in one."""

from __future__ import annotations

import fcntl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from privet.errors import RefusedError, RunError
from privet.ledger import Log, Record

Kind = TypeVar("Kind")


class HeldLog(Log):
    """A log that nobody else can open before this process closes it or ends, however that happens.

    Args:
        path: the log; made when absent, verified when there. Beside it lies a file that is locked.

    Raises:
        RunError: a record was changed, removed, inserted or reordered.
        RefusedError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = path.with_name(path.name + ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            super().__init__(path)
        except BlockingIOError:
            self._lock.close()
            raise RefusedError(f"another process spends from {path}", do="wait until it is done") from None
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Lets other processes hold the log."""
        self._lock.close()


class HeldBook(ABC, Generic[Kind]):
    """Budgets and what was spent of them, as the records of a log say; replayed when it is opened.

    Args:
        path: the log of records; made when absent, replayed and verified when there.
        budgets: to open; one that is open already must be the same.
        mark: of the book as it was last seen, where somebody kept that.

    Raises:
        RunError: a record was changed, removed, inserted or reordered, or the book has lost records since the mark.
        RefusedError: a budget is open with other figures, or another process holds the book.
    """

    def __init__(self, path: Path, budgets: Sequence[Kind], mark: str = "") -> None:
        self._log = HeldLog(path)
        try:
            number = int(mark.partition(" ")[0] or 0)
            if mark and mark not in map(_mark, self._log.records[number : number + 1]):
                raise RunError(f"{path} has lost records: what was spent can't be told", do="restore the file")
            for record in self._log.records:
                self._replay(record.kind, record.body)
            for budget in budgets:
                self.open(budget)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def mark(self) -> str:
        """The number and the hash of the last record; whoever keeps it can tell when records get lost at the end."""
        return _mark(self._log.records[-1]) if self._log.records else ""

    def close(self) -> None:
        """Lets other processes hold the book."""
        self._log.close()

    @abstractmethod
    def open(self, budget: Kind) -> None:
        """Records a budget; opening the same one again changes nothing."""

    def _record(self, kind: str, body: dict[str, Any]) -> None:
        self._log.append(kind, body)
        self._replay(kind, body)

    @abstractmethod
    def _replay(self, kind: str, body: dict[str, Any]) -> None:
        """Counts a record."""


def _mark(record: Record) -> str:
    return f"{record.index} {record.hash}"
