"""Records of a run: JSON lines, each holding the hash of the one before it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from privet.errors import RunError

GENESIS = "0" * 64
"""What the first record names as the hash before it."""


@dataclass(frozen=True)
class Record:
    """One thing that happened.

    Attributes:
        index: 0, 1, 2, ... in the log.
        kind: what happened, for example ``round``.
        time: when, ISO 8601, UTC.
        body: the facts, JSON values only.
        previous: hash of the record before, or :data:`GENESIS`.
    """

    index: int
    kind: str
    time: str
    body: dict[str, Any]
    previous: str

    def canonical(self) -> bytes:
        """Returns the bytes that are hashed: JSON with sorted keys, no spaces, ASCII only."""
        fields = {
            "index": self.index,
            "kind": self.kind,
            "time": self.time,
            "body": self.body,
            "previous": self.previous,
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def hash(self) -> str:
        """The record's sha256."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def line(self) -> str:
        """Returns the record as its line in the file, with its hash."""
        return json.dumps(json.loads(self.canonical()) | {"hash": self.hash}, sort_keys=True) + "\n"


class Log:
    """An append-only file of records; opening it verifies the whole chain.

    A last line that a crash cut short is dropped when the log is opened for writing; anything else
    that does not verify is refused.

    Args:
        path: the JSON-lines file; made when absent.

    Raises:
        RunError: a record was changed, removed, inserted or reordered; the advice names the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        if path.exists():
            self.records, intact = _read(path)
            if intact < path.stat().st_size:
                with path.open("r+b") as file:
                    file.truncate(intact)

    @property
    def head(self) -> str:
        """Hash of the last record; whoever kept it can tell whether the log was changed since."""
        return self.records[-1].hash if self.records else GENESIS

    def append(self, kind: str, body: dict[str, Any]) -> Record:
        """Writes a record through to the disk and returns it.

        Raises:
            RunError: the disk is full or failed; the log is as it was.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = Record(len(self.records), kind, now, json.loads(json.dumps(body, allow_nan=False)), self.head)
        try:
            _written(self.path, record.line().encode("ascii"))
        except OSError as error:
            wrong = f"{self.path} can't be written ({error.strerror or error})"
            raise RunError(wrong, do="make room or rights there, and try again") from None
        self.records.append(record)
        return record

    def of(self, kind: str) -> list[Record]:
        """Returns the records of one kind, oldest first."""
        return [record for record in self.records if record.kind == kind]


def _written(path: Path, line: bytes) -> None:
    """Adds a line to a file, through to the disk: all of it, or nothing that the next line would be glued to."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def verify(path: Path) -> list[Record]:
    """Returns the records of a log after checking every hash and link.

    Raises:
        RunError: the file is missing, or a record does not verify.
    """
    if not path.is_file():
        raise RunError(f"no records at {path}", do="give the folder of a run")
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Record], int]:
    records: list[Record] = []
    previous, intact = GENESIS, 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if not line.endswith(b"\n"):  # only a crash leaves such a line; the next record would be glued to it
            break
        try:
            fields = json.loads(line)
            claimed = fields.pop("hash")
            record = Record(**fields)
            sound = record.hash == claimed and record.previous == previous and record.index == number
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise RunError(
                f"{path}: record {number} does not verify",
                allowed="records as they were written, each with the hash of the one before",
                do="restore the file; the run can't be trusted as it is",
            )
        records.append(record)
        previous, intact = claimed, intact + len(line)
    return records, intact
