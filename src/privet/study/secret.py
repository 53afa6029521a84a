"""The secret of a run in progress, from which noise that must be drawn again exactly is derived.

It lies in the run's folder, readable by its owner only, while the run trains, and is deleted when training
is over: then nobody can draw that noise again. Whoever reads it before can subtract the noise of the run.
"""

from __future__ import annotations

import os
from pathlib import Path

from privet.errors import RunError

_NAME, _SIZE = "secret.key", 32


def keep_secret(folder: Path, secret: bytes, *, begun: bool) -> None:
    """Writes the secret of a run that is about to train, unless the same one is there.

    Args:
        folder: of the run.
        secret: 32 bytes.
        begun: whether rounds were done before.

    Raises:
        RunError: rounds were done, and their secret is not there: their noise can't be carried on.
    """
    path = folder / _NAME
    if path.is_file():
        return
    if begun:
        raise RunError(
            f"{path} is missing, so the noise of the rounds so far can't be carried on", do="start the run again"
        )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())


def read_secret(folder: Path) -> bytes | None:
    """Returns the secret of an interrupted run, or None where there is none.

    Raises:
        RunError: the file is damaged, or others may read it.
    """
    path = folder / _NAME
    if not path.is_file():
        return None
    if path.stat().st_mode & 0o077:
        raise RunError(f"others may read {path}", allowed="mode 600", do="start the run again: its noise may be known")
    secret = path.read_bytes()
    if len(secret) != _SIZE:
        raise RunError(f"{path} is damaged", allowed=f"{_SIZE} bytes", do="start the run again")
    return secret


def forget_secret(folder: Path) -> None:
    """Deletes the secret once training is over."""
    (folder / _NAME).unlink(missing_ok=True)
