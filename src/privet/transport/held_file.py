"""A file by which processes of one machine keep each other out; the hold ends with the process, however that ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privet.errors import PrivetError

_LOOK = 0.02


@contextmanager
def held(path: Path, refusal: PrivetError, patience: float = 0.0) -> Iterator[None]:
    """Runs a block while nobody else holds a file.

    Args:
        path: the file, made when absent.
        refusal: what is raised when somebody else holds it.
        patience: seconds for which to try again before that.
    """
    until = time.monotonic() + patience
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise refusal from None
            time.sleep(_LOOK)
        yield
