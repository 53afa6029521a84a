"""Laws of every partition: all rows dealt, none twice, none empty, and the same again from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet import parts
from privet.errors import DataError
from privet.fleet.data import Data
from privet.fleet.partitions.by_key import ByKey
from privet.fleet.partitions.by_label import ByLabel
from privet.fleet.partitions.by_quantity import ByQuantity
from privet.fleet.partitions.contract import Partition
from privet.fleet.partitions.few_classes import FewClasses
from privet.randomness import seeded

NAMES = parts.names("partitions")


def rows(count: int, classes: int = 4, keys: int = 12) -> Data:
    """Returns a data set of ``count`` rows in random order of labels, with ``keys`` natural keys."""
    rng = np.random.default_rng(count)
    return Data(
        train_inputs=rng.random((count, 2), dtype=np.float32),
        train_labels=rng.permutation(np.arange(count) % classes),
        test_inputs=np.zeros((1, 2), np.float32),
        test_labels=np.zeros(1, np.int64),
        classes=classes,
        name="rows",
        train_keys=np.array([f"home-{key}" for key in rng.permutation(np.arange(count) % keys)]),
    )


def make(name: str) -> Partition:
    return parts.build("partitions", {"name": name})


@pytest.mark.parametrize("devices", [1, 2, 7, 12])
@pytest.mark.parametrize("name", NAMES)
def test_every_row_lies_on_one_device(name: str, devices: int) -> None:
    shards = make(name).split(rows(120), devices, seeded(1))
    assert len(shards) == devices
    assert sorted(np.concatenate(shards).tolist()) == list(range(120))
    for shard in shards:
        assert shard.dtype == np.int64
        assert len(shard) > 0
        assert (np.diff(shard) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_row_a_device_is_enough(name: str) -> None:
    shards = make(name).split(rows(12), 12, seeded(1))
    assert sorted(np.concatenate(shards).tolist()) == list(range(12))
    assert all(len(shard) == 1 for shard in shards)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_shards_and_data_untouched(name: str) -> None:
    data = rows(120)
    labels, keys = data.train_labels.copy(), data.train_keys.copy()
    first = make(name).split(data, 5, seeded(3))
    second = make(name).split(data, 5, seeded(3))
    other = make(name).split(data, 5, seeded(4))
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert np.array_equal(labels, data.train_labels)
    assert np.array_equal(keys, data.train_keys)


@pytest.mark.parametrize("name", NAMES)
def test_more_devices_than_rows_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="13 devices"):
        make(name).split(rows(12), 13, seeded(1))


@settings(max_examples=30)
@given(
    alpha=st.floats(1e-3, 1e4),
    devices=st.integers(1, 20),
    min_rows=st.integers(1, 5),
    family=st.sampled_from([ByLabel, ByQuantity]),
)
def test_skewed_shards_keep_their_minimum(alpha: float, devices: int, min_rows: int, family: type) -> None:
    shards = family(alpha=alpha, min_rows=min_rows).split(rows(100), devices, seeded(devices))
    assert min(len(shard) for shard in shards) >= min_rows
    assert sorted(np.concatenate(shards).tolist()) == list(range(100))


def most_common_share(shards: list[np.ndarray], labels: np.ndarray) -> float:
    """Returns the mean share of a device's most common label."""
    return float(np.mean([np.bincount(labels[shard]).max() / len(shard) for shard in shards]))


def test_alpha_decides_how_one_sided_labels_are() -> None:
    data = rows(4000)
    mild, strong = (
        most_common_share(ByLabel(alpha=alpha).split(data, 10, seeded(1)), data.train_labels) for alpha in (1000, 0.05)
    )
    assert mild < 0.3
    assert strong > 0.7


def test_alpha_decides_how_unlike_sizes_are() -> None:
    sizes = {a: [len(s) for s in ByQuantity(alpha=a).split(rows(4000), 10, seeded(1))] for a in (1e5, 0.1)}
    assert max(sizes[1e5]) < 1.05 * min(sizes[1e5])
    assert max(sizes[0.1]) > 10 * min(sizes[0.1])


def test_minimum_beyond_the_rows_is_refused() -> None:
    with pytest.raises(DataError, match="4 devices want 4 training rows each, there are 12"):
        ByLabel(min_rows=4).split(rows(12), 4, seeded(1))


def test_a_key_is_never_torn_apart() -> None:
    data = rows(120, keys=12)
    for devices in (5, 12):
        holders = {}
        for number, shard in enumerate(ByKey().split(data, devices, seeded(2))):
            for key in data.train_keys[shard]:
                assert holders.setdefault(key, number) == number


def test_with_as_many_devices_as_keys_each_holds_one_in_order() -> None:
    data = rows(120, keys=3)
    held = [set(data.train_keys[shard]) for shard in ByKey().split(data, 3, seeded(2))]
    assert held == [{"home-0"}, {"home-1"}, {"home-2"}]


def test_by_key_wants_keys_and_enough_of_them() -> None:
    with pytest.raises(DataError, match=r"2 keys for 3 devices; allowed: 1 to 2 devices"):
        ByKey().split(rows(12, keys=2), 3, seeded(1))
    without = Data(
        *(getattr(rows(12), f) for f in ("train_inputs", "train_labels", "test_inputs", "test_labels")), 4, "x"
    )
    with pytest.raises(DataError, match="no natural keys"):
        ByKey().split(without, 2, seeded(1))


def test_few_classes_means_few_classes_and_equal_sizes() -> None:
    data = rows(400, classes=10)
    shards = FewClasses(pieces=2).split(data, 10, seeded(1))
    assert {len(shard) for shard in shards} == {40}
    assert max(len(np.unique(data.train_labels[shard])) for shard in shards) <= 4
    assert len(np.unique(data.train_labels[np.concatenate(shards)])) == 10
