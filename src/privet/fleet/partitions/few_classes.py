"""Shards of a few classes each: devices that have never seen the others."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from privet.fleet.data import Data
from privet.fleet.partitions.contract import Partition, refuse_too_few
from privet.parts import Grade, part
from privet.randomness import Source


@part
class FewClasses(Partition):
    """Rows are sorted by label and cut into equal pieces, of which every device gets a few.

    Every row is dealt and all devices have about as many. A piece may hold the end of one class and the beginning of
    the next.

    Attributes:
        pieces: how many pieces a device gets: about as many classes.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017,
        section 3 ("pathological non-IID").
    """

    grade: ClassVar[Grade] = "measured"

    pieces: Annotated[int, Field(ge=1)] = 2

    def split(self, data: Data, devices: int, rng: Source) -> list[np.ndarray]:
        """Returns one sorted array of row indices a device; together they are all rows.

        Where there are fewer than ``devices * pieces`` rows, devices get fewer pieces.

        Raises:
            DataError: there are fewer rows than devices.
        """
        refuse_too_few(len(data.train_labels), devices)
        random, pieces = rng.numpy(), min(self.pieces, len(data.train_labels) // devices)
        mixed = random.permutation(len(data.train_labels))
        by_label = mixed[np.argsort(data.train_labels[mixed], kind="stable")]
        cut = np.array_split(by_label, devices * pieces)
        order = random.permutation(len(cut)).reshape(devices, pieces)
        return [np.sort(np.concatenate([cut[place] for place in places])) for places in order]
