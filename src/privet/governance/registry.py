"""Who may take part in a fleet: invitations and devices, in one SQLite file that survives a power cut."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from privet.errors import InputError, RefusedError
from privet.governance.database import opened
from privet.governance.tokens import Token, hash_of, same

Clock = Callable[[], float]
"""Returns seconds since 1970, UTC."""

Who = TypeVar("Who", bound=Hashable)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_ASK = "ask for a new one: privet fleet invite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS fleet (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS invitations (
    number BLOB PRIMARY KEY, secret_hash BLOB NOT NULL, profile TEXT NOT NULL, labels TEXT NOT NULL,
    expires REAL NOT NULL, used REAL, device TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS devices (
    name TEXT PRIMARY KEY, profile TEXT NOT NULL, labels TEXT NOT NULL, public_key TEXT NOT NULL UNIQUE,
    enrolled REAL NOT NULL, expires REAL NOT NULL, serial TEXT NOT NULL, revoked REAL
) STRICT;
"""


@dataclass(frozen=True)
class Member:
    """A device that was enrolled.

    Attributes:
        name: unique in the fleet, and in its certificate.
        profile: its hardware, as the invitation said.
        labels: by which cohorts are chosen, as the invitation said.
        public_key: ECDSA over P-384 in OpenSSH's format, which is what Flower registers.
        enrolled, expires: seconds since 1970: when it joined, and when its certificate ends.
        serial: of its newest certificate, hexadecimal.
        revoked: when it was, or None.
    """

    name: str
    profile: str
    labels: Mapping[str, str]
    public_key: str
    enrolled: float
    expires: float
    serial: str
    revoked: float | None

    @property
    def trusted(self) -> bool:
        """Whether it may take part: nobody has revoked it."""
        return self.revoked is None


class Registry:
    """The invitations and devices of a fleet; several processes may hold it at once.

    Args:
        path: the SQLite file, made when absent.
        clock: tells the time.

    Raises:
        RunError: the file is no registry.
    """

    def __init__(self, path: Path, clock: Clock = time.time) -> None:
        self.path, self.clock = path, clock
        with self._open() as database:
            database.executescript(_SCHEMA)
        path.chmod(0o600)

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return opened(self.path, "restore it, or free the disk")

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction that nobody else's can come between."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def settings(self) -> dict[str, Any]:
        """Returns what was kept by :meth:`keep`."""
        with self._open() as database:
            return {key: json.loads(value) for key, value in database.execute("SELECT key, value FROM fleet")}

    def keep(self, **settings: Any) -> None:
        """Keeps facts about the fleet, JSON values."""
        with self._change() as database:
            rows = [(key, json.dumps(value)) for key, value in settings.items()]
            database.executemany("INSERT OR REPLACE INTO fleet VALUES (?, ?)", rows)

    def invite(
        self, authority: bytes, count: int, profile: str, labels: Mapping[str, str], seconds: float
    ) -> Sequence[Token]:
        """Returns fresh tokens; only hashes of them are kept, so nobody can show them again."""
        tokens = [Token.fresh(authority) for _ in range(count)]
        expires, bound = self.clock() + seconds, _labels(labels)
        rows = [(token.number, hash_of(token.secret), profile, bound, expires) for token in tokens]
        with self._change() as database:
            insert = "INSERT INTO invitations (number, secret_hash, profile, labels, expires) VALUES (?, ?, ?, ?, ?)"
            database.executemany(insert, rows)
        return tokens

    def enrol(
        self, number: bytes, secret: bytes, name: str, public_key: str, issue: Callable[[], tuple[str, float]]
    ) -> Member:
        """Turns an invitation into a member; all of it happens, or nothing.

        The device that used a token may show it again, which is what it does when the answer was lost.

        Args:
            number, secret: of the token.
            name: that the device asks for.
            public_key: of the device in OpenSSH's format; that it holds the key to it is for ``issue`` to check.
            issue: makes the certificate and returns (serial, when it ends).

        Raises:
            RefusedError: the token is wrong, used or expired, or the name or the key belongs to another device.
            InputError: the name is none.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{name[:80]!r} is no name of a device", allowed="up to 40 small letters, digits and -, none at an end"
            )
        with self._change() as database:
            profile, labels, again = self._invitation(database, number, secret, name, public_key)
            if not again:
                _refuse_taken(database, name, public_key)
            serial, ends = issue()
            now = self.clock()
            database.execute("UPDATE invitations SET used = ?, device = ? WHERE number = ?", (now, name, number))
            row = (name, profile, labels, public_key, now, ends, serial)
            database.execute("INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
            return _member((*row, None))

    def _invitation(
        self, database: sqlite3.Connection, number: bytes, secret: bytes, name: str, public_key: str
    ) -> tuple[str, str, bool]:
        """Returns the profile and labels of a token, and whether this device used it before."""
        found = database.execute("SELECT * FROM invitations WHERE number = ?", (number,)).fetchone()
        # A number that nobody knows takes the same path, so that time does not tell which numbers exist.
        if not same(secret, bytes(found[1]) if found else bytes(32)) or found is None:
            raise RefusedError("the fleet knows no such token", do=_ASK)
        _, _, profile, labels, expires, used, device = found
        if self.clock() >= expires:
            raise RefusedError("this token has expired", do=_ASK)
        if used is None:
            return profile, labels, False
        own = "SELECT 1 FROM devices WHERE name = ? AND public_key = ? AND revoked IS NULL"
        if device != name or not database.execute(own, (name, public_key)).fetchone():
            raise RefusedError("this token was used before", do=_ASK)
        return profile, labels, True

    def renewed(self, name: str, serial: str, expires: float) -> None:
        """Keeps what a member's new certificate is."""
        with self._change() as database:
            database.execute("UPDATE devices SET serial = ?, expires = ? WHERE name = ?", (serial, expires, name))

    def members(self) -> list[Member]:
        """Returns all devices that were ever enrolled, sorted by name."""
        with self._open() as database:
            return [_member(row) for row in database.execute("SELECT * FROM devices ORDER BY name")]

    def find(self, name: str) -> Member:
        """Returns a member.

        Raises:
            RefusedError: nobody of this name was enrolled.
        """
        with self._open() as database:
            row = database.execute("SELECT * FROM devices WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise RefusedError(f"no device called {name!r} was enrolled", do="see: privet fleet list")
        return _member(row)

    def revoke(self, name: str) -> Member:
        """Takes a member's trust away, for good; doing so again changes nothing.

        Raises:
            RefusedError: nobody of this name was enrolled.
        """
        self.find(name)
        with self._change() as database:
            database.execute("UPDATE devices SET revoked = ? WHERE name = ? AND revoked IS NULL", (self.clock(), name))
        return self.find(name)

    def open_invitations(self) -> int:
        """Returns how many tokens could still be used."""
        with self._open() as database:
            query = "SELECT count(*) FROM invitations WHERE used IS NULL AND expires > ?"
            return int(database.execute(query, (self.clock(),)).fetchone()[0])


class Verdicts(Generic[Who]):
    """Who may come in: answers that follow from a registry, remembered until anybody changes it.

    A look whether it was changed takes microseconds, so a server can afford one a call; a device that is revoked is
    out at its next call.

    Args:
        path: of the registry.
        decide: tells who may come in; asks the registry.

    Raises:
        RunError: the file is no registry.
    """

    def __init__(self, path: Path, decide: Callable[[Who], bool]) -> None:
        Registry(path)  # makes it, or refuses it
        self._decide, self._lock = decide, threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._known: dict[Who, bool] = {}
        self._version = -1

    def __call__(self, who: Who) -> bool:
        """Returns whether somebody may come in; callable from any thread."""
        with self._lock:
            # It moves when another connection writes, and this one never does.
            version = self._database.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                self._version, self._known = version, {}
            if who not in self._known:
                self._known[who] = self._decide(who)
            return self._known[who]

    def close(self) -> None:
        """Closes the registry's file."""
        with self._lock:
            self._database.close()


def _member(row: Sequence[Any]) -> Member:
    name, profile, labels, *others = row
    return Member(name, profile, json.loads(labels), *others)


def _labels(labels: Mapping[str, str]) -> str:
    for key, value in labels.items():
        if not _NAME.fullmatch(key) or len(value) > 64 or not value.isprintable():
            raise InputError(
                f"label {key}={value} is none",
                allowed="KEY=VALUE; the key in small letters, digits and -, the value at most 64 printable characters",
            )
    return json.dumps(dict(labels), sort_keys=True)


def _refuse_taken(database: sqlite3.Connection, name: str, public_key: str) -> None:
    if database.execute("SELECT 1 FROM devices WHERE name = ?", (name,)).fetchone():
        raise RefusedError(f"a device called {name!r} was enrolled before", do="take another name")
    if database.execute("SELECT 1 FROM devices WHERE public_key = ?", (public_key,)).fetchone():
        raise RefusedError("another device has this key", do="join from a new folder, which makes its own key")
