"""What one request asks for: the work of a network, and how much of each layer a helper may hold.

One comparison decides everywhere what the tolerance protects: a layer is protected when it stands before the split
point. The document's four comparisons with the split point differ by one from each other.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from privet.errors import InputError
from privet.inference.distributed.cost import Task, tasks
from privet.inference.distributed.networks import Network
from privet.inference.distributed.table_i import TABLE, Row


@dataclass(frozen=True, eq=False)
class Workload:
    """The work of one request at one tolerance. Made by :func:`workload`, once for each network and tolerance.

    Attributes:
        network: name of the network.
        tolerance: tolerated similarity (SSIM) of a recovered image.
        tasks: the work of every layer.
        limits: Nf, the most input maps of each layer on one helper; None behind the split point.
        split: index of the first layer whose inputs may be on one helper, all of them; the number of layers if none.
        at_source: for each layer, whether the source computes it (8h): the first, the last, and the first fully
            connected one when it stands before the split point.
    """

    network: str
    tolerance: float
    tasks: tuple[Task, ...]
    limits: tuple[int | None, ...]
    split: int
    at_source: tuple[bool, ...]

    @property
    def multiplications(self) -> int:
        """Multiplications of one inference."""
        return sum(task.segments * task.multiplications for task in self.tasks)

    @property
    def first_linear(self) -> int:
        """Index of the first fully connected layer."""
        return next(index for index, task in enumerate(self.tasks) if task.kind == "linear")

    @property
    def memory(self) -> int:
        """Bytes of all weights."""
        return sum(task.segments * task.memory for task in self.tasks)


@functools.lru_cache(maxsize=256)
def workload(network: Network, tolerance: float, rows: tuple[Row, ...] | None = None) -> Workload:
    """Returns what a request for a network asks for at a tolerance.

    Args:
        network: the network.
        tolerance: tolerated similarity, above 0 and at most 1.
        rows: what was measured for each block of convolutions; by default Table I of the document.

    Raises:
        InputError: the tolerance is out of range, or nothing was measured for this network.
    """
    if not (math.isfinite(tolerance) and 0 < tolerance <= 1):
        raise InputError(f"the tolerated SSIM is {tolerance}", allowed="above 0, at most 1")
    rows = rows or TABLE.get(network.name)
    if rows is None:
        raise InputError(
            f"nobody measured how much of {network.name!r} a helper may hold",
            allowed=", ".join(TABLE),
            do="give one row of similarities for each block",
        )
    work = tasks(network)
    allowed = [_allowed(task, rows, tolerance) for task in work]
    # Activations between fully connected layers hold what the document calls unrecoverable.
    first_linear = next(index for index, task in enumerate(work) if task.kind == "linear")
    protected = [index for index in range(first_linear + 1) if allowed[index] < work[index].arriving]
    split = protected[-1] + 1 if protected else 0
    return Workload(
        network=network.name,
        tolerance=tolerance,
        tasks=work,
        limits=tuple(each if index < split else None for index, each in enumerate(allowed)),
        split=split,
        at_source=tuple(index in (0, len(work) - 1) or index == first_linear < split for index in range(len(work))),
    )


def _allowed(task: Task, rows: tuple[Row, ...], tolerance: float) -> int:
    if task.tensor == 0:  # the image itself: only the source ever holds it
        return 0
    return min(task.arriving, rows[min(task.block, len(rows) - 1)].most(tolerance))
