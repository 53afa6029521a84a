"""IDX files, the embedded MNIST images, the whole set, and the small digits."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from privet.errors import DataError, MissingExtraError
from privet.fleet.datasets import digits, mnist
from privet.fleet.datasets.digits import Digits
from privet.fleet.datasets.mnist import Mnist
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.fleet.fetch import Download
from privet.fleet.idx import read_idx

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mnist"
EMBEDDED = Path(mnist.__file__).parent / "mnist_10k"


def idx_bytes(array: np.ndarray) -> bytes:
    """Writes IDX the slow and obvious way."""
    out = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", side) for side in array.shape)
    return out + bytes(int(value) for value in array.flatten())


CUBE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = idx_bytes(CUBE)


@pytest.mark.parametrize("name", ["cube", "cube.gz"])
def test_reads_what_the_slow_twin_wrote(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(WHOLE) if name.endswith(".gz") else WHOLE)
    assert np.array_equal(read_idx(tmp_path / name, sha256=hashlib.sha256(WHOLE).hexdigest()), CUBE)


@pytest.mark.parametrize("cut", [0, 3, 4, 9, 16, len(WHOLE) - 1])
def test_truncated_idx_is_named(tmp_path: Path, cut: int) -> None:
    (tmp_path / "cube").write_bytes(WHOLE[:cut])
    with pytest.raises(DataError, match="cube is damaged: it"):
        read_idx(tmp_path / "cube")
    (tmp_path / "cube.gz").write_bytes(gzip.compress(WHOLE)[: cut + 1])
    with pytest.raises(DataError, match=r"cube\.gz is damaged: not a whole gzip file"):
        read_idx(tmp_path / "cube.gz")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (WHOLE + b"\0", "announces 24 bytes, it holds more"),
        (b"\0\0\x0d\3" + WHOLE[4:], "doesn't start as an IDX file"),
        (b"\0\0\x08\0", "doesn't start as an IDX file"),
        (b"\0\0\x08\3" + b"\xff" * 12, "more than 1073741824"),
        (b"PK\3\4 something else", "doesn't start as an IDX file"),
    ],
)
def test_what_is_no_idx_file_is_refused(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "cube").write_bytes(content)
    with pytest.raises(DataError, match=line):
        read_idx(tmp_path / "cube")


def test_wrong_checksum_missing_file_and_broken_gzip(tmp_path: Path) -> None:
    (tmp_path / "cube").write_bytes(WHOLE[:-1] + b"\xff")
    with pytest.raises(DataError, match="its sha256 is not the pinned"):
        read_idx(tmp_path / "cube", sha256=hashlib.sha256(WHOLE).hexdigest())
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "none")
    flipped = bytearray(gzip.compress(WHOLE))
    flipped[-6] ^= 1
    (tmp_path / "cube.gz").write_bytes(flipped)
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_idx(tmp_path / "cube.gz")


def test_embedded_files_are_the_pinned_ones() -> None:
    for each in mnist.FILES[2:]:
        unpacked = gzip.decompress((EMBEDDED / f"{each.file}.gz").read_bytes())
        assert hashlib.sha256(unpacked).hexdigest() == each.sha256
        assert len(unpacked) == each.bytes
    assert "CC" in Mnist10k().load().licence
    assert "ShareAlike" in (EMBEDDED / "LICENCE.txt").read_text()


def test_every_fifth_image_is_for_testing_and_classes_are_balanced() -> None:
    data = Mnist10k().load()
    labels = read_idx(EMBEDDED / "t10k-labels-idx1-ubyte.gz")
    images = read_idx(EMBEDDED / "t10k-images-idx3-ubyte.gz")
    assert np.array_equal(data.test_labels, labels[4::5])
    assert np.array_equal(data.train_labels[:5], labels[[0, 1, 2, 3, 5]])
    assert np.array_equal(np.round(data.test_inputs[7, 0] * 255), images[39])
    assert data.train_inputs.shape == (8000, 1, 28, 28)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 1)
    train, test = np.bincount(data.train_labels) / 8000, np.bincount(data.test_labels) / 2000
    assert np.abs(train - test).max() < 0.02
    assert (np.bincount(data.test_labels).min(), np.bincount(data.test_labels).max()) == (154, 253)


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small set under MNIST's names, whose checksums are pinned instead; no data elsewhere."""
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(1)
    pins = []
    for each in mnist.FILES:
        rows = 20 if each.file.startswith("train") else 10
        array = rng.integers(256, size=(rows, 28, 28)) if "images" in each.file else np.arange(rows) % 10
        content = idx_bytes(array)
        (folder / each.file).write_bytes(content)
        pins.append(Download(each.file, each.url, hashlib.sha256(content).hexdigest(), len(content)))
    monkeypatch.setattr(mnist, "FILES", tuple(pins))
    return folder


def test_mnist_is_found_in_folder_environment_and_cache(
    small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Mnist(folder=str(small_mnist)).load()
    assert (first.train_inputs.shape, first.test_inputs.shape) == ((20, 1, 28, 28), (10, 1, 28, 28))
    with pytest.raises(DataError, match=r"no file train-images.*run: privet data get mnist; or put the four IDX"):
        Mnist().load()
    with pytest.raises(DataError, match="privet data get mnist"):
        Mnist.place()
    for place in (tmp_path / "data" / "mnist", tmp_path / "cache" / "privet" / "mnist"):
        place.parent.mkdir(parents=True)
        small_mnist.rename(place)
        monkeypatch.setenv("PRIVET_DATA", str(tmp_path / "data"))
        assert np.array_equal(Mnist().load().train_inputs, first.train_inputs)
        assert Mnist.place() == str(place)
        small_mnist = place


def test_mnist_another_file_is_refused(small_mnist: Path) -> None:
    labels = small_mnist / "t10k-labels-idx1-ubyte"
    changed = bytearray(labels.read_bytes())
    changed[-1] = 3
    labels.write_bytes(changed)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is damaged: its sha256 is not the pinned"):
        Mnist(folder=str(small_mnist)).load()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}")
def test_whole_mnist_has_the_known_classes() -> None:
    data = Mnist(folder=str(SHARED)).load()
    assert np.bincount(data.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_digits_has_all_classes_on_both_sides() -> None:
    data = Digits().load()
    assert (len(data.train_labels), len(data.test_labels), data.shape) == (1438, 359, (1, 8, 8))
    assert np.bincount(data.test_labels).min() >= 25
    assert data.train_inputs.max() == 1


def test_digits_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'privet\[digits\]'"):
        Digits().load()
