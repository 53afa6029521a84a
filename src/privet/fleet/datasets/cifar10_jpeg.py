"""CIFAR-10 from a copy whose images went through JPEG, brought by hand."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np

from privet.errors import DataError
from privet.fleet.data import Data, Dataset, checked
from privet.fleet.fetch import find_file
from privet.parts import Grade, part

_SIDE, _CLASSES = 32, 10
_DO = "put train.npz and test.npz there: jpeg (uint8, all files behind each other), offset (n + 1), y (n)"


def _find(side: str, folder: str | None) -> Path:
    return find_file("cifar10_jpeg", f"{side}.npz", "", folder, _DO)


@part
class Cifar10Jpeg(Dataset):
    """Colour pictures of ten classes, 50,000 to train and 10,000 to test, 32 x 32, each kept as a JPEG file.

    JPEG loses a little, so figures are not those of the canonical bytes: results say "CIFAR-10 (JPEG copy)".

    Attributes:
        folder: where ``train.npz`` and ``test.npz`` lie; then ``$PRIVET_DATA/cifar10_jpeg`` and the user's cache are
            searched too.

    References:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    grade: ClassVar[Grade] = "measured"

    folder: str | None = None

    def load(self) -> Data:
        """Returns the rows: inputs (n, 3, 32, 32) in [0, 1], 10 classes.

        Raises:
            DataError: a file is missing or damaged.
        """
        train, test = (_read(_find(side, self.folder)) for side in ("train", "test"))
        licence = "none stated; cite Krizhevsky 2009"
        return checked(Data(*train, *test, classes=_CLASSES, name="cifar10-jpeg", licence=licence))

    @classmethod
    def place(cls) -> str:
        """Returns the folder of its first file.

        Raises:
            DataError: a file is in none of the folders searched.
        """
        found = [_find(side, None) for side in ("train", "test")]
        return str(found[0].parent)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inputs and labels of one file."""
    from PIL import Image

    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # np.load leaves a damaged file open
            files, places, labels = file["jpeg"].tobytes(), file["offset"].tolist(), file["y"].astype(np.int64)
        pixels = np.empty((len(labels), 3, _SIDE, _SIDE), np.float32)
        for at, (begin, end) in enumerate(itertools.pairwise(places)):
            picture = np.asarray(Image.open(io.BytesIO(files[begin:end])).convert("RGB"), np.float32)
            pixels[at] = picture.transpose(2, 0, 1) / 255
    except (KeyError, ValueError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged or not such a file ({error})", do=_DO) from None
    return pixels, labels
