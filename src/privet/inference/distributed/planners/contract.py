"""The contract of a planner: what is asked for and what is left give a plan, or a reason why there is none."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict

from privet.inference.distributed.fleets import Fleet, Remaining
from privet.inference.distributed.plans import Plan, Rejection
from privet.inference.distributed.workload import Workload
from privet.parts import Part

KEPT = 1024
"""How many answers are kept."""

_kept: OrderedDict[tuple[Planner, Workload, Fleet, bytes], Plan | Rejection] = OrderedDict()


class Planner(Part):
    """Gives the segments of one request to devices.

    The same request over the same remains gets the same answer, so answers are kept: by workload (network and
    tolerance), fleet, and the version of what is left.
    """

    def __call__(self, load: Workload, left: Remaining) -> Plan | Rejection:
        """Returns a plan that takes no more than what is left, or why there is none. ``left`` is not changed."""
        key = (self, load, left.fleet, left.version)
        answer = _kept.get(key)
        if answer is None:
            answer = self.place(load, left)
            _kept[key] = answer
            if len(_kept) > KEPT:
                _kept.popitem(last=False)
        return answer

    @abstractmethod
    def place(self, load: Workload, left: Remaining) -> Plan | Rejection:
        """Works the answer out anew."""
