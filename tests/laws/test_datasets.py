"""Laws of every data set: its promises hold, it is the same twice, and nobody's writing reaches the next load."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privet import parts
from privet.errors import DataError
from privet.fleet.data import Data, Dataset, checked
from privet.fleet.datasets.cifar10_jpeg import Cifar10Jpeg

NAMES = parts.names("datasets")
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
APPLIANCES = Path(os.environ.get("PRIVET_DATA") or MNIST.parent) / "appliances"
ARRAYS = ("train_inputs", "train_labels", "test_inputs", "test_labels")


def write_jpegs(path: Path, pictures: np.ndarray) -> None:
    """Writes pictures (n, 32, 32, 3), labelled 0 to 9 in turn, as files behind each other."""
    files = []
    for picture in pictures.astype(np.uint8):
        Image.fromarray(picture).save(file := io.BytesIO(), "JPEG", quality=95)
        files.append(file.getvalue())
    places = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, jpeg=jpeg, offset=places, y=np.arange(len(files)) % 10)


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
    elif request.param == "cifar10-jpeg":
        for side, rows in (("train", 30), ("test", 20)):
            write_jpegs(tmp_path / f"{side}.npz", np.random.default_rng(rows).integers(0, 256, (rows, 32, 32, 3)))
        fields = {"folder": str(tmp_path)}
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


def test_jpegs_are_read_in_order_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    plain = np.repeat(np.arange(30, dtype=np.uint8) * 8, 32 * 32 * 3).reshape(30, 32, 32, 3)
    for side in ("train", "test"):
        write_jpegs(tmp_path / f"{side}.npz", plain)
    data = Cifar10Jpeg(str(tmp_path)).load()
    assert np.abs(data.train_inputs.mean((1, 2, 3)) * 255 - plain[:, 0, 0, 0]).max() <= 1
    whole = (tmp_path / "test.npz").read_bytes()
    (tmp_path / "test.npz").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"test\.npz is damaged"):
        Cifar10Jpeg(str(tmp_path)).load()
