"""A user's own arrays as an NPZ file; never a pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

from privet.errors import DataError, nearest
from privet.fleet.data import Data, Dataset, checked
from privet.parts import Grade, part

NEEDED = ("train_inputs", "train_labels", "test_inputs", "test_labels")


@part
class Npz(Dataset):
    """Arrays of your own: train_inputs, train_labels, test_inputs, test_labels and perhaps train_keys.

    Inputs of any number type become float32, nothing is scaled; images must be (rows, channels,
    height, width) in [0, 1]. Labels are whole numbers from 0; the number of classes is the highest
    label plus 1.

    Attributes:
        path: the file, as written by ``numpy.savez`` or ``numpy.savez_compressed``.
        licence: under which terms you have the data, for the report.
    """

    grade: ClassVar[Grade] = "measured"

    path: str
    licence: str = ""

    def load(self) -> Data:
        """Returns the rows.

        Raises:
            DataError: the file is missing, damaged or holds Python objects, an array is missing, or
                an array breaks what :class:`privet.fleet.data.Data` promises.
        """
        path = Path(self.path)
        arrays = _read(path)
        for needed in NEEDED:
            if needed not in arrays:
                raise DataError(
                    f"{path.name} has no array {needed!r}",
                    allowed=", ".join(NEEDED) + " and perhaps train_keys",
                    do=nearest(needed, list(arrays)),
                )
        labels = {part: _labels(path.name, f"{part}_labels", arrays) for part in ("train", "test")}
        return checked(
            Data(
                train_inputs=_inputs(path.name, "train_inputs", arrays),
                train_labels=labels["train"],
                test_inputs=_inputs(path.name, "test_inputs", arrays),
                test_labels=labels["test"],
                classes=max((int(each.max()) for each in labels.values() if each.size), default=0) + 1,
                name=path.stem,
                licence=self.licence,
                train_keys=arrays.get("train_keys"),
            )
        )

    @classmethod
    def place(cls) -> str:
        """Returns that the user brings it."""
        return "your own file: data.path"


def _read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays that a data set can hold; others in the file stay unread."""
    try:
        with path.open("rb") as raw:  # np.load leaves a damaged file open that it opened itself
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path.name} holds one bare array", do="write it with numpy.savez")
            return {name: file[name] for name in (*NEEDED, "train_keys") if name in file.files}
    except DataError:
        raise
    except (ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path.name} is damaged or no NPZ file of plain arrays ({error})",
            do="write it again with numpy.savez; Privet never opens pickles",
        ) from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})", do="check data.path") from None


def _inputs(name: str, key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if arrays[key].dtype.kind not in "fiub":
        raise DataError(f"{name}: {key} is {arrays[key].dtype}", allowed="numbers")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and that is refused
        return arrays[key].astype(np.float32)


def _labels(name: str, key: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    if arrays[key].dtype.kind not in "iu":
        raise DataError(f"{name}: {key} is {arrays[key].dtype}", allowed="whole numbers from 0")
    return arrays[key].astype(np.int64)
