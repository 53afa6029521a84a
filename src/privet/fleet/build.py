"""Builds a fleet: devices with their rows, hardware, availability and behaviour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privet.errors import DataError, PlanError
from privet.fleet.availability.contract import Availability
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.behaviours.honest import Honest
from privet.fleet.data import Data
from privet.fleet.device import Device
from privet.fleet.partitions.contract import Partition, refuse_too_few
from privet.fleet.profile import Profile
from privet.randomness import Source


def build_fleet(
    *,
    data: Data,
    devices: int,
    profile: Profile,
    partition: Partition | Sequence[np.ndarray],
    availability: Availability,
    hostile: Sequence[tuple[int, Behaviour]] = (),
    examples_per_device: int | None = None,
    rng: Source,
) -> list[Device]:
    """Returns the devices of a fleet, ``device-000`` and so on, sorted by identity.

    Args:
        data: whose training rows are dealt out.
        devices: how many devices.
        profile: the hardware of all of them.
        partition: how rows are dealt, or the rows of each device as index arrays.
        availability: when they answer.
        hostile: (how many, what they do) pairs. Hostile devices are the last ones, in the order of the
            pairs; all others are honest. At least one device stays honest.
        examples_per_device: rows that a device keeps at most, chosen at random from its shard; None for all.
        rng: where the dealing comes from.

    Raises:
        PlanError: the number of devices, of hostile devices or of examples makes no sense.
        DataError: there are too few rows, or given index arrays overlap, are empty or leave the data.
    """
    if devices < 1:
        raise PlanError(f"a fleet of {devices} devices", allowed="1 device or more")
    rows = len(data.train_labels)
    refuse_too_few(rows, devices)
    if examples_per_device is not None:
        if examples_per_device < 1:
            raise PlanError(f"{examples_per_device} examples a device", allowed="1 or more")
        refuse_too_few(rows, devices, examples_per_device)
    behaviours = _behaviours(devices, hostile)
    if isinstance(partition, Partition):
        shards = partition.split(data, devices, rng.child("partition"))
    else:
        shards = _given(partition, rows, devices)
    digits = max(3, len(str(devices - 1)))
    fleet = []
    for number, (shard, behaviour) in enumerate(zip(shards, behaviours, strict=True)):
        identity = f"device-{number:0{digits}d}"
        if examples_per_device is not None and examples_per_device < len(shard):
            kept = rng.child("examples", identity).permutation(len(shard)).numpy()[:examples_per_device]
            shard = np.sort(shard[kept])
        fleet.append(Device(identity, profile, shard, availability, behaviour))
    return fleet


def _behaviours(devices: int, hostile: Sequence[tuple[int, Behaviour]]) -> list[Behaviour]:
    bad: list[Behaviour] = []
    for count, behaviour in hostile:
        if count < 0:
            raise PlanError(f"{count} hostile devices", allowed="0 or more")
        bad += [behaviour] * count
    if len(bad) >= devices:
        raise PlanError(
            f"{len(bad)} hostile devices in a fleet of {devices}",
            allowed=f"at most {devices - 1}",
            do="take more devices or fewer hostile ones",
        )
    return [Honest()] * (devices - len(bad)) + bad


def _given(shards: Sequence[np.ndarray], rows: int, devices: int) -> list[np.ndarray]:
    """Returns index arrays of the user, checked and sorted."""
    if not isinstance(shards, list | tuple):
        raise DataError(f"the partition is a {type(shards).__name__}", allowed="a list of arrays of row numbers")
    if len(shards) != devices:
        raise DataError(f"a partition of {len(shards)} shards for {devices} devices", allowed=f"{devices} shards")
    taken = np.zeros(rows, dtype=bool)
    for number, shard in enumerate(shards):
        if not isinstance(shard, np.ndarray) or shard.ndim != 1 or shard.dtype.kind not in "iu":
            raise DataError(f"shard {number} is no list of rows", allowed="one-dimensional arrays of row numbers")
        if not len(shard):
            raise DataError(f"shard {number} is empty", allowed="at least one row a device", do="take fewer devices")
        if shard.min() < 0 or shard.max() >= rows:
            raise DataError(f"shard {number} has rows {shard.min()} to {shard.max()}", allowed=f"0 to {rows - 1}")
        if taken[shard].any() or len(np.unique(shard)) < len(shard):
            raise DataError(f"shard {number} has a row that was dealt before", allowed="each row on one device")
        taken[shard] = True
    return [np.sort(shard).astype(np.int64) for shard in shards]
