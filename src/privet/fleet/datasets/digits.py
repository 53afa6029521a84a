"""Scikit-learn's small digits: quick to train on, for tests and first steps."""

from __future__ import annotations

from importlib.util import find_spec
from typing import ClassVar

import numpy as np

from privet.errors import MissingExtraError
from privet.fleet.data import Data, Dataset, checked, hold_out
from privet.parts import Grade, part


@part
class Digits(Dataset):
    """Handwritten digits of 8 x 8, 1,438 to train and 359 to test, from scikit-learn.

    The split is random but always the same: the file repeats 0 to 9 in order, so every fifth image
    would be a test set of two classes.

    References:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test file).
    """

    grade: ClassVar[Grade] = "measured"

    def load(self) -> Data:
        """Returns the rows: inputs (n, 1, 8, 8) in [0, 1], 10 classes.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        self.place()
        from sklearn.datasets import load_digits

        found = load_digits()
        images = (found.images[:, None] / 16).astype(np.float32)
        labels = found.target.astype(np.int64)
        train, test = hold_out(len(labels), 0.2)
        return checked(
            Data(images[train], labels[train], images[test], labels[test], 10, name="digits", licence="CC BY 4.0, UCI")
        )

    @classmethod
    def place(cls) -> str:
        """Returns that it lies in scikit-learn.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        if find_spec("sklearn") is None:
            raise MissingExtraError("scikit-learn", "digits")
        return "scikit-learn"
