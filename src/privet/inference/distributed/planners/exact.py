"""The optimum, by constraint programming: how many maps of a layer a device holds, and how many go from whom to whom.

Maps of a layer are interchangeable, so counts say all. Meant for small instances, as a yardstick: seconds for LeNet.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from privet.errors import MissingExtraError
from privet.inference.distributed.fleets import Indices, Remaining
from privet.inference.distributed.planners.contract import Planner
from privet.inference.distributed.planners.fused import Fused
from privet.inference.distributed.plans import Plan, Rejection, priced
from privet.inference.distributed.workload import Workload
from privet.parts import Grade, part

TICKS = 1_000_000_000
"""Ticks of a second: latencies are whole nanoseconds, rounded up."""
SLACK = 1e-4
"""How much longer than in seconds a latency in ticks may be, because ticks are rounded up."""
LONGEST = 10**13
"""The most ticks that a layer may last: 10,000 seconds."""


@part
class Exact(Planner):
    """The plan with the lowest latency by Eq. 5, found by a constraint solver.

    Attributes:
        seconds: how long to look; a plan that is not proved to be the best by then is not returned.
        within: how far above the optimum the plan may be, as a share of it.
    """

    grade: ClassVar[Grade] = "measured"

    seconds: Annotated[float, Field(gt=0)] = 60.0
    within: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def place(self, load: Workload, left: Remaining) -> Plan | Rejection:
        try:
            from ortools.sat.python import cp_model
        except ModuleNotFoundError:
            raise MissingExtraError("OR-tools", "planner") from None
        program = _Program(cp_model.CpModel(), load, left)
        program.model.minimize(sum(program.lasts))
        program.order_alike()
        found = Fused()(load, left)
        if isinstance(found, Plan):
            program.start_from(found)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = self.seconds
        solver.parameters.num_workers = 1
        solver.parameters.relative_gap_limit = self.within
        status = solver.solve(program.model)
        if status == cp_model.INFEASIBLE:
            return Rejection("no plan keeps all constraints")
        if status != cp_model.OPTIMAL:
            return Rejection(f"the best plan was not found within {self.seconds:g} s")
        return priced(load, left.fleet, program.owners(solver))


class _Program:
    """Variables and constraints of one request."""

    def __init__(self, model: Any, load: Workload, left: Remaining) -> None:
        self.model, self.load, self.left, self.fleet = model, load, left, left.fleet
        self.size = left.fleet.helpers + 1
        self.counts: list[list[Any]] = [self._counts(index) for index in range(len(load.tasks))]
        self.flows: list[dict[tuple[int, int], Any]] = [{} for _ in load.tasks]
        self.sent: list[list[Any]] = [[] for _ in range(self.size)]
        self.seen: dict[int, list[list[Any]]] = {}
        self.lasts: list[Any] = []
        for index in range(len(load.tasks)):
            self._layer(index)
        self._budgets()

    def _counts(self, index: int) -> list[Any]:
        task, limit, source = self.load.tasks[index], self.load.limits[index], self.fleet.helpers
        if self.load.at_source[index]:
            return [task.segments if device == source else 0 for device in range(self.size)]
        most = task.segments if limit is None else min(limit, task.segments)
        counts = [self.model.new_int_var(0, most, f"n{index},{device}") for device in range(source)]
        self.model.add(sum(counts) == task.segments)
        return [*counts, 0]

    def _layer(self, index: int) -> None:
        task = self.load.tasks[index]
        lasts = self.model.new_int_var(0, LONGEST, f"t{index}")
        self.lasts.append(lasts)
        for device in range(self.size):
            self.model.add(
                lasts >= self._ticks(task.multiplications / self.fleet.speed[device]) * self.counts[index][device]
            )
        if index == 0:
            return
        if self.load.tasks[index - 1].kind == "convolution":
            self._partial_maps(index, lasts)
        else:
            self._whole_maps(index, lasts)

    def _ticks(self, seconds: float) -> int:
        return int(np.ceil(seconds * TICKS))

    def _partial_maps(self, index: int, lasts: Any) -> None:
        before, task = self.load.tasks[index - 1], self.load.tasks[index]
        units = before.unit_bits * (task.arriving // task.segments)
        for sender in range(self.size):
            count = self.counts[index - 1][sender]
            if isinstance(count, int) and count == 0:
                continue
            holds = self.model.new_bool_var(f"h{index},{sender}")
            self.model.add(count == 0).only_enforce_if(~holds)
            self.model.add(count >= 1).only_enforce_if(holds)
            sent = self.model.new_int_var(0, units * task.segments, f"s{index},{sender}")
            kept = self.counts[index][sender]
            self.model.add(sent >= units * (task.segments - kept)).only_enforce_if(holds)
            self.sent[sender].append(sent)
            for receiver in range(self.size):
                if receiver != sender:
                    arrives = self._ticks(units / self.fleet.rate[sender])
                    computes = self._ticks(task.multiplications / self.fleet.speed[receiver])
                    mine = self.counts[index][receiver]
                    self.model.add(lasts >= (arrives + computes) * mine).only_enforce_if(holds)
        if task.kind == "activation" and self.load.limits[index] is not None:
            self.seen[task.tensor] = [[count] for count in self.counts[index]]

    def _whole_maps(self, index: int, lasts: Any) -> None:
        before, task = self.load.tasks[index - 1], self.load.tasks[index]
        whole = before.segments // task.segments  # maps that a fully connected layer gathers
        flows, limit = self.flows[index], self.load.limits[index]
        for i in range(self.size):
            for j in range(self.size):
                flows[i, j] = self.model.new_int_var(0, before.segments, f"f{index},{i},{j}")
                if i != j:
                    arrives = self._ticks(before.unit_bits / self.fleet.rate[i])
                    computes = self._ticks(task.multiplications / self.fleet.speed[j])
                    self.model.add(lasts >= arrives * flows[i, j] + computes * self.counts[index][j])
        for device in range(self.size):
            row = [flows[device, j] for j in range(self.size)]
            column = [flows[i, device] for i in range(self.size)]
            self.model.add(sum(row) == self.counts[index - 1][device])
            self.model.add(sum(column) == whole * self.counts[index][device])
            self.sent[device].append(before.unit_bits * sum(flow for j, flow in enumerate(row) if j != device))
            if task.kind != "linear" and limit is not None and task.tensor in self.seen:
                # What comes from others may be new: the maps of one tensor that a helper has seen in any layer.
                self.seen[task.tensor][device] += [flow for i, flow in enumerate(column) if i != device]
                if device != self.fleet.helpers:
                    self.model.add(sum(self.seen[task.tensor][device]) <= limit)

    def _budgets(self) -> None:
        for device in range(self.size):
            for field in ("multiplications", "memory"):
                spent = sum(
                    getattr(task, field) * counts[device]
                    for task, counts in zip(self.load.tasks, self.counts, strict=True)
                )
                self.model.add(spent <= int(getattr(self.left, field)[device]))
            if self.sent[device]:
                self.model.add(sum(self.sent[device]) <= int(self.left.bits[device]))

    def order_alike(self) -> None:
        """Among helpers that are alike, lets the first hold most: all other orders are the same plan."""
        first = next((index for index, there in enumerate(self.load.at_source) if not there), None)
        columns = (self.fleet.kind, self.left.multiplications, self.left.bits, self.left.memory)
        last: dict[tuple[float, ...], int] = {}
        for device in range(self.fleet.helpers):
            alike = tuple(float(column[device]) for column in columns)
            if alike in last and first is not None:
                self.model.add(self.counts[first][last[alike]] >= self.counts[first][device])
            last[alike] = device

    def start_from(self, plan: Plan) -> None:
        """Says that no plan slower than this one is wanted."""
        self.model.add(sum(self.lasts) <= self._ticks(plan.latency_s * (1 + SLACK)) + TICKS // 1_000_000)

    def owners(self, solver: Any) -> tuple[Indices, ...]:
        """Returns an assignment of maps that has the counts and flows of the solution."""
        made: list[Indices] = []
        for index, task in enumerate(self.load.tasks):
            if self.flows[index] and task.segments > 1:
                owners = np.empty(task.segments, dtype=np.intp)
                for i in range(self.size):
                    to = [np.full(solver.value(self.flows[index][i, j]), j) for j in range(self.size)]
                    owners[made[-1] == i] = np.concatenate(to)
            else:
                counts = [count if isinstance(count, int) else solver.value(count) for count in self.counts[index]]
                owners = np.repeat(np.arange(self.size), counts)
            made.append(owners)
        return tuple(made)
