"""What a device released for an input, so that it is repeated and never drawn again."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from privet.errors import InputError, RefusedError, RunError
from privet.governance.database import opened

_MOST = 100_000
_DO = "restore the file; without it, what was released would be drawn again"


class Memo:
    """Releases by input, in a file that survives crashes.

    Inputs are named by a digest that is keyed with a secret of the device, so that whoever has the file and guesses an
    input can't confirm it. A release stands in the file before anybody gets it; where two processes draw at once,
    both get the one that was written first. A memo that is full refuses: forgetting would mean to draw again.

    Args:
        path: the file; made when absent.
        secret: 32 bytes or more, of this device, the same for as long as the file is used.
        most: how many inputs it holds.

    Raises:
        InputError: the secret is too short.
        RunError: the file is damaged, or it is none that :meth:`found` made, as one that was emptied.
    """

    def __init__(self, path: Path, secret: bytes, most: int = _MOST) -> None:
        if len(secret) < 32:
            raise InputError(f"a secret of {len(secret)} bytes", allowed="32 or more, from the operating system")
        self._path, self._secret, self._most = path, secret, most
        if not path.exists():
            self.found(path)
        with opened(path, _DO) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables != {"released", "noted"}:
            raise RunError(f"{path} holds no releases", do=_DO)

    @staticmethod
    def found(path: Path) -> None:
        """Makes an empty memo at once and whole; one that is there stays as it is."""
        fresh = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            with opened(fresh, _DO) as database:
                database.execute("CREATE TABLE released (input BLOB PRIMARY KEY, what BLOB NOT NULL)")
                database.execute("CREATE TABLE noted (name TEXT PRIMARY KEY, what TEXT NOT NULL)")
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(fresh)
        finally:
            fresh.unlink(missing_ok=True)

    def note(self, name: str, what: str) -> None:
        """Keeps a word about something else that must not get lost; the last one of that name."""
        with opened(self._path, _DO) as database:
            database.execute("INSERT OR REPLACE INTO noted VALUES (?, ?)", (name, what))

    def noted(self, name: str) -> str:
        """Returns the word that was kept last, or ""."""
        with opened(self._path, _DO) as database:
            found = database.execute("SELECT what FROM noted WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def name(self, sample: Tensor) -> str:
        """Returns the name of an input: the keyed digest of its shape and its bytes, 64 hexadecimal digits."""
        data = _bytes(sample)
        return hmac.new(self._secret, f"{tuple(sample.shape)}:".encode() + data, hashlib.sha256).hexdigest()

    def check_room(self, names: Iterable[str]) -> None:
        """Refuses inputs, by :meth:`name`, for which there would be no room.

        Raises:
            RefusedError: the memo can't take all that are new.
            RunError: the file is damaged.
        """
        wanted = {bytes.fromhex(name) for name in names}
        with opened(self._path, _DO) as database:
            count = database.execute("SELECT count(*) FROM released").fetchone()[0]
            known = sum(
                database.execute("SELECT 1 FROM released WHERE input = ?", (name,)).fetchone() is not None
                for name in wanted
            )
        if count + len(wanted) - known > self._most:
            raise self._full()

    def once(self, sample: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Returns what was released for an input; draws it, and writes it down, if nothing was.

        Args:
            sample: one input, of any shape.
            draw: makes a release of the input's shape, float32.

        Raises:
            RefusedError: the memo is full; nothing was drawn.
            InputError: what was drawn is of another shape.
            RunError: the file is damaged.
        """
        name = bytes.fromhex(self.name(sample))
        with opened(self._path, _DO) as database:
            found = database.execute("SELECT what FROM released WHERE input = ?", (name,)).fetchone()
            if found is None:
                if database.execute("SELECT count(*) FROM released").fetchone()[0] >= self._most:
                    raise self._full()
                drawn = draw()
                if drawn.shape != sample.shape:
                    raise InputError(f"a release of shape {tuple(drawn.shape)}", allowed=str(tuple(sample.shape)))
                database.execute("INSERT OR IGNORE INTO released VALUES (?, ?)", (name, _bytes(drawn)))
                found = database.execute("SELECT what FROM released WHERE input = ?", (name,)).fetchone()
        return torch.from_numpy(np.frombuffer(found[0], "<f4").copy()).reshape(sample.shape)

    def _full(self) -> RefusedError:
        return RefusedError(
            f"{self._path} is full",
            allowed=f"{self._most:,} inputs",
            do="answer on the device; what it released stays kept",
        )

    def __len__(self) -> int:
        with opened(self._path, _DO) as database:
            return int(database.execute("SELECT count(*) FROM released").fetchone()[0])


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()
