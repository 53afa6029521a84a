"""A user's own CSV and NPZ files, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.errors import DataError, PartError
from privet.fleet.datasets.csv import Csv
from privet.fleet.datasets.npz import Npz

GOOD = "heat,speed,fault\n1.5,2,no\n-3,4e2,yes\n5,6,no\n7,8,yes\n9,1,no\n"


def write(folder: Path, text: str | bytes) -> str:
    path = folder / "own.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_csv_numbers_are_raw_and_text_targets_sorted(tmp_path: Path) -> None:
    data = Csv(path=write(tmp_path, GOOD), target="fault", test_fraction=0.2).load()
    rows = {tuple(row) for row in np.vstack([data.train_inputs, data.test_inputs]).tolist()}
    assert rows == {(1.5, 2), (-3, 400), (5, 6), (7, 8), (9, 1)}
    by_row = dict(zip(data.train_inputs[:, 0].tolist(), data.train_labels.tolist(), strict=True))
    assert len(by_row) == 4
    assert by_row.items() <= {1.5: 0, -3: 1, 5: 0, 7: 1, 9: 0}.items()
    assert (data.classes, data.name, data.train_keys, len(data.test_labels)) == (2, "own", None, 1)


def test_csv_numeric_targets_sort_as_numbers(tmp_path: Path) -> None:
    text = "x,y\n" + "".join(f"{n},{(2, 10, 2.0)[n % 3]}\n" for n in range(30))
    data = Csv(path=write(tmp_path, text), target="y").load()
    assert data.classes == 2  # 2 and 2.0 are one class, and 10 comes after 2
    labels = dict(zip(data.train_inputs[:, 0].tolist(), data.train_labels.tolist(), strict=True))
    assert all(label == (n % 3 == 1) for n, label in labels.items())


def test_csv_keys_quotes_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    text = '\ufeffx, y ,home\r\n1,"a, b",h1\r\n\r\n2,c,h2\r\n3,c,h1\r\n4,"a, b",h2\r\n5,c,h3\r\n'
    data = Csv(path=write(tmp_path, text), target="y", key="home").load()
    home = {1: "h1", 2: "h2", 3: "h1", 4: "h2", 5: "h3"}
    assert data.train_keys is not None
    assert data.train_keys.tolist() == [home[int(x)] for x in data.train_inputs[:, 0]]
    assert data.shape == (1,)


@pytest.mark.parametrize(
    ("text", "fields", "line"),
    [
        ("", {}, "no column 'fault'"),
        ("heat,speed,fault\n", {}, "own.csv has 0 rows"),
        ("heat,speed,fualt\n1,2,a\n", {}, "no column 'fault'; allowed: heat, speed, fualt; did you mean 'fualt'"),
        (GOOD, {"key": "home"}, "no column 'home'"),
        (GOOD.replace("heat", "speed"), {}, "the column 'speed' more than once"),
        ("fault\na\nb\n", {}, "no column is left as input"),
        (GOOD, {"key": "fault"}, "no column is left as input"),
        (GOOD.replace("4e2", ""), {}, "line 3, column 'speed': no value"),
        (GOOD.replace("4e2", "NaN"), {}, "line 3, column 'speed': no value"),
        (GOOD.replace("-3", " N/A "), {}, "line 3, column 'heat': no value"),
        (GOOD.replace("-3,4e2,yes", "-3,4e2,"), {}, "line 3, column 'fault': no value"),
        (GOOD.replace("5,6", "inf,6"), {}, "line 4, column 'heat': 'inf' is not a finite number"),
        (GOOD.replace("5,6", "1e39,6"), {}, "line 4, column 'heat': '1e39' is not a finite number"),
        (GOOD.replace("5,6", "red,6"), {}, "'red' is not a finite number; allowed: numbers in every column but"),
        (GOOD.replace("5,6,no", "5,6"), {}, "line 4 has 2 values, the header names 3 columns"),
        (GOOD.replace("5,6,no", "5,6,no,1"), {}, "line 4 has 4 values"),
        (GOOD.replace("5,6,no", '5,6,"n"o'), {}, "line 4 is not CSV"),
        (GOOD.replace("yes", "no"), {}, "all training rows have the label 0"),
        (GOOD.replace("no", "né").encode("latin-1"), {}, "is not UTF-8 .byte 0xe9.; allowed: UTF-8; convert it"),
        (GOOD.encode("utf-16"), {}, "is not UTF-8"),
    ],
)
def test_csv_refuses_in_one_line(tmp_path: Path, text: str | bytes, fields: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        Csv(path=write(tmp_path, text), target="fault", **fields).load()
    assert "\n" not in caught.value.advice()


def test_csv_missing_file_and_bad_fraction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        Csv(path=str(tmp_path / "none.csv"), target="y").load()
    with pytest.raises(PartError, match="test_fraction"):
        Csv(path="x", target="y", test_fraction=1)


def arrays(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    good = {
        "train_inputs": rng.random((6, 2)),
        "train_labels": np.arange(6, dtype=np.uint8) % 3,
        "test_inputs": np.ones((2, 2), np.int16),
        "test_labels": np.array([0, 2]),
    }
    return {name: value for name, value in (good | changed).items() if value is not None}


def save(folder: Path, **changed: Any) -> str:
    np.savez(folder / "own.npz", **arrays(**changed))
    return str(folder / "own.npz")


def test_npz_any_number_type_becomes_what_data_is(tmp_path: Path) -> None:
    data = Npz(path=save(tmp_path, train_keys=np.array(list("aabbcc")), unread=np.array([1])), licence="mine").load()
    assert np.array_equal(data.train_inputs, arrays()["train_inputs"].astype(np.float32))
    assert data.test_inputs.tolist() == [[1, 1], [1, 1]]
    assert (data.classes, data.name, data.licence) == (3, "own", "mine")
    assert data.train_keys is not None
    assert data.train_keys.tolist() == list("aabbcc")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"test_labels": None}, "no array 'test_labels'; allowed: train_inputs, train_labels, test_inputs"),
        ({"train_inputs": None, "train_input": np.ones(3)}, "no array 'train_inputs'"),
        ({"train_inputs": np.full((6, 2), np.nan)}, "row 0 holds NaN"),
        ({"train_inputs": np.full((6, 2), 1e300)}, "row 0 holds NaN or infinity"),
        ({"train_inputs": np.array([["a", "b"]] * 6)}, "train_inputs is <U1; allowed: numbers"),
        ({"train_labels": np.linspace(0, 1, 6)}, "train_labels is float64; allowed: whole numbers from 0"),
        ({"train_labels": np.zeros(6, int), "test_labels": np.zeros(2, int)}, "all training rows have the label 0"),
        ({"train_labels": np.arange(6) * 1000}, "5001 classes, but only 6 training rows"),
        ({"train_labels": np.arange(6) - 1}, "run from -1"),
        ({"train_inputs": np.zeros((0, 2)), "train_labels": np.zeros(0, int)}, "has no rows"),
        ({"train_inputs": np.array([object()] * 6)}, "Privet never opens pickles"),
    ],
)
def test_npz_refuses_in_one_line(tmp_path: Path, changed: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        Npz(path=save(tmp_path, **changed)).load()
    assert "\n" not in caught.value.advice()


def test_npz_truncated_flipped_empty_bare_or_missing(tmp_path: Path) -> None:
    whole = Path(save(tmp_path)).read_bytes()
    bad = tmp_path / "bad.npz"
    flipped = bytearray(whole)
    flipped[200] ^= 1
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"no npz at all", b"\x80\x04N."):
        bad.write_bytes(content)
        with pytest.raises(DataError, match="damaged or no NPZ file"):
            Npz(path=str(bad)).load()
    np.save(tmp_path / "bare.npy", np.ones(3))
    with pytest.raises(DataError, match="one bare array"):
        Npz(path=str(tmp_path / "bare.npy")).load()
    with pytest.raises(DataError, match="No such file"):
        Npz(path=str(tmp_path / "none.npz")).load()
