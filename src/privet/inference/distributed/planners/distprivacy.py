"""Algorithm 1 of the document: one segment at a time to the helper with the lowest mix of latency and scarce bandwidth.

What the printed algorithm does otherwise, and this part does only with ``literal``:

- condition 4 compares what a helper has with Nf before it gets one more, so it gets Nf + 1;
- it counts maps a layer, though a convolution's output, its activation, its pooling and the next input are one tensor;
- it takes the memory of the layer before;
- a request that fails half-way keeps what it has taken.

Its else-branch gives the image itself to a helper when the source is short of resources, and the same with the answer.
No setting does that here: the request is rejected.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from privet.inference.distributed.fleets import Fleet, Floats, Indices, Remaining, Usage
from privet.inference.distributed.planners.contract import Planner
from privet.inference.distributed.plans import Plan, Rejection, priced
from privet.inference.distributed.workload import Workload
from privet.parts import Grade, part

Booleans = npt.NDArray[np.bool_]
Weight = Annotated[float, Field(ge=0, le=1)]


@part
class Distprivacy(Planner):
    """Algorithm 1: greedy, one segment at a time.

    Attributes:
        alpha: weight of a segment's latency.
        beta: weight of scarce bandwidth.
        literal: whether to count as printed; such plans may break the document's own constraints.

    References:
        Baccour et al., DistPrivacy: Privacy-Aware Distributed Deep Neural Networks in IoT surveillance systems,
        GLOBECOM 2020, section II.D.
    """

    grade: ClassVar[Grade] = "measured"

    alpha: Weight = 0.7
    beta: Weight = 0.3
    literal: bool = False

    def place(self, load: Workload, left: Remaining) -> Plan | Rejection:
        attempt = _Attempt(self, load, left)
        for index in range(len(load.tasks)):
            if reason := attempt.layer(index):
                return Rejection(reason, attempt.spent() if self.literal else None)
        return priced(load, left.fleet, tuple(attempt.owners))


class _Attempt:
    """One request on its way through the layers."""

    def __init__(self, planner: Distprivacy, load: Workload, left: Remaining) -> None:
        self.planner, self.load, self.left = planner, load, left
        self.fleet: Fleet = left.fleet
        self.multiplications, self.bits = left.multiplications.copy(), left.bits.copy()
        self.memory = left.memory.copy()
        self.owners: list[Indices] = []
        self.tensor, self.held = -1, np.zeros((0, 0), dtype=bool)

    def layer(self, index: int) -> str:
        """Gives away the segments of a layer; returns why it can't, or ""."""
        task = self.load.tasks[index]
        before = self.load.tasks[index - 1] if index else None
        size = self.fleet.helpers + 1
        if self.planner.literal or task.tensor != self.tensor:
            self.tensor, self.held = task.tensor, np.zeros((size, task.arriving), dtype=bool)
        may = np.arange(size) == self.fleet.helpers
        if not self.load.at_source[index]:
            may = ~may
        memory = before.memory if self.planner.literal and before else task.memory
        owners = np.empty(task.segments, dtype=np.intp)
        seconds = task.multiplications / self.fleet.speed
        for p in range(task.segments):
            sent, senders = self._sending(index, p)
            able = may & (self.multiplications >= task.multiplications) & (self.memory >= task.memory)
            able &= self._room(index, p) & self._can_be_sent(sent, senders)
            chosen = self._best(np.flatnonzero(able), sent, senders, seconds)
            if chosen < 0:
                who = "the source is not" if self.load.at_source[index] else "no helper is"
                return f"{who} free for segment {p + 1} of {task.segments} of {task.name}"
            owners[p] = chosen
            self.held[chosen, p] = True
            self.multiplications[chosen] -= task.multiplications
            self.memory[chosen] -= memory
            self.bits[senders] -= np.where(senders == chosen, 0.0, sent)
        self.owners.append(owners)
        return ""

    def _sending(self, index: int, p: int) -> tuple[Floats, Indices]:
        """Returns what each holder of the layer before would send for this segment, and who they are."""
        if index == 0:
            return np.zeros(0), np.zeros(0, dtype=np.intp)
        before, task, owners = self.load.tasks[index - 1], self.load.tasks[index], self.owners[-1]
        if before.kind != "convolution" and task.segments == len(owners):
            return np.array([float(before.unit_bits)]), owners[p : p + 1]
        senders, counts = self._counts(index, owners)
        if before.kind == "convolution":
            one = before.unit_bits * (task.arriving // task.segments)
            return np.full(len(senders), float(one)), senders
        return counts.astype(np.float64) * before.unit_bits, senders

    def _counts(self, index: int, owners: Indices) -> tuple[Indices, Indices]:
        if getattr(self, "_counted", -1) != index:
            self._counted, self._senders = index, np.unique(owners, return_counts=True)
        return self._senders

    def _room(self, index: int, p: int) -> Booleans:
        limit = self.load.limits[index]
        if limit is None or self.load.at_source[index]:
            return np.ones(len(self.held), dtype=bool)
        held = self.held.sum(axis=1)
        may: Booleans = held <= limit if self.planner.literal else self.held[:, p] | (held < limit)
        return may

    def _can_be_sent(self, sent: Floats, senders: Indices) -> Booleans:
        short = senders[self.bits[senders] < sent]
        if len(short) == 0:
            return np.ones(len(self.held), dtype=bool)
        # Who is short of bandwidth can still keep the segment.
        may: Booleans = np.arange(len(self.held)) == (short[0] if len(short) == 1 else -1)
        return may

    def _best(self, able: Indices, sent: Floats, senders: Indices, seconds: Floats) -> int:
        if len(able) == 0:
            return -1
        lasts = seconds[able]
        if len(senders):
            each = sent / self.fleet.rate[senders]
            first = int(each.argmax())
            wait = np.full(len(able), each[first])
            wait[able == senders[first]] = np.delete(each, first).max() if len(each) > 1 else 0.0
            lasts = lasts + wait
        scarce = 1 / np.maximum(self.bits[able], 1.0)
        score = self.planner.alpha * lasts / (lasts.max() or 1.0) + self.planner.beta * scarce / scarce.max()
        return int(able[score.argmin()])

    def spent(self) -> Usage:
        """Returns what was taken so far."""
        gone = [getattr(self.left, name) - getattr(self, name) for name in ("multiplications", "bits", "memory")]
        devices = np.flatnonzero(sum(gone))
        return Usage(devices, *(column[devices] for column in gone))
