"""What data must be before a run sees it, and how it is split."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from privet.errors import DataError
from privet.fleet.data import Data, checked, hold_out

GOOD = Data(
    train_inputs=np.random.default_rng(1).random((8, 3), dtype=np.float32),
    train_labels=np.arange(8) % 2,
    test_inputs=np.zeros((2, 3), np.float32),
    test_labels=np.array([0, 1]),
    classes=2,
    name="rows",
)


def with_value(value: float) -> np.ndarray:
    inputs = GOOD.train_inputs.copy()
    inputs[5, 1] = value
    return inputs


def test_good_data_passes_as_it_is() -> None:
    assert checked(GOOD) is GOOD
    assert GOOD.shape == (3,)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"train_inputs": with_value(np.nan)}, r"rows: train_inputs: row 5 holds NaN or infinity"),
        ({"train_inputs": with_value(-np.inf)}, r"row 5 holds NaN or infinity"),
        ({"train_inputs": GOOD.train_inputs.astype(np.float64)}, r"float64 of shape \(8, 3\); allowed: float32"),
        ({"train_inputs": GOOD.train_inputs[:7]}, "7 inputs but 8 labels"),
        ({"train_inputs": GOOD.train_inputs[:, 0]}, r"shape \(8,\); allowed: float32 of shape"),
        ({"train_inputs": np.zeros((0, 3), np.float32), "train_labels": np.zeros(0, np.int64)}, "train has no rows"),
        ({"test_inputs": np.zeros((0, 3), np.float32), "test_labels": np.zeros(0, np.int64)}, "test has no rows"),
        ({"test_inputs": np.zeros((2, 4), np.float32)}, r"test inputs have shape \(4,\), training inputs \(3,\)"),
        ({"train_labels": GOOD.train_labels.astype(np.int32)}, "int32 of shape"),
        ({"train_labels": np.zeros(8, np.int64)}, "all training rows have the label 0; allowed: two classes or more"),
        ({"train_labels": np.arange(8) - 1}, "train_labels run from -1 to 6; allowed: 0 to 1"),
        ({"test_labels": np.array([0, 2])}, "test_labels run from 0 to 2"),
        ({"classes": 9}, "9 classes, but only 8 training rows"),
        ({"train_keys": np.arange(7)}, r"train_keys has shape \(7,\); allowed: \(8,\)"),
        (
            {"train_inputs": np.full((8, 1, 2, 2), 255, np.float32), "test_inputs": np.zeros((2, 1, 2, 2), np.float32)},
            r"images from 255 to 255; allowed: images .* in \[0, 1\]; divide bytes by 255",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(changed: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        checked(dataclasses.replace(GOOD, **changed))
    assert "\n" not in caught.value.advice()


@pytest.mark.parametrize(("rows", "fraction", "tests"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (1797, 0.2, 359)])
def test_hold_out_deals_each_row_once(rows: int, fraction: float, tests: int) -> None:
    train, test = hold_out(rows, fraction)
    assert len(test) == tests
    assert sorted([*train, *test]) == list(range(rows))
    assert (np.diff(train) > 0).all()
    assert np.array_equal(hold_out(rows, fraction)[1], test)


def test_hold_out_never_changes() -> None:
    assert hold_out(10, 0.3)[1].tolist() == [1, 7, 9]
