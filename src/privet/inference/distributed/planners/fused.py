"""A fast planner: layers that pass whole maps on are fused into stages, and a dynamic programme goes over the stages.

In a stage, three thresholds say who holds how much: the slowest link that may take part, the most maps of one helper
(incoming transfers last as long as the most loaded one's), and the longest that a helper may compute or send. For each
link and each number of maps the smallest such time is found, for all stages at once, by bisection over classes of
devices that are alike. Eq. 5 adds up over stages, and a stage's transfers depend on the stage before only through its
slowest link, so the best chain of links is a shortest path. Then helpers are taken, fastest first, as many as it needs.

The path does not know what earlier stages leave over; taking helpers does. When it gets stuck, it begins again with
those helpers first that have most left, and without thresholds. It may reject what an exact search would place.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from privet.inference.distributed.classes import classes
from privet.inference.distributed.fleets import Indices, Remaining
from privet.inference.distributed.planners.contract import Planner
from privet.inference.distributed.plans import Plan, Rejection, priced
from privet.inference.distributed.stages import Stage, stages
from privet.inference.distributed.targets import BEYOND, Target, aim, seconds_of_a_map
from privet.inference.distributed.workload import Workload
from privet.parts import Grade, part

AT_ONCE = 512
"""How many helpers are looked at first."""


@part
class Fused(Planner):
    """Fused stages, a dynamic programme over links and loads, then fastest helpers first."""

    grade: ClassVar[Grade] = "measured"

    def place(self, load: Workload, left: Remaining) -> Plan | Rejection:
        steps = stages(load)
        maps, tail = _split(load, steps)
        reason = ""
        for spread in (False, True):
            taking = Taking(load, left, spread)
            reason = taking.run_tail(tail)
            if reason:
                return Rejection(reason)
            targets = None if spread else aim(maps, classes(left), left.fleet, taking.alone)
            reason = taking.run_maps(maps, targets)
            if not reason:
                return priced(load, left.fleet, tuple(taking.owners))
        return Rejection(reason)


def _split(load: Workload, steps: list[Stage]) -> tuple[list[Stage], list[Stage]]:
    """Returns stages over maps, and those of the fully connected layers."""
    first = load.first_linear
    return [step for step in steps if step.last < first], [step for step in steps if step.last >= first]


class Taking:
    """Takes helpers for one request and keeps count of what they have left."""

    def __init__(self, load: Workload, left: Remaining, spread: bool) -> None:
        self.load, self.fleet, self.spread = load, left.fleet, spread
        self.multiplications, self.bits = left.multiplications.copy(), left.bits.copy()
        self.memory = left.memory.copy()
        source = np.array([self.fleet.helpers], dtype=np.intp)
        self.owners: list[Indices] = [
            np.repeat(source, task.segments) if there else source
            for task, there in zip(load.tasks, load.at_source, strict=True)
        ]
        self.orders: dict[float, Indices] = {}
        self.alone = -1  # who runs the first fully connected layer, when the source does not
        self._source()

    def _source(self) -> None:
        for index, there in enumerate(self.load.at_source):
            if there:
                self._take(np.array([self.fleet.helpers]), np.array([self.load.tasks[index].segments]), index, index)

    def _take(self, devices: Indices, counts: Indices, first: int, last: int) -> None:
        tasks = self.load.tasks[first : last + 1]
        self.multiplications[devices] -= counts * sum(task.multiplications for task in tasks)
        self.memory[devices] -= counts * sum(task.memory for task in tasks)
        end = tasks[-1]
        if last + 1 == len(self.load.tasks):
            return
        # A device may keep some of it; that is not counted on.
        going = end.outputs if end.kind == "convolution" else counts
        self.bits[devices] -= going * float(end.unit_bits)

    def run_tail(self, tail: list[Stage]) -> str:
        """Finds the helper for all fully connected layers that the source does not compute; returns why not, or ""."""
        short = min(float(column[-1]) for column in (self.multiplications, self.bits, self.memory))
        if short < 0:
            return "the source is short of computation, bandwidth or memory"
        groups = [tail] if self._runner(tail) >= 0 else [[step] for step in tail]
        for group in groups:
            device = self._runner(group)
            if group and device < 0:
                return f"no helper is free for {self.load.tasks[group[-1].last].name}"
            for step in group:
                self._give(step, np.array([device]), np.array([1]))
            if group is groups[0] and not self.load.at_source[self.load.first_linear]:
                self.alone = device
        return ""

    def _runner(self, group: list[Stage]) -> int:
        if not group:
            return 0
        work, memory = sum(step.multiplications for step in group), sum(step.memory for step in group)
        bits = float(sum(step.unit_bits for step in group))
        able = (self.multiplications >= work) & (self.memory >= memory) & (self.bits >= bits)
        seconds = np.where(able, work / self.fleet.speed + bits / self.fleet.rate, np.inf)[:-1]
        best = int(seconds.argmin())
        return best if np.isfinite(seconds[best]) else -1

    def run_maps(self, maps: list[Stage], targets: list[Target] | None) -> str:
        """Gives every stage's maps away; returns why it can't, or ""."""
        for number, step in enumerate(maps):
            target = targets[number] if targets else Target(0.0, step.limit, np.inf)
            found = self._fill(step, target, self.spread)
            if found is None and targets:
                found = self._fill(step, Target(0.0, step.limit, np.inf), True)
            if found is None:
                return f"no helpers are free for all {step.segments} maps of {self.load.tasks[step.last].name}"
            self._give(step, *found)
        return ""

    def _give(self, step: Stage, devices: Indices, counts: Indices) -> None:
        self._take(devices, counts, step.first, step.last)
        owners = np.repeat(devices, counts)
        for index in range(step.first, step.last + 1):
            self.owners[index] = owners

    def _fill(self, step: Stage, target: Target, spread: bool) -> tuple[Indices, Indices] | None:
        if target.alone:
            order = np.array([self.alone])
            room = self._room(step, order, target)
            return (order, np.array([step.segments])) if room[0] >= step.segments else None
        order = self._order(target.rate, spread)
        looked = AT_ONCE
        while True:
            some = order[:looked]
            room = self._room(step, some, target)
            filled = np.cumsum(room)
            if len(some) and filled[-1] >= step.segments:
                break
            if looked >= len(order):
                return None
            looked *= 2
        end = int(np.searchsorted(filled, step.segments)) + 1
        counts = room[:end].copy()
        counts[-1] -= int(filled[end - 1]) - step.segments
        taken = counts > 0
        return some[:end][taken], counts[taken]

    def _order(self, rate: float, spread: bool) -> Indices:
        order = self.fleet.slower
        if spread:
            share = self.bits[order] / self.fleet.bits[order]
            return order[np.argsort(-share, kind="stable")]
        if rate not in self.orders:
            self.orders[rate] = order[self.fleet.rate[order] >= rate]
        return self.orders[rate]

    def _room(self, step: Stage, order: Indices, target: Target) -> Indices:
        """Returns how many maps of a stage each of some helpers can hold."""
        most = np.full(len(order), float(target.most))
        if step.multiplications:
            most = np.minimum(most, self.multiplications[order] // step.multiplications)
        if step.memory:
            most = np.minimum(most, self.memory[order] // step.memory)
        if step.spreads:
            most[self.bits[order] < step.outputs * float(step.unit_bits)] = 0
        else:
            most = np.minimum(most, self.bits[order] // step.unit_bits)
        if np.isfinite(target.seconds):
            each = seconds_of_a_map(step, self.fleet.speed[order], self.fleet.rate[order])
            timed = np.minimum(most, np.floor(target.seconds * BEYOND**2 / np.maximum(each, 1e-30)))
            # Who runs the next layer sends nothing to itself.
            most = timed if step.spreads else np.where(order == self.alone, most, timed)
        room: Indices = np.maximum(most, 0).astype(np.intp)
        return room
