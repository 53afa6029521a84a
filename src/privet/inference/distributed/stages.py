"""Layers that one set of holders works off together: a fused stage.

A map's partial sums, its activation, its pooling and its use as an input of the next layer are one tensor. Holding them
on one device sends nothing in between, and shows the device nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass

from privet.inference.distributed.workload import Workload


@dataclass(frozen=True)
class Stage:
    """Layers whose segments have the same holders.

    Attributes:
        first: index of its first layer.
        last: index of its last layer.
        segments: number of maps; 1 behind a fully connected layer.
        limit: the most maps that one helper may hold.
        multiplications: of one map.
        memory: bytes of one map's weights.
        arriving_bits: bits of one map, or partial map, that comes in.
        summed: whether what comes in are partial maps, one from every holder before.
        unit_bits: bits of one map, or partial map, that goes out.
        spreads: whether it ends in a convolution: every holder sends a part of every output map.
        outputs: number of maps, or partial maps of each holder, that go out.
    """

    first: int
    last: int
    segments: int
    limit: int
    multiplications: int
    memory: int
    arriving_bits: int
    summed: bool
    unit_bits: int
    spreads: bool
    outputs: int


def stages(load: Workload) -> list[Stage]:
    """Returns the stages that helpers work off, in order; what the source computes lies between them."""
    found: list[Stage] = []
    first = 1
    while first < len(load.tasks):
        if load.at_source[first]:
            first += 1
            continue
        task, last = load.tasks[first], first
        while _goes_on(load, last, task.tensor, task.segments):
            last += 1
        found.append(_stage(load, first, last))
        first = last + 1
    return found


def _goes_on(load: Workload, last: int, tensor: int, segments: int) -> bool:
    if last + 1 == len(load.tasks) or load.at_source[last + 1]:
        return False
    after = load.tasks[last + 1]
    return after.tensor == tensor and after.segments == segments


def _stage(load: Workload, first: int, last: int) -> Stage:
    members, before = load.tasks[first : last + 1], load.tasks[first - 1]
    limits = [limit for limit in load.limits[first : last + 1] if limit is not None]
    end = members[-1]
    return Stage(
        first=first,
        last=last,
        segments=end.segments,
        limit=min([end.segments, *limits]),
        multiplications=sum(task.multiplications for task in members),
        memory=sum(task.memory for task in members),
        arriving_bits=before.unit_bits * (members[0].arriving // members[0].segments),
        summed=before.kind == "convolution",
        unit_bits=end.unit_bits,
        spreads=end.kind == "convolution",
        outputs=end.outputs,
    )
