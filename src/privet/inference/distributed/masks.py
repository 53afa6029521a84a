"""Masks that are used once: uniform numbers derived from a key by a counter that only goes up, also over restarts.

A folder has ``masks.key`` and ``masks.next``. The counter reaches the disk before a number is given out, so a number
that was given out is never given out again, even after a power cut; what was given out and not used is lost, and that
is all. Somebody who puts an old copy of the folder back can't be noticed from the folder alone: helpers remember the
highest number that they saw (:meth:`Masks.refuse_older`).

AES-256 in counter mode; the first 10 bytes of the counter block are number and layer, so no two streams overlap.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from privet.errors import InputError, RefusedError
from privet.inference.distributed.fixed_point import Ring
from privet.ledger.sign_state import DurableFile
from privet.transport.key_files import read_secret, write_secret

KEY_FILE, NEXT_FILE, LOCK_FILE = "masks.key", "masks.next", "masks.lock"
_SPARE = 16
_MOST = 1 << 63


class Masks:
    """The masks of one source; one process at a time.

    Args:
        folder: where key and counter are, made when absent.

    Attributes:
        name: names the key without telling it, 16 letters.

    Raises:
        InputError: a file is missing or damaged.
        RefusedError: others can read the key, the counter is not there any more, or another process has the folder.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (folder / LOCK_FILE).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RefusedError(f"another process uses the masks in {folder}", do="let it end, or stop it") from None
        try:
            self._open(folder)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, folder: Path) -> None:
        self._file, self._guard = DurableFile(folder / NEXT_FILE), threading.Lock()
        fresh = not (folder / KEY_FILE).exists()
        if fresh:
            if self._file.read() is not None:
                raise InputError(f"{folder / KEY_FILE} is missing", do="bring it back, or take another folder")
            write_secret(folder / KEY_FILE, os.urandom(32))
        self._key = read_secret(folder / KEY_FILE)
        if len(self._key) != 32:
            raise InputError(f"{folder / KEY_FILE} is damaged", do="bring it back, or take another folder")
        self.name = hashlib.sha256(b"privet masks" + self._key).hexdigest()[:16]
        if fresh:
            self._write(0)
        self._next = self._read()

    def __repr__(self) -> str:
        return f"Masks({self.name}, next {self._next})"

    @property
    def next(self) -> int:
        """The number that comes next."""
        return self._next

    def take(self, count: int) -> int:
        """Returns the first of ``count`` new numbers, once the disk knows that they are gone.

        Raises:
            RefusedError: the counter on disk went back.
            OSError: it could not be written.
        """
        with self._guard:
            first = self._read()
            if first < self._next:
                raise RefusedError(f"the mask counter went back from {self._next} to {first}", do="make a new folder")
            if not 0 < count < _MOST - first:
                raise InputError(f"{count} masks", allowed="1 or more")
            self._write(first + count)
            self._next = first + count
            return first

    def refuse_older(self, seen: int, witness: str) -> None:
        """Refuses to go on when somebody saw a number that is yet to be given out.

        Args:
            seen: the highest number that a helper has seen with this key; -1 for none.
            witness: who.

        Raises:
            RefusedError: the counter went back, such as in an old copy of the folder.
        """
        if seen >= self._next:
            raise RefusedError(
                f"the mask counter went back: it is at {self._next}, {witness} has seen {seen}", do="make a new folder"
            )

    def mask(self, number: int, layer: int, shape: tuple[int, ...], ring: Ring) -> Tensor:
        """Returns a mask, uniform in the ring, int64; the same whenever it is asked for.

        Args:
            number: from :meth:`take`.
            layer: which layer of the network, below 65536.
            shape: of the mask.
            ring: its values.

        Raises:
            RefusedError: the number was not given out.
        """
        if not 0 <= number < self._next:
            raise RefusedError(f"mask {number} was not given out", allowed=f"numbers below {self._next}")
        size = int(np.prod(shape))
        begin = number.to_bytes(8, "big") + layer.to_bytes(2, "big") + bytes(6)
        stream = Cipher(algorithms.AES(self._key), modes.CTR(begin)).encryptor()
        words = np.zeros(0, dtype=np.uint32)
        while len(words) < size:  # what lies above the modulus is left out: 5 of 2^32
            drawn = np.frombuffer(stream.update(bytes(4 * (size - len(words) + _SPARE))), dtype="<u4")
            words = np.concatenate((words, drawn[drawn < ring.modulus]))
        return torch.from_numpy(words[:size].astype(np.int64)).reshape(shape)

    def close(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()

    def _write(self, value: int) -> None:
        told = bytes.fromhex(self.name) + value.to_bytes(8, "big")
        self._file.write(told + hashlib.sha256(told).digest())

    def _read(self) -> int:
        data = self._file.read()
        if data is None:
            raise RefusedError(
                "the mask counter is gone, so which masks were used is not known", do="make a new folder"
            )
        told, digest = data[:16], data[16:]
        if hashlib.sha256(told).digest() != digest or told[:8].hex() != self.name:
            raise RefusedError("the mask counter is damaged, or of another key", do="make a new folder")
        return int.from_bytes(told[8:], "big")
