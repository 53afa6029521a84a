"""The whole MNIST set, fetched once with pinned checksums or brought by hand."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from privet.fleet.data import Data, Dataset, checked
from privet.fleet.fetch import Download, find_file
from privet.fleet.idx import read_idx
from privet.parts import Grade, part

CREDIT = "CC BY-SA 3.0, Y. LeCun, C. Cortes, C. Burges"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def _file(name: str, sha256: str, length: int) -> Download:
    return Download(name, f"{MIRROR}{name}.gz", sha256, length)


FILES = (
    _file("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016),
    _file("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
    _file("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
    _file("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
)


def _find(name: str, folder: str | None) -> Path:
    do = "run: privet data get mnist; or put the four IDX files there by hand, or name their folder: data.folder"
    return find_file("mnist", name, ".gz", folder, do)


@part
class Mnist(Dataset):
    """Handwritten digits, 60,000 to train and 10,000 to test, 28 x 28, fetched once.

    Attributes:
        folder: where the four IDX files lie, plain or ``.gz``; then ``$PRIVET_DATA/mnist`` and the
            user's cache are searched too.

    References:
        LeCun, Cortes, Burges, The MNIST database of handwritten digits.
    """

    grade: ClassVar[Grade] = "measured"
    downloads: ClassVar[tuple[Download, ...]] = FILES

    folder: str | None = None

    def load(self) -> Data:
        """Returns the rows: inputs (n, 1, 28, 28) in [0, 1], 10 classes.

        Raises:
            DataError: a file is missing, truncated, or not the pinned one.
        """
        train_images, train_labels, test_images, test_labels = (
            read_idx(_find(each.file, self.folder), sha256=each.sha256) for each in FILES
        )
        return checked(
            Data(
                train_inputs=train_images[:, None] / np.float32(255),
                train_labels=train_labels.astype(np.int64),
                test_inputs=test_images[:, None] / np.float32(255),
                test_labels=test_labels.astype(np.int64),
                classes=10,
                name="mnist",
                licence=CREDIT,
            )
        )

    @classmethod
    def place(cls) -> str:
        """Returns the folder of its first file.

        Raises:
            DataError: a file is in none of the folders searched.
        """
        found = [_find(each.file, None) for each in FILES]
        return str(found[0].parent)
