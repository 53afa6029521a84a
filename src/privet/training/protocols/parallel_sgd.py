"""Parallel SGD: every device trains alone to the end, and the models are averaged once.

Cost: one model each way, whatever the training takes. Works where the devices' rows are alike; where they differ,
the mean of models that went different ways may be worse than each.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.parts import Grade, part
from privet.training.contract import MOST
from privet.training.protocols.fedavg import Fedavg


@part
class ParallelSgd(Fedavg):
    """Each device trains alone, and what they have learnt is averaged once, at the end.

    Attributes:
        rounds: one.
        local_epochs: passes of each device over its own rows, all of its training.

    References:
        Zinkevich et al., Parallelized Stochastic Gradient Descent, NIPS 2010, algorithm 3.
    """

    grade: ClassVar[Grade] = "measured"

    rounds: Annotated[int, Field(ge=1, le=1)] = 1
    local_epochs: Annotated[int, Field(ge=1, le=MOST)] = 20
