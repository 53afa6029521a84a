"""A user's own table as a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, TextIO

import numpy as np
from pydantic import Field

from privet.errors import DataError, nearest
from privet.fleet.data import Data, Dataset, checked, hold_out
from privet.parts import Grade, part

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_LARGEST = float(np.finfo(np.float32).max)


@part
class Csv(Dataset):
    """A table of your own: one header line, numbers in every column but the target and the key.

    Inputs are the raw numbers, shape (n, columns): nothing is scaled by what the data holds, since
    a mean or a maximum over all devices would be a release of its own. Scale before, by constants.
    The target may be text; its classes are its distinct values, sorted (as numbers if all are numbers).
    Which rows are for testing is random but always the same for the same number of rows.

    Attributes:
        path: the file; UTF-8, commas, quotes as in RFC 4180.
        target: the column to predict.
        key: the column that says whose row it is (home, machine), for the partition ``by-key``; it is
            no input.
        test_fraction: share of the rows kept for testing.
        licence: under which terms you have the data, for the report.
    """

    grade: ClassVar[Grade] = "measured"

    path: str
    target: str
    key: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    licence: str = ""

    def load(self) -> Data:
        """Returns the rows.

        Raises:
            DataError: the file is missing or not UTF-8, a column is missing, or a line holds a missing
                value or something that is no number; the advice names line and column.
        """
        path = Path(self.path)
        header, lines = _read(path)
        self._check_header(path.name, header)
        if len(lines) < 2:
            raise DataError(f"{path.name} has {len(lines)} rows", allowed="a header line and two rows or more")
        text = [at for at, column in enumerate(header) if column in (self.target, self.key)]
        table = np.array(
            [
                [_number(path.name, line, header[at], cell) for at, cell in enumerate(cells) if at not in text]
                for line, cells in lines
            ],
            dtype=np.float32,
        )
        classes, labels = _classes(_texts(path.name, header, lines, self.target))
        train, test = hold_out(len(labels), self.test_fraction)
        return checked(
            Data(
                train_inputs=table[train],
                train_labels=labels[train],
                test_inputs=table[test],
                test_labels=labels[test],
                classes=classes,
                name=path.stem,
                licence=self.licence,
                train_keys=np.array(_texts(path.name, header, lines, self.key))[train] if self.key else None,
            )
        )

    @classmethod
    def place(cls) -> str:
        """Returns that the user brings it."""
        return "your own file: data.path and data.target"

    def _check_header(self, name: str, header: list[str]) -> None:
        for wanted in filter(None, (self.target, self.key)):
            if wanted not in header:
                raise DataError(
                    f"{name} has no column {wanted!r}", allowed=", ".join(header[:20]), do=nearest(wanted, header)
                )
        twice = [column for column in header if header.count(column) > 1]
        if twice:
            raise DataError(f"{name} has the column {twice[0]!r} more than once", do="give each column its own name")
        if self.key == self.target or set(header) <= {self.target, self.key}:
            raise DataError(f"{name}: no column is left as input", allowed="a target, perhaps a key, and other columns")


Lines = list[tuple[int, list[str]]]
"""(line number in the file, cells) of each row."""


def _read(path: Path) -> tuple[list[str], Lines]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _numbered(path.name, file)
            _, header = next(rows, (0, []))
            lines = list(rows)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8 (byte {error.object[error.start]:#04x})",
            allowed="UTF-8",
            do=f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name} > utf8.csv",
        ) from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", do="check data.path") from None
    for line, cells in lines:
        if len(cells) != len(header):
            raise DataError(
                f"{path.name}, line {line} has {len(cells)} values, the header names {len(header)} columns",
                do="correct that line",
            )
    return [column.strip() for column in header], lines


def _numbered(name: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num} is not CSV ({error})", do="correct that line") from None


def _missing(name: str, line: int, column: str) -> DataError:
    return DataError(
        f"{name}, line {line}, column {column!r}: no value", allowed="a value in every cell", do="drop or fill that row"
    )


def _number(name: str, line: int, column: str, cell: str) -> float:
    if cell.strip().lower() in MISSING:
        raise _missing(name, line, column)
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:  # NaN compares false
        raise DataError(
            f"{name}, line {line}, column {column!r}: {cell!r} is not a finite number",
            allowed="numbers in every column but the target and the key",
            do="drop that column or turn its categories into columns of 0 and 1",
        )
    return value


def _texts(name: str, header: list[str], lines: Lines, column: str) -> list[str]:
    at = header.index(column)
    for line, cells in lines:
        if cells[at].strip().lower() in MISSING:
            raise _missing(name, line, column)
    return [cells[at].strip() for _, cells in lines]


def _classes(targets: list[str]) -> tuple[int, np.ndarray]:
    """Returns how many classes there are, and the class of each row, int64."""
    try:
        values = np.array([float(target) for target in targets])
    except ValueError:
        values = np.array(targets)
    names, labels = np.unique(values, return_inverse=True)
    return len(names), labels.astype(np.int64)
