"""A device's own rows: arrays in an NPZ file, or a CSV file with a column of labels. Never a pickle."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path

import numpy as np

from privet.errors import DataError

_NAMES = (("inputs", "labels"), ("train_inputs", "train_labels"))


def read_rows(path: Path, target: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns a device's inputs, float32 (n, ...), and labels, int64 (n,).

    All devices of a fleet must number their labels alike, so labels are whole numbers from 0 in both kinds of file;
    inputs are numbers, and nothing is scaled.

    Args:
        path: ``.npz`` with ``inputs`` and ``labels`` (or ``train_inputs`` and ``train_labels``), or ``.csv``: UTF-8,
            one header line.
        target: the column of a CSV file that holds the labels.

    Raises:
        DataError: the file is missing or damaged, or holds something else; one line.
    """
    if path.suffix == ".npz":
        inputs, labels = _npz(path)
    elif path.suffix == ".csv":
        inputs, labels = _csv(path, target)
    else:
        raise DataError(f"{path.name} is no file of rows", allowed=".npz or .csv")
    where = path.name
    if inputs.ndim < 2 or labels.shape != (len(inputs),) or not inputs.size:
        raise DataError(
            f"{where}: inputs of shape {inputs.shape}, labels of shape {labels.shape}",
            allowed="(rows, ...) and (rows,), a row or more",
        )
    if not np.isfinite(inputs).all():
        raise DataError(f"{where}: inputs hold NaN or infinity", do="drop or fill those rows")
    if labels.min() < 0:
        raise DataError(f"{where}: a label of {int(labels.min())}", allowed="whole numbers from 0")
    return inputs, labels


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            found = next((pair for pair in _NAMES if set(pair) <= set(getattr(file, "files", ()))), None)
            if found is None:
                raise DataError(f"{path.name} lacks arrays", allowed="inputs and labels")
            inputs, labels = (file[name] for name in found)
    except DataError:
        raise
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged or no NPZ file of plain arrays ({error})") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from None
    if inputs.dtype.kind not in "fiub" or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path.name}: inputs are {inputs.dtype}, labels {labels.dtype}", allowed="numbers, and whole numbers"
        )
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused
        return inputs.astype(np.float32), labels.astype(np.int64)


def _csv(path: Path, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is no UTF-8 CSV file ({error})", do="correct or convert it") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})") from None
    header = [name.strip() for name in lines[0]] if lines else []
    if target not in header or header.count(target) > 1:
        raise DataError(
            f"{path.name} has no single column {target!r}", allowed=", ".join(header[:20]), do="give --target COLUMN"
        )
    at = header.index(target)
    inputs, labels = [], []
    for number, line in enumerate(lines[1:], start=2):
        try:
            if len(line) != len(header):
                raise ValueError(f"{len(line)} values for {len(header)} columns")
            labels.append(int(line[at]))
            inputs.append([float(cell) for place, cell in enumerate(line) if place != at])
        except ValueError as error:
            raise DataError(
                f"{path.name}, row {number}: {error}", allowed="numbers, and a label that is a whole number from 0"
            ) from None
    with np.errstate(over="ignore"):
        return np.array(inputs, dtype=np.float64).astype(np.float32), np.array(labels, dtype=np.int64)
