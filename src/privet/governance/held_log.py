"""A log of records that one process at a time holds."""

from __future__ import annotations

import fcntl
from pathlib import Path

from privet.errors import RefusedError
from privet.ledger import Log


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
