"""The fast planner's dynamic programme: what each stage aims at, over all slowest links and loads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privet.inference.distributed.classes import Classes
from privet.inference.distributed.fleets import Fleet, Floats, Indices
from privet.inference.distributed.stages import Stage

HALVINGS = 30
BEYOND = 1.0 + 1e-6
"""A threshold may be missed by so much, and by the square of it when helpers are taken: rounding moves no map."""


@dataclass(frozen=True)
class Target:
    """What a stage aims at.

    Attributes:
        rate: the slowest link that may take part.
        most: the most maps of one helper.
        seconds: the longest that a helper computes, or sends where nobody computes.
        alone: whether the helper that runs the fully connected layers holds all maps.
    """

    rate: float
    most: int
    seconds: float
    alone: bool = False


def seconds_of_a_map(step: Stage, speed: Floats, rate: Floats) -> Floats:
    """Returns how long one map keeps a helper: computing, or sending where the stage does not end in a convolution."""
    return step.multiplications / speed if step.spreads else step.unit_bits / rate


def aim(maps: list[Stage], found: Classes, fleet: Fleet, alone: int) -> list[Target] | None:
    """Returns what each stage aims at: the shortest path over links; None where a stage has no room.

    Args:
        maps: the stages over maps, in order.
        found: the helpers, by class.
        fleet: the helpers, one by one.
        alone: who runs the first fully connected layer; -1 for the source.
    """
    if not maps:
        return []
    rates = found.slowest_links()
    loads = _loads(maps)
    seconds = _smallest_times(maps, found, rates, loads, fleet, alone)
    source_rate = float(fleet.rate[-1])
    alone_rate, alone_speed = float(fleet.rate[alone]), float(fleet.speed[alone])
    may_run = [alone >= 0 and step.limit >= step.segments for step in maps]
    # States of a stage: one for each slowest link, and, last, everything on the helper of the fully connected layers.
    senders = np.append(rates, alone_rate)
    best, path = np.zeros(1), []
    before = np.array([source_rate])
    for number, step in enumerate(maps):
        pace = step.arriving_bits / before
        # (links before, links, loads)
        cost = pace[:, None, None] * loads[number] + seconds[number]
        chosen = cost.argmin(axis=2)
        spread = np.take_along_axis(cost, chosen[:, :, None], 2)[:, :, 0]
        one = step.segments * (pace + (step.multiplications / alone_speed))
        if number and may_run[number - 1]:
            one[-1] -= step.segments * pace[-1]
        if not may_run[number]:
            one[:] = np.inf
        total = best[:, None] + np.column_stack((spread, one))
        came = total.argmin(axis=0)
        path.append((came, chosen))
        best, before = total.min(axis=0), senders
    if not np.isfinite(best.min()):
        return None
    return _walk(maps, path, int(best.argmin()), rates, loads, seconds)


def _walk(
    maps: list[Stage],
    path: list[tuple[Indices, Indices]],
    state: int,
    rates: Floats,
    loads: npt.NDArray[np.intp],
    seconds: Floats,
) -> list[Target]:
    targets = []
    for number in range(len(maps) - 1, -1, -1):
        came, chosen = path[number]
        previous = int(came[state])
        if state == len(rates):
            targets.append(Target(0.0, maps[number].segments, np.inf, alone=True))
        else:
            of = int(chosen[previous, state])
            targets.append(Target(float(rates[state]), int(loads[number, of]), float(seconds[number, state, of])))
        state = previous
    return targets[::-1]


def _loads(maps: list[Stage]) -> npt.NDArray[np.intp]:
    """Returns, for each stage, the loads worth trying: an even share for 1, 2, 3, ... helpers, within the limit."""
    rows = [np.unique(np.minimum(step.limit, -(-step.segments // np.arange(1, step.segments + 1)))) for step in maps]
    widest = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, widest - len(row)), mode="edge") for row in rows])


def _smallest_times(
    maps: list[Stage], found: Classes, rates: Floats, loads: npt.NDArray[np.intp], fleet: Fleet, alone: int
) -> Floats:
    """Returns the smallest longest time of a helper in each stage, for each slowest link and load; inf without room."""
    shape = (len(maps), 1, 1, 1)
    each = np.stack([seconds_of_a_map(step, found.speed, found.rate) for step in maps])[:, None, None, :]
    room = np.stack([_class_room(step, found) for step in maps])[:, None, None, :]
    room = np.where(found.rate >= rates[None, :, None, None], room, 0.0)
    room = np.minimum(room, loads[:, None, :, None])
    need = np.array([step.segments for step in maps], dtype=np.float64).reshape(shape)[..., 0]
    size = np.repeat(found.size[None, None, :, None], len(maps), axis=0)
    if alone >= 0 and not maps[-1].spreads:  # it keeps its own maps of the last stage, and sends nothing
        need = np.repeat(need, loads.shape[1], axis=2)
        need[-1] -= np.minimum(loads[-1], maps[-1].segments)
        like = (found.speed == fleet.speed[alone]) & (found.rate == fleet.rate[alone])
        size[-1, 0, int(like.argmax()), 0] -= 1
    high = (room * each).max(axis=3)
    low = np.zeros_like(high)
    enough = (room @ size)[..., 0] >= need
    slowness = 1 / np.maximum(each, 1e-30)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        holds = (np.minimum(room, np.floor(middle[..., None] * slowness * BEYOND)) @ size)[..., 0] >= need
        high, low = np.where(holds, middle, high), np.where(holds, low, middle)
    return np.where(enough, high, np.inf)


def _class_room(step: Stage, found: Classes) -> Floats:
    most = np.full(len(found.size), float(step.segments))
    if step.multiplications:
        most = np.minimum(most, found.multiplications // step.multiplications)
    if step.memory:
        most = np.minimum(most, found.memory // step.memory)
    sends_all = found.bits >= step.outputs * float(step.unit_bits)
    room: Floats = np.where(sends_all, most, 0.0) if step.spreads else np.minimum(most, found.bits // step.unit_bits)
    return room
