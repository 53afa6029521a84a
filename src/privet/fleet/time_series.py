"""Reads ``.ts`` files, the text format of the UCR/UEA archive of time series, plain or ``.xz``.

References:
    Dau et al., The UCR Time Series Archive, IEEE/CAA Journal of Automatica Sinica, 2019.
"""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import numpy as np

from privet.errors import DataError

_LARGEST = 1 << 27


def read_ts(path: Path, *, sha256: str = "") -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the series of a file, float64 (length,) each, and their labels, int64 (n,), in the header's order.

    One dimension only; the labels are numbered as ``@classLabel`` names them.

    Args:
        path: the file; a name that ends in ``.xz`` is decompressed. At most 128 MiB of text.
        sha256: what the uncompressed file must hash to, in hexadecimal; "" leaves that unchecked.

    Raises:
        DataError: the file can't be read, is damaged, no such text, or another than was pinned.
    """
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (lzma.LZMAError, EOFError) as error:
        raise _damaged(path, f"not a whole xz file ({error})") from None
    except OSError as error:
        raise DataError(f"{path.name} can't be read ({error.strerror or error})") from None
    if len(content) > _LARGEST:
        raise _damaged(path, f"it holds more than {_LARGEST} bytes")
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(path, f"its sha256 is not the pinned {sha256}")
    try:
        return _parsed(content.decode(), path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path.name} is damaged: {why}", do="bring the file again")


def _parsed(text: str, path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    head, found, body = text.partition("\n@data")
    names = next((line.split()[2:] for line in head.splitlines() if line.lower().startswith("@classlabel")), [])
    if not found or not names:
        raise _damaged(path, "it has no @classLabel line before @data")
    series: list[np.ndarray] = []
    labels: list[int] = []
    for line in body.split():
        values, colon, label = line.rpartition(":")
        if not colon or ":" in values or label not in names:
            raise _damaged(path, f"{label[:20]!r} at the end of series {len(series)} is none of its labels")
        series.append(np.array(values.split(","), np.float64))
        labels.append(names.index(label))
    return series, np.array(labels, np.int64)


def of_length(series: list[np.ndarray], length: int) -> np.ndarray:
    """Returns series of any lengths as float32 rows (n, length), each by its own mean and standard deviation.

    Longer ones are cut, shorter ones followed by zeros, which is each series' own mean. Nothing is learnt from
    other rows.
    """
    rows = np.zeros((len(series), length), np.float32)
    for row, values in zip(rows, series, strict=True):
        scale = values.std()
        row[: len(values)] = ((values - values.mean()) / (scale if scale > 0 else 1.0))[:length]
    return rows
