"""Secret keys in files that only their owner can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from privet.errors import InputError, RefusedError


def write_secret(path: Path, secret: bytes) -> None:
    """Writes a new file that only its owner can read, through to the disk.

    Raises:
        InputError: there is such a file already; a key is never written over.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise InputError(f"{path} is there already", do="take another folder; a key is never written over") from None
    with os.fdopen(number, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """Returns the bytes of a file that only its owner can read.

    Raises:
        InputError: there is no such file.
        RefusedError: others than its owner can read or write it, or it is a link.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing", do="bring the file back")
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) or stat.S_IMODE(mode) & 0o077:
        raise RefusedError(f"{path} can be read by others", allowed="mode 0600", do=f"run: chmod 600 {path}")
    return path.read_bytes()
