"""What household appliances draw, as time series of the UCR archive: brought by hand once, with pinned checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from privet.fleet.data import Data, Dataset, checked
from privet.fleet.fetch import find_file
from privet.fleet.time_series import of_length, read_ts
from privet.parts import Grade, part

CREDIT = "UCR archive, which states no licence of its own: cite Dau et al., 2019"
BY_HAND = "pip download --no-deps sktime==1.2.0 && unzip -jo sktime-1.2.0-*.whl '*_T*.ts' -d ~/.cache/privet/appliances"

Series = Literal["plaid", "acsf1", "italy-power-demand"]

_FILES: dict[Series, tuple[str, int, str, str]] = {
    "plaid": (
        "PLAID",
        256,
        "40deb3bc6bd1e1aa0e6db6e6bfd3cecc4a23bf57f6a6d6ab90fb75e4a2c72344",
        "aa6da0dc1461e8d374e068a940ce37d1b0bb1a9844596d818920c8af696d656d",
    ),
    "acsf1": (
        "ACSF1",
        1460,
        "0646b90dc4843e02baed6b2ba345c5601a4991b6796565489cef1b2d92a7537b",
        "93e8aaeb44a10af181d24a156e60da7021193cd990ca28f263fccf3b905bfebf",
    ),
    "italy-power-demand": (
        "ItalyPowerDemand",
        24,
        "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c",
        "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144",
    ),
}
"""Series -> name of its files, usual length, sha256 of the uncompressed training and test file."""


def _find(name: str, folder: str | None) -> Path:
    return find_file("appliances", name, ".xz", folder, f"bring it by hand: {BY_HAND}; or name its folder: data.folder")


@part
class Appliances(Dataset):
    """Power or current of household appliances over time; the task is to tell which appliance it is.

    Each series is normalised by its own mean and deviation, cut or filled with zeros to one length. ``plaid``: current
    of 11 kinds of appliance, 537 to train and 537 to test, 100 to 1,344 values each; ``acsf1``: power of 10 kinds, 100
    and 100, 1,460 values; ``italy-power-demand``: hourly demand of a country, winter or summer, 67 and 1,029 days.

    A training series that is also a test series is left out: five of PLAID's are.

    Attributes:
        series: which of them.
        length: values of one input; 256, 1,460 and 24 if left out.
        folder: where the ``.ts`` files lie, plain or ``.xz``; then ``$PRIVET_DATA/appliances`` and the user's cache
            are searched too.

    References:
        Dau et al., The UCR Time Series Archive, 2019; Gao et al., PLAID, BuildSys 2014; Gisler et al., Appliance
        Consumption Signature Database and Recognition Test Protocols, WOSSPA 2013.
    """

    grade: ClassVar[Grade] = "measured"

    series: Series = "plaid"
    length: Annotated[int, Field(ge=1, le=100_000)] | None = None
    folder: str | None = None

    def load(self) -> Data:
        """Returns the rows: inputs (n, length).

        Raises:
            DataError: a file is missing, damaged, or not the pinned one.
        """
        name, usual, *digests = _FILES[self.series]
        (train, train_labels), (test, test_labels) = (
            read_ts(_find(f"{name}_{half}.ts", self.folder), sha256=sha256)
            for half, sha256 in zip(("TRAIN", "TEST"), digests, strict=True)
        )
        inputs, test_inputs = of_length(train, self.length or usual), of_length(test, self.length or usual)
        tested = {row.tobytes() for row in test_inputs}
        fresh = np.array([row.tobytes() not in tested for row in inputs])
        return checked(
            Data(
                train_inputs=inputs[fresh],
                train_labels=train_labels[fresh],
                test_inputs=test_inputs,
                test_labels=test_labels,
                classes=int(train_labels.max()) + 1,
                name=f"appliances ({self.series})",
                licence=CREDIT,
            )
        )

    @classmethod
    def place(cls) -> str:
        """Returns the folder of its first file.

        Raises:
            DataError: a file is in none of the folders searched.
        """
        found = [_find(f"{name}_{half}.ts", None) for name, *_ in _FILES.values() for half in ("TRAIN", "TEST")]
        return str(found[0].parent)
