"""The contract of a partition: which rows lie on which device."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from privet.errors import DataError
from privet.fleet.data import Data
from privet.parts import Part
from privet.randomness import Source


class Partition(Part):
    """Deals the training rows out to devices."""

    @abstractmethod
    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one array of row indices a device; disjoint, each sorted, none empty.

        Raises:
            DataError: the rows can't be dealt so.
        """


def refuse_too_few(rows: int, devices: int, rows_each: int = 1) -> None:
    """Refuses to deal fewer rows than every device must get.

    Raises:
        DataError: there are fewer than ``devices * rows_each`` rows.
    """
    if rows < devices * rows_each:
        raise DataError(
            f"{devices} devices want {rows_each} training {'row' if rows_each == 1 else 'rows'} each, there are {rows}",
            do="take fewer devices or bring more rows",
        )
