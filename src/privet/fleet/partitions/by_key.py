"""Shards as nature made them: a home's rows lie on that home's device."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privet.errors import DataError
from privet.fleet.data import Data
from privet.fleet.partitions.contract import Partition
from privet.parts import Grade, part
from privet.randomness import Source


@part
class ByKey(Partition):
    """All rows of one natural key (home, machine, writer) lie on one device.

    With as many devices as keys each device holds one key, in sorted order of keys; with fewer
    devices the keys are dealt at random, equally many a device give or take one.
    """

    grade: ClassVar[Grade] = "derived"

    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one sorted array of row indices a device; together they are all rows.

        Raises:
            DataError: the data has no keys, or fewer keys than devices.
        """
        if data.train_keys is None:
            raise DataError(
                f"{data.name} has no natural keys", do="name a key (data.key of csv, train_keys in npz) or deal iid"
            )
        keys, holder = np.unique(data.train_keys, return_inverse=True)
        if len(keys) < devices:
            raise DataError(
                f"{data.name} has {len(keys)} keys for {devices} devices",
                allowed=f"1 to {len(keys)} devices",
                do="take fewer devices",
            )
        order = np.arange(devices) if len(keys) == devices else rng.permutation(len(keys)).numpy()
        return [np.flatnonzero(np.isin(holder, dealt)) for dealt in np.array_split(order, devices)]
