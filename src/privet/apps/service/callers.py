"""Who may ask: holders of certificates of the fleet's authority, and over HTTPS holders of tokens.

A token has 256 bits of the operating system's randomness. The file keeps its sha256 and the caller's name, so who reads
the file can't ask; so many bits can't be guessed from a hash, and nothing is gained from the time that a look-up takes.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import secrets
import ssl
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from privet.errors import InputError
from privet.transport.certificates import name_in
from privet.transport.contract import Peer
from privet.transport.key_files import read_secret

DEVICE, CLIENT = "device", "client"
ROLES = (DEVICE, CLIENT)
"""Roles in certificates that may ask."""

GLANCE = 1.0
"""Seconds for which an answer of a fleet's registry holds; so long a revoked device may go on at most."""

_NAME = re.compile("[a-z0-9][a-z0-9-]{0,39}")
_BITS = 256

Admits = Callable[[Peer], bool]
"""Whether the holder of a certificate that verified may ask."""


def anybody(peer: Peer) -> bool:
    """Lets in every device and every client of the authority."""
    return peer.role in ROLES


def members(fleet: Path) -> Admits:
    """Returns what lets in clients, and the devices of a fleet that nobody has revoked.

    Args:
        fleet: its folder, which has ``fleet.db``.

    Raises:
        InputError: there is no fleet.
    """
    from privet.governance.enrolment import admitted
    from privet.governance.registry import Registry

    if not (fleet / "fleet.db").is_file():
        raise InputError(f"no fleet in {fleet}", do="name the folder that privet fleet init made")
    registry, known = Registry(fleet / "fleet.db"), dict[Peer, tuple[float, bool]]()

    def admits(peer: Peer) -> bool:
        if peer.role != DEVICE:
            return peer.role == CLIENT
        at, verdict = known.get(peer, (-GLANCE, False))
        if time.monotonic() - at >= GLANCE:
            verdict = admitted(registry, str(peer))
            known[peer] = time.monotonic(), verdict
        return verdict

    return admits


class Tokens:
    """Callers by token.

    Args:
        path: of the file; None knows nobody.

    Raises:
        InputError: the file is missing or malformed.
        RefusedError: others can read it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._names: dict[str, str] = {}
        self.read()

    def read(self) -> None:
        """Reads the file again; who was taken out is let in no more."""
        if self.path is None:
            return
        names = {}
        for line in read_secret(self.path).decode("utf-8", "replace").splitlines():
            name, _, digest = line.partition(" ")
            if not _NAME.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", digest):
                raise InputError(f"{self.path} is damaged", allowed="lines of a name and a sha256, one token each")
            names[digest] = name
        self._names = names

    def caller(self, authorisation: bytes) -> str | None:
        """Returns who shows an ``Authorization`` header; None for nobody who is known."""
        kind, _, token = authorisation.partition(b" ")
        if kind.lower() != b"bearer":
            return None
        name = self._names.get(_hash(token.strip()))
        return None if name is None else f"token/{name}"


def new_token(path: Path, name: str) -> str:
    """Returns a new token for a caller; the file, made when absent, keeps its hash.

    Raises:
        InputError: the name is malformed or taken, or the file is.
        RefusedError: others can read the file.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r} is no name", allowed="small letters, digits, hyphens, 40 of them")
    token = base64.urlsafe_b64encode(secrets.token_bytes(_BITS // 8)).rstrip(b"=")
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Tokens(path)
        if any(line.startswith(name.encode() + b" ") for line in file):
            raise InputError(f"{name} has a token already", do=f"take its line out of {path} first")
        file.write(f"{name} {_hash(token)}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    return token.decode("ascii")


@lru_cache(maxsize=4096)
def holder(certificate: bytes) -> Peer | None:
    """Returns who a certificate (DER) names; None when it names nobody. TLS has verified it."""
    try:
        return Peer.of(name_in(ssl.DER_cert_to_PEM_cert(certificate).encode("ascii")))
    except InputError:
        return None


def _hash(token: bytes) -> str:
    return hashlib.sha256(b"privet inference token\0" + token).hexdigest()
