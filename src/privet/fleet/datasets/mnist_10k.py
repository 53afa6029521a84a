"""The 10,000 images of the MNIST test file, shipped inside the package.

Image i (from 0) is for testing when i % 5 == 4, for training otherwise: 8,000 and 2,000. The file's
order matters: its halves come from two different groups of writers and are not equally hard (a linear
model fitted on 6,000 images of MNIST's training file errs on 15.1 % of the first half and 8.8 % of the
second), so that a test set cut from the end would flatter. Every class has 154 to 253 test images.
"""

from __future__ import annotations

from importlib.resources import files
from typing import ClassVar

import numpy as np

from privet.fleet.data import Data, Dataset, checked
from privet.fleet.idx import read_idx
from privet.parts import Grade, part

CREDIT = "CC BY-SA 3.0, Y. LeCun, C. Cortes, C. Burges"


@part
class Mnist10k(Dataset):
    """Handwritten digits, 8,000 to train and 2,000 to test, 28 x 28, embedded in the package.

    References:
        LeCun, Cortes, Burges, The MNIST database of handwritten digits, file t10k.
    """

    grade: ClassVar[Grade] = "measured"

    def load(self) -> Data:
        """Returns the rows: inputs (n, 1, 28, 28) in [0, 1], 10 classes.

        Raises:
            DataError: the installed package is damaged.
        """
        folder = files("privet.fleet.datasets").joinpath("mnist_10k")
        images = read_idx(folder.joinpath("t10k-images-idx3-ubyte.gz"))[:, None] / np.float32(255)
        labels = read_idx(folder.joinpath("t10k-labels-idx1-ubyte.gz")).astype(np.int64)
        test = np.arange(len(labels)) % 5 == 4
        return checked(
            Data(images[~test], labels[~test], images[test], labels[test], 10, name="mnist-10k", licence=CREDIT)
        )
