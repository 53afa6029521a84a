"""Reads IDX files of unsigned bytes, the format of MNIST, plain or gzip.

References:
    LeCun, Cortes, Burges, The MNIST database, "File formats for the MNIST database".
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from importlib.resources.abc import Traversable
from typing import IO

import numpy as np

from privet.errors import DataError

_LARGEST = 1 << 30


def read_idx(file: Traversable, *, sha256: str = "") -> np.ndarray:
    """Returns the array in an IDX file, uint8; memory is bounded by what the header announces, at most 1 GiB.

    Args:
        file: the file; a name that ends in ``.gz`` is decompressed.
        sha256: what the uncompressed file must hash to, in hexadecimal; "" leaves that unchecked.

    Raises:
        DataError: the file is missing, truncated, damaged, no IDX file, or another than was pinned.
    """
    try:
        with file.open("rb") as raw:
            if not file.name.endswith(".gz"):
                return _parse(raw, file.name, sha256)
            with gzip.open(raw) as unpacked:
                return _parse(unpacked, file.name, sha256)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _damaged(file.name, f"not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{file.name} can't be read ({error.strerror or error})") from None


def _damaged(name: str, why: str) -> DataError:
    return DataError(f"{name} is damaged: {why}", do="bring the file again")


def _parse(file: IO[bytes] | gzip.GzipFile, name: str, sha256: str) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise _damaged(name, "it doesn't start as an IDX file of unsigned bytes does")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise _damaged(name, "it ends within its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    count = math.prod(shape)
    if count > _LARGEST:
        raise _damaged(name, f"its header announces {count} bytes, more than {_LARGEST}")
    body = file.read(count + 1)
    if len(body) != count:
        raise _damaged(
            name, f"its header announces {count} bytes, it holds {'more' if len(body) > count else len(body)}"
        )
    if sha256 and hashlib.sha256(magic + header + body).hexdigest() != sha256:
        raise _damaged(name, f"its sha256 is not the pinned {sha256}")
    return np.frombuffer(body, np.uint8).reshape(shape)
