"""A miner's epoch secrets: made, kept while the epoch lasts, erased.

Once an epoch's secrets are gone from every miner, what was sealed in it can't be opened by who later takes a miner
over. What erasing can't promise: a journaling or copy-on-write file system, a flash disk, a backup or a snapshot can
keep old blocks after the file was overwritten, and Python can hold copies of bytes in memory until that memory is used
again. Where this matters, keep the folder in memory (tmpfs) or on an encrypted disk whose key is thrown away, and have
no swap.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privet.errors import InputError, RunError
from privet.transport.durable import sync_folder


def epoch_pair() -> tuple[bytes, bytes]:
    """Returns a new (secret, public) X25519 pair of a miner for one epoch, 32 bytes each."""
    pair = X25519PrivateKey.generate()
    return pair.private_bytes_raw(), pair.public_key().public_bytes_raw()


def usable(public: bytes) -> bool:
    """Returns whether content can be wrapped for an epoch key: 32 bytes, no point of small order.

    Registration must ask this; otherwise one miner's key stops every customer from sealing.
    """
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def public_of(epoch_secret: bytes) -> bytes:
    """Returns the public key of an epoch secret.

    Raises:
        InputError: the secret is not 32 bytes long.
    """
    if len(epoch_secret) != 32:
        raise InputError(f"an epoch secret of {len(epoch_secret)} bytes", allowed="32")
    return X25519PrivateKey.from_private_bytes(epoch_secret).public_key().public_bytes_raw()


class EpochKeys:
    """The secrets of one miner, by epoch.

    Args:
        folder: where each secret is a file ``epoch-N.key`` of mode 0600; made when it is missing, with mode 0700.
            None keeps them in memory, and a restarted miner then can't open what was sealed for it before.

    Raises:
        RunError: a secret in the folder is damaged, or others may read it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._secrets: dict[int, bytearray] = {}
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in folder.glob("epoch-*.key.part"):
                self._erase(part)  # of a crash before its public key was given away
            for path in folder.glob("epoch-*.key"):
                self._load(path)

    @property
    def epochs(self) -> list[int]:
        """The epochs whose secrets are held, rising."""
        return sorted(self._secrets)

    def begin(self, epoch: int) -> bytes:
        """Returns the public key of an epoch, the same each time; its secret is on the disk before.

        Raises:
            InputError: the epoch is negative.
        """
        if epoch < 0:
            raise InputError(f"epoch {epoch}", allowed="0, 1, ...")
        if epoch not in self._secrets:
            secret = bytearray(epoch_pair()[0])
            if self.folder is not None:
                self._write(self._path(self.folder, epoch), secret)
            self._secrets[epoch] = secret
        return public_of(bytes(self._secrets[epoch]))

    def secret(self, public: bytes) -> bytes:
        """Returns the secret of an epoch public key.

        Raises:
            InputError: it is not held: of another miner, or erased.
        """
        for secret in list(self._secrets.values()):  # another thread may begin or end an epoch meanwhile
            if public_of(bytes(secret)) == public:
                return bytes(secret)
        raise InputError(f"no secret for epoch key {public.hex()[:16]}", allowed="those of epochs that are not over")

    def end(self, epoch: int) -> None:
        """Erases the secrets of this epoch and all before it: overwritten, synced, removed."""
        for old in [held for held in self._secrets if held <= epoch]:
            if self.folder is not None:
                self._erase(self._path(self.folder, old))
            secret = self._secrets.pop(old)
            secret[:] = bytes(len(secret))

    @staticmethod
    def _path(folder: Path, epoch: int) -> Path:
        return folder / f"epoch-{epoch}.key"

    def _load(self, path: Path) -> None:
        number, secret = path.stem.removeprefix("epoch-"), path.read_bytes()
        if not (number.isascii() and number.isdigit() and number == str(int(number))) or len(secret) != 32:
            raise RunError(f"{path} holds no epoch secret", do="remove it; what was sealed for it needs another miner")
        if secret == bytes(32):
            self._erase(path)  # a crash came between overwriting and removing
            return
        if path.stat().st_mode & 0o077:
            raise RunError(f"others may read {path}", do=f"run: chmod 600 {path}, and begin a new epoch")
        self._secrets[int(number)] = bytearray(secret)

    @staticmethod
    def _write(path: Path, secret: bytearray) -> None:
        part = path.with_name(path.name + ".part")
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)

    @staticmethod
    def _erase(path: Path) -> None:
        with path.open("r+b") as file:
            file.write(bytes(32))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)
