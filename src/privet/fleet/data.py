"""What a data set is once it is in memory, and where it comes from."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from privet.errors import DataError
from privet.fleet.fetch import Download
from privet.parts import Part
from privet.randomness import seeded


@dataclass(frozen=True, eq=False)
class Data:
    """Training and test rows of a classification task.

    Attributes:
        train_inputs, test_inputs: float32, shape (n, ...), finite; images are (n, channels, height, width) in [0, 1].
        train_labels, test_labels: int64, shape (n,), in [0, classes).
        classes: number of classes.
        train_keys: natural key of each training row (home, machine, writer), shape (n,), or None.
        name: what it is called in reports.
        licence: under which terms it came.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    classes: int
    name: str
    licence: str = ""
    train_keys: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train_inputs.shape[1:])


class Dataset(Part):
    """Where the rows of a run come from.

    Attributes:
        downloads: the files that ``privet data get`` brings; empty when there is nothing to bring.
    """

    downloads: ClassVar[tuple[Download, ...]] = ()

    @abstractmethod
    def load(self) -> Data:
        """Returns the rows, checked.

        Raises:
            DataError: a file is missing, damaged or unusable; the advice says how to bring it.
        """

    @classmethod
    def place(cls) -> str:
        """Returns where the rows lie on this machine, in a few words.

        Raises:
            InputError: they are not here; the advice says how to bring them.
        """
        return "its own package"


def checked(data: Data) -> Data:
    """Returns the data it was given once every promise of :class:`Data` is known to hold.

    Raises:
        DataError: a shape, a dtype, a value, a label or a key is wrong, or there is only one class.
    """
    if not isinstance(data, Data):
        raise DataError(f"data is a {type(data).__name__}", allowed="a privet.fleet.Data")
    for part in ("train", "test"):
        for name in (f"{part}_inputs", f"{part}_labels"):
            if not isinstance(array := getattr(data, name), np.ndarray):
                raise DataError(f"{data.name}: {name} is a {type(array).__name__}", allowed="a NumPy array")
        _check_rows(data, part, getattr(data, f"{part}_inputs"), getattr(data, f"{part}_labels"))
    if data.test_inputs.shape[1:] != data.shape:
        raise DataError(
            f"{data.name}: test inputs have shape {data.test_inputs.shape[1:]}, training inputs {data.shape}",
            allowed="one shape for both",
        )
    if len(np.unique(data.train_labels)) < 2:
        raise DataError(
            f"{data.name}: all training rows have the label {data.train_labels[0]}",
            allowed="two classes or more",
            do="bring rows of another class, or choose another column as target",
        )
    if data.classes > len(data.train_labels):
        raise DataError(
            f"{data.name}: {data.classes} classes, but only {len(data.train_labels)} training rows",
            do="number the labels 0, 1, 2 and so on, or check that the target is a class and not a measurement",
        )
    if data.train_keys is not None and data.train_keys.shape != data.train_labels.shape:
        raise DataError(
            f"{data.name}: train_keys has shape {data.train_keys.shape}",
            allowed=f"{data.train_labels.shape}, one key a training row",
        )
    return data


def _check_rows(data: Data, part: str, inputs: np.ndarray, labels: np.ndarray) -> None:
    where = f"{data.name}: {part}"
    if inputs.dtype != np.float32 or inputs.ndim < 2:
        raise DataError(
            f"{where}_inputs is {inputs.dtype} of shape {inputs.shape}", allowed="float32 of shape (rows, ...)"
        )
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise DataError(f"{where}_labels is {labels.dtype} of shape {labels.shape}", allowed="int64 of shape (rows,)")
    if len(inputs) != len(labels):
        raise DataError(f"{where}: {len(inputs)} inputs but {len(labels)} labels", allowed="one label an input")
    if not inputs.size:
        raise DataError(f"{where} has no rows or no columns (shape {inputs.shape})", do="bring at least one row")
    finite = np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{where}_inputs: row {int(finite.argmin())} holds NaN or infinity ({int((~finite).sum())} rows do)",
            allowed="finite numbers",
            do="drop or fill those rows",
        )
    if inputs.ndim == 4 and (inputs.min() < 0 or inputs.max() > 1):
        raise DataError(
            f"{where}_inputs are images from {inputs.min():g} to {inputs.max():g}",
            allowed="images (rows, channels, height, width) in [0, 1]",
            do="divide bytes by 255",
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= data.classes:
        raise DataError(f"{where}_labels run from {low} to {high}", allowed=f"0 to {data.classes - 1}")


def hold_out(rows: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training rows, test rows): a random split that is always the same for the same numbers.

    At least one row goes to each side. Both are sorted, int64.

    Args:
        rows: number of rows, at least 2.
        fraction: share of the rows that is for testing, in (0, 1).
    """
    order = seeded(0, "hold out", rows).permutation(rows).numpy()
    test = min(max(round(rows * fraction), 1), rows - 1)
    return np.sort(order[test:]), np.sort(order[:test])
