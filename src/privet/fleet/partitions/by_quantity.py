"""Shards of unlike size and like mix: some devices see much, some little."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from privet.fleet.data import Data
from privet.fleet.partitions.contract import Partition, refuse_too_few
from privet.parts import Grade, part
from privet.randomness import Source


@part
class ByQuantity(Partition):
    """Shard sizes are shared out by a Dirichlet draw, the rows at random: small alpha, unlike sizes.

    Every row is dealt. Each device gets ``min_rows`` first; the draw shares out the rest.

    Attributes:
        alpha: concentration; 100 is almost equal, 0.1 gives a few devices nearly everything.
        min_rows: rows that every device has at least.

    References:
        Li, Diao, Chen, He, Federated Learning on Non-IID Data Silos, ICDE 2022, section IV.D (quantity skew).
    """

    grade: ClassVar[Grade] = "measured"

    alpha: Annotated[float, Field(gt=0)] = 1.0
    min_rows: Annotated[int, Field(ge=1)] = 1

    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one sorted array of row indices a device; together they are all rows.

        Raises:
            DataError: there are fewer than ``devices * min_rows`` rows.
        """
        rows = len(data.train_labels)
        refuse_too_few(rows, devices, self.min_rows)
        random = rng.numpy()
        shares = np.cumsum(random.dirichlet(np.full(devices, self.alpha)))[:-1]
        first = self.min_rows * np.arange(1, devices)
        cuts = first + (shares * (rows - devices * self.min_rows)).astype(int)
        return [np.sort(shard) for shard in np.split(random.permutation(rows), cuts)]
