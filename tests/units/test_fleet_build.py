"""Building a fleet: who is in it, which rows each holds, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from privet.errors import DataError, PlanError
from privet.fleet import Data, Device, build_fleet, find_profile
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.label_flip import LabelFlip
from privet.fleet.behaviours.silent import Silent
from privet.fleet.partitions.by_label import ByLabel
from privet.fleet.partitions.iid import Iid
from privet.randomness import seeded

DATA = Data(
    train_inputs=np.zeros((2000, 2), np.float32),
    train_labels=np.arange(2000) % 4,
    test_inputs=np.zeros((1, 2), np.float32),
    test_labels=np.zeros(1, np.int64),
    classes=4,
    name="rows",
)


def build(**changed: Any) -> list[Device]:
    plan: dict[str, Any] = {
        "data": DATA,
        "devices": 10,
        "profile": find_profile("raspberry-pi-3"),
        "partition": Iid(),
        "availability": Always(),
        "hostile": (),
        "examples_per_device": None,
        "rng": seeded(1),
    }
    return build_fleet(**plan | changed)


def test_names_hardware_and_all_rows() -> None:
    fleet = build()
    assert [device.identity for device in fleet] == [f"device-{n:03d}" for n in range(10)]
    assert sorted(np.concatenate([device.shard for device in fleet]).tolist()) == list(range(2000))
    assert all(device.examples == 200 and not device.behaviour.hostile for device in fleet)


def test_names_sort_in_order_however_many() -> None:
    names = [device.identity for device in build(devices=1001)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("device-0000", "device-1000")


def test_the_last_devices_are_hostile() -> None:
    fleet = build(hostile=[(1, LabelFlip()), (2, Silent())])
    assert [type(device.behaviour).__name__ for device in fleet] == ["Honest"] * 7 + ["LabelFlip", "Silent", "Silent"]


def test_hostile_devices_move_nobodys_rows() -> None:
    for one, two in zip(build(), build(hostile=[(3, Silent())]), strict=True):
        assert np.array_equal(one.shard, two.shard)


def test_examples_are_kept_at_random_from_the_own_shard() -> None:
    whole, few, again = build(), build(examples_per_device=20), build(examples_per_device=20)
    for one, two, three in zip(whole, few, again, strict=True):
        assert two.examples == 20
        assert set(two.shard) <= set(one.shard)
        assert (np.diff(two.shard) > 0).all()
        assert np.array_equal(two.shard, three.shard)
    assert not all(np.array_equal(one.shard[:20], two.shard) for one, two in zip(whole, few, strict=True))


def test_a_small_shard_keeps_what_it_has() -> None:
    partition = ByLabel(alpha=0.05)
    whole, few = (build(partition=partition, examples_per_device=limit) for limit in (None, 150))
    assert [min(device.examples, 150) for device in whole] == [device.examples for device in few]


def test_a_shard_of_one_class_is_allowed() -> None:
    shards = [np.flatnonzero(DATA.train_labels == label) for label in range(4)]
    fleet = build(devices=4, partition=shards)
    assert [set(DATA.train_labels[device.shard].tolist()) for device in fleet] == [{0}, {1}, {2}, {3}]


def test_given_shards_are_sorted_copies() -> None:
    given = [np.array([5, 3, 4], np.uint8), np.array([0])]
    fleet = build(devices=2, partition=given)
    assert fleet[0].shard.tolist() == [3, 4, 5]
    assert fleet[0].shard.dtype == np.int64
    assert given[0].tolist() == [5, 3, 4]


@pytest.mark.parametrize(
    ("changed", "kind", "line"),
    [
        ({"devices": 0}, PlanError, "a fleet of 0 devices; allowed: 1 device or more"),
        ({"devices": -1}, PlanError, "a fleet of -1 devices"),
        ({"devices": 2001}, DataError, "2001 devices want 1 training row each, there are 2000; take fewer devices"),
        ({"examples_per_device": 0}, PlanError, "0 examples a device"),
        ({"examples_per_device": 201}, DataError, "10 devices want 201 training rows each, there are 2000"),
        ({"hostile": [(10, Silent())]}, PlanError, "10 hostile devices in a fleet of 10; allowed: at most 9"),
        ({"hostile": [(5, Silent()), (6, Silent())]}, PlanError, "11 hostile devices"),
        ({"hostile": [(-1, Silent())]}, PlanError, "-1 hostile devices; allowed: 0 or more"),
        ({"devices": 2, "partition": [np.arange(3)]}, DataError, "1 shards for 2 devices"),
        ({"devices": 2, "partition": [np.arange(3), np.arange(0)]}, DataError, "shard 1 is empty"),
        ({"devices": 2, "partition": [np.arange(3), np.arange(2, 4)]}, DataError, "shard 1 has a row that was dealt"),
        ({"devices": 1, "partition": [np.array([1, 1])]}, DataError, "shard 0 has a row that was dealt"),
        ({"devices": 1, "partition": [np.array([1, 2000])]}, DataError, "rows 1 to 2000; allowed: 0 to 1999"),
        ({"devices": 1, "partition": [np.array([-1, 0])]}, DataError, "rows -1 to 0"),
        ({"devices": 1, "partition": [np.array([0.5])]}, DataError, "shard 0 is no list of rows"),
        ({"devices": 1, "partition": [[1, 2]]}, DataError, "shard 0 is no list of rows"),
    ],
)
def test_refused_in_one_line(changed: dict[str, Any], kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line) as caught:
        build(**changed)
    assert "\n" not in str(caught.value)
