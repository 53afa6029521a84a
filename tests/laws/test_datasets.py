"""Laws of every data set: its promises hold, it is the same twice, and nobody's writing reaches the next load."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from privet import parts
from privet.fleet.data import Data, Dataset, checked

NAMES = parts.names("datasets")
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
APPLIANCES = Path(os.environ.get("PRIVET_DATA") or MNIST.parent) / "appliances"
ARRAYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


@pytest.fixture(params=NAMES)
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Every data set; those that need a file of the user get a small one."""
    fields: dict[str, str] = {}
    if request.param == "csv":
        lines = [f"{n / 7},{n % 3},{'yes' if n % 2 else 'no'},home-{n % 4}" for n in range(40)]
        (tmp_path / "own.csv").write_text("\n".join(["heat,speed,fault,home", *lines]))
        fields = {"path": str(tmp_path / "own.csv"), "target": "fault", "key": "home"}
    elif request.param == "npz":
        values, labels = np.random.default_rng(1).normal(size=(40, 5)), np.arange(40) % 3
        np.savez(
            tmp_path / "own.npz",
            **dict(zip(ARRAYS, (values[:30], labels[:30], values[30:], labels[30:]), strict=True)),
            train_keys=np.arange(30) % 4,
        )
        fields = {"path": str(tmp_path / "own.npz")}
    elif request.param == "mnist":
        if not MNIST.is_dir():
            pytest.skip(f"no {MNIST}")
        fields = {"folder": str(MNIST)}
    elif request.param == "appliances":
        if not APPLIANCES.is_dir():
            pytest.skip(f"no {APPLIANCES}")
        fields = {"folder": str(APPLIANCES)}
    return parts.build("datasets", {"name": request.param, **fields})


def test_promises_hold(dataset: Dataset) -> None:
    data = dataset.load()
    assert checked(data) is data
    assert data.name
    assert set(np.unique(data.train_labels)) == set(range(data.classes))


def test_the_same_twice_and_writing_stays_local(dataset: Dataset) -> None:
    first = dataset.load()
    kept = {name: getattr(first, name)[:50].copy() for name in ARRAYS}
    for name in ARRAYS:
        getattr(first, name)[...] = 0
    second = dataset.load()
    for name in ARRAYS:
        assert np.array_equal(kept[name], getattr(second, name)[:50])


def test_no_row_is_in_both_halves(dataset: Dataset) -> None:
    data: Data = dataset.load()
    train, test = ({row.tobytes() for row in rows} for rows in (data.train_inputs, data.test_inputs))
    assert not train & test


def test_round_trip_through_a_plan(dataset: Dataset) -> None:
    assert parts.build("datasets", parts.to_table(dataset)) == dataset
