"""Rows dealt like cards: every device's shard looks like the whole."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privet.fleet.data import Data
from privet.fleet.partitions.contract import Partition, refuse_too_few
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Iid(Partition):
    """Every device gets equally many rows at random; sizes differ by one row at most."""

    grade: ClassVar[Grade] = "derived"

    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one sorted array of row indices a device; together they are all rows.

        Raises:
            DataError: there are more devices than rows.
        """
        rows = len(data.train_labels)
        refuse_too_few(rows, devices)
        return [np.sort(shard) for shard in np.array_split(rng.permutation(rows).numpy(), devices)]
