"""A plan: who holds which segment, and what that takes, sends and lasts (equations 5, 6 and 7 of the document).

Equation 5 lets a radio send to everybody at once. So every plan has three latencies:

- Eq. 5: in each layer the slowest pair counts: the largest single transfer to a device, and its computation;
- NIC: each radio sends one thing at a time, and receives one thing at a time;
- shared: all devices share one channel, as in one home's Wi-Fi.

Between two devices the slower link counts, but for Eq. 5, which knows the sender's only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privet.inference.distributed.fleets import Fleet, Floats, Indices, Usage
from privet.inference.distributed.workload import Workload

Owners = tuple[Indices, ...]
"""For each layer, the device that holds each of its segments."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Who holds which segment of one request, and what it costs.

    Attributes:
        load: what was asked for.
        fleet: who was there.
        owners: for each layer, the device that holds each segment.
        latency_s: seconds by Eq. 5.
        latency_nic_s: seconds when each radio does one thing at a time.
        latency_shared_s: seconds when all share one channel.
        shared_bits: bits that travel between devices.
        usage: what each device gives.
    """

    load: Workload
    fleet: Fleet
    owners: Owners
    latency_s: float
    latency_nic_s: float
    latency_shared_s: float
    shared_bits: int
    usage: Usage

    @property
    def devices_used(self) -> int:
        """Number of helpers that hold anything."""
        return int((self.usage.devices < self.fleet.helpers).sum())

    @property
    def local_s(self) -> float:
        """Seconds that the source takes alone."""
        return float(self.load.multiplications / self.fleet.speed[-1])

    @property
    def run_locally(self) -> bool:
        """Whether the source alone is at least as fast as the plan on one shared channel, and has the memory."""
        return bool(self.local_s <= self.latency_shared_s and self.load.memory <= self.fleet.memory[-1])


@dataclass(frozen=True, eq=False)
class Rejection:
    """A request that could not be planned.

    Attributes:
        reason: why, in one line.
        spent: what the attempt has taken and does not give back: nothing, but for the literal algorithm.
    """

    reason: str
    spent: Usage | None = None


@dataclass(frozen=True, eq=False)
class Transfer:
    """What devices send between two layers.

    Attributes:
        receivers: who holds a segment of the next layer, in rising order.
        slowest: for each receiver, the largest single transfer to it over its sender's rate, in seconds (Eq. 5).
        serial: for each receiver, when all its senders and itself are done, one thing at a time, in seconds.
        airtime: seconds on one channel for everything.
        senders: who sends.
        bits: how much each of them sends.
    """

    receivers: Indices
    slowest: Floats
    serial: Floats
    airtime: float
    senders: Indices
    bits: Floats


def priced(load: Workload, fleet: Fleet, owners: Owners) -> Plan:
    """Returns the plan that gives each segment to its owner."""
    # Only who takes part is looked at, under a number of its own: fleets are large, plans are not.
    devices = np.unique(np.concatenate(owners))
    number = np.zeros(len(fleet.speed), dtype=np.intp)
    number[devices] = np.arange(len(devices))
    speed, rate, size = fleet.speed[devices], fleet.rate[devices], len(devices)
    rates, link = np.unique(rate, return_inverse=True)
    pace = 1 / np.minimum(rates[:, None], rates)  # seconds of one bit between links
    work, sent, held = np.zeros(size), np.zeros(size), np.zeros(size)
    latency = nic = shared = 0.0
    before = senders = np.zeros(0, dtype=np.intp)
    for index, task in enumerate(load.tasks):
        if index and owners[index] is owners[index - 1] and task.kind == "activation":
            continue  # the maps stay where they are, and an activation costs nothing
        owner = number[owners[index]]
        count = np.bincount(owner, minlength=size)
        holders = np.flatnonzero(count)
        work[holders] += task.multiplications * count[holders]
        held[holders] += task.memory * count[holders]
        seconds = task.multiplications * count[holders] / speed[holders]
        moved = None
        if index and load.tasks[index - 1].kind == "convolution":
            counts = count[holders] * (task.arriving // task.segments)
            unit = float(load.tasks[index - 1].unit_bits)
            moved = _partial_maps(unit, senders, holders, counts, rate, link, pace)
        elif index and not np.array_equal(before, owner):
            moved = _whole_maps(float(load.tasks[index - 1].unit_bits), before, owner, rate)
        before, senders = owner, holders
        if moved is None:
            latency, nic, shared = latency + seconds.max(), nic + seconds.max(), shared + seconds.max()
            continue
        latency += (moved.slowest + seconds).max()
        nic += (moved.serial + seconds).max()
        shared += moved.airtime + seconds.max()
        sent[moved.senders] += moved.bits
    usage = Usage(devices, work, sent, held)
    return Plan(load, fleet, owners, float(latency), float(nic), float(shared), round(sent.sum()), usage)


def _partial_maps(
    unit: float, senders: Indices, receivers: Indices, counts: Indices, rate: Floats, link: Indices, pace: Floats
) -> Transfer:
    # Every holder of an input map sends one partial map for every output map that another device holds (Eq. 6).
    from_, to = link[senders], link[receivers]
    own = np.zeros(len(rate))
    own[receivers] = counts
    kept = own[senders]
    own[:] = 0.0
    own[senders] = 1.0
    sends = unit * (pace[from_] @ np.bincount(to, counts, len(pace)) - kept / rate[senders])
    inbound = pace[to] @ np.bincount(from_, minlength=len(pace)) - own[receivers] / rate[receivers]
    slowest = unit * counts * _largest_of_others(1 / rate[senders], senders, receivers)
    serial = np.maximum(unit * counts * inbound, _largest_of_others(sends, senders, receivers))
    bits = unit * (counts.sum() - kept)
    return Transfer(receivers, slowest, serial, float(sends.sum()), senders, bits)


def _largest_of_others(values: Floats, senders: Indices, receivers: Indices) -> Floats:
    """Returns for each receiver the largest value of all senders but itself; 0 where there is no other."""
    first = int(values.argmax())
    second = max(values[:first].max(initial=0.0), values[first + 1 :].max(initial=0.0))
    largest = np.full(len(receivers), float(values[first]))
    largest[receivers == senders[first]] = second
    return largest


def _whole_maps(unit: float, sending: Indices, receiving: Indices, rate: Floats) -> Transfer:
    size = len(rate)
    pairs, counts = np.unique(sending * size + receiving, return_counts=True)
    from_, to = pairs // size, pairs % size
    bits = np.where(from_ == to, 0.0, counts * unit)
    seconds = bits / np.minimum(rate[from_], rate[to])
    sends, receives = np.bincount(from_, seconds, size), np.bincount(to, seconds, size)
    slowest, serial = np.zeros(size), receives.astype(np.float64)
    np.maximum.at(slowest, to, bits / rate[from_])
    np.maximum.at(serial, to, np.where(bits > 0, sends[from_], 0.0))
    senders, receivers = np.flatnonzero(np.bincount(from_, bits, size)), np.unique(receiving)
    sent = np.bincount(from_, bits, size)[senders].astype(np.float64)
    return Transfer(receivers, slowest[receivers], serial[receivers], float(seconds.sum()), senders, sent)
