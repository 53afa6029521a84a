"""Shards whose mix of labels differs, the usual stand-in for devices that see different things."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from privet.fleet.data import Data
from privet.fleet.partitions.contract import Partition, refuse_too_few
from privet.parts import Grade, part
from privet.randomness import Source


@part
class ByLabel(Partition):
    """The rows of each label are shared out by a Dirichlet draw: small alpha, one-sided devices.

    Every row is dealt. Sizes differ too; a device left with fewer than ``min_rows`` takes rows from
    whichever has most. A device may hold one label only.

    Attributes:
        alpha: concentration; 100 is almost iid, 0.1 leaves most devices with one or two labels.
        min_rows: rows that every device has at least.

    References:
        Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019, section 4;
        Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution, 2019.
    """

    grade: ClassVar[Grade] = "measured"

    alpha: Annotated[float, Field(gt=0)] = 0.5
    min_rows: Annotated[int, Field(ge=1)] = 1

    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one sorted array of row indices a device; together they are all rows.

        Raises:
            DataError: there are fewer than ``devices * min_rows`` rows.
        """
        refuse_too_few(len(data.train_labels), devices, self.min_rows)
        random = rng.numpy()
        shards: list[list[int]] = [[] for _ in range(devices)]
        for label in np.unique(data.train_labels):
            rows = random.permutation(np.flatnonzero(data.train_labels == label))
            cuts = (np.cumsum(random.dirichlet(np.full(devices, self.alpha)))[:-1] * len(rows)).astype(int)
            for shard, dealt in zip(shards, np.split(rows, cuts), strict=True):
                shard.extend(dealt.tolist())
        self._fill(shards, random)
        return [np.sort(np.array(shard, dtype=np.int64)) for shard in shards]

    def _fill(self, shards: list[list[int]], random: np.random.Generator) -> None:
        for shard in shards:
            while len(shard) < self.min_rows:
                largest = max(shards, key=len)
                shard.append(largest.pop(int(random.integers(len(largest)))))
