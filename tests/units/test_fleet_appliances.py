"""Time series of appliances: the small reader against damaged files, and the pinned ones where they are."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from privet.errors import DataError
from privet.fleet.datasets.appliances import Appliances
from privet.fleet.time_series import of_length, read_ts

DATA = Path(os.environ.get("PRIVET_DATA") or Path(__file__).parents[3] / "shared" / "data") / "appliances"
TEXT = "#\ufeff# a set\n@problemName small\n@classLabel true lamp fridge\n@data\n1.5,-2,3E-1:fridge\n4:lamp\n"


def test_series_of_any_length_with_their_labels(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text(TEXT, encoding="utf-8")
    (tmp_path / "a.ts.xz").write_bytes(lzma.compress(TEXT.encode()))
    for name in ("a.ts", "a.ts.xz"):
        series, labels = read_ts(tmp_path / name)
        assert [values.tolist() for values in series] == [[1.5, -2.0, 0.3], [4.0]]
        assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (TEXT.replace("fridge\n4", "kettle\n4").encode(), "is none of its labels"),
        (TEXT.replace("4:lamp", "4").encode(), "is none of its labels"),
        (TEXT.replace("4:lamp", "4:5:lamp").encode(), "is none of its labels"),
        (TEXT.replace("-2", "x").encode(), "could not convert"),
        (TEXT.replace("@data", "").encode(), "no @classLabel line before @data"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_damaged_text_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.ts").write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_ts(tmp_path / "a.ts")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read"):
        read_ts(tmp_path / "none.ts")
    (tmp_path / "a.ts.xz").write_bytes(lzma.compress(TEXT.encode())[:-9])
    with pytest.raises(DataError, match="not a whole xz file"):
        read_ts(tmp_path / "a.ts.xz")
    (tmp_path / "a.ts").write_text(TEXT, encoding="utf-8")
    with pytest.raises(DataError, match="is not the pinned"):
        read_ts(tmp_path / "a.ts", sha256="0" * 64)


def test_rows_have_one_length_and_their_own_scale() -> None:
    rows = of_length([np.array([1.0, 3.0]), np.arange(5.0), np.full(3, 7.0)], 3)
    np.testing.assert_allclose(rows[0], [-1, 1, 0])
    np.testing.assert_allclose(rows[1], (np.arange(5) - 2)[:3] / np.sqrt(2), rtol=1e-6)
    assert not rows[2].any()
    assert rows.dtype == np.float32


def test_a_missing_file_says_how_to_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    with pytest.raises(DataError, match="PLAID_TRAIN") as caught:
        Appliances().load()
    assert "pip download --no-deps sktime==1.2.0" in caught.value.advice()


@pytest.mark.parametrize(
    ("series", "rows", "test", "classes", "length"),
    [("plaid", 532, 537, 11, 256), ("acsf1", 100, 100, 10, 1460), ("italy-power-demand", 67, 1029, 2, 24)],
)
@pytest.mark.skipif(not DATA.is_dir(), reason="the appliance series are not here: bring them by hand")
def test_the_pinned_sets(series: str, rows: int, test: int, classes: int, length: int) -> None:
    data = Appliances(series=series, folder=str(DATA)).load()
    assert data.train_inputs.shape == (rows, length)
    assert (len(data.test_labels), data.classes) == (test, classes)
    assert Appliances(series=series, folder=str(DATA), length=10).load().shape == (10,)
