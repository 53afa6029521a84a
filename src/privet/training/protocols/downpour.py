"""Downpour SGD: devices push when they are done, and nobody waits for the slowest.

Cost: the bytes of federated averaging; less waiting where devices differ, for updates that began at an older model.
Each run records how old they were.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.parts import Grade, part
from privet.training.protocols.fedavg import Fedavg


@part
class Downpour(Fedavg):
    """Federated averaging without rounds: each device fetches, trains and pushes in its own time.

    A push moves the global model by the device's update times its share of all rows, divided by ``(1 + s) ** a``,
    where s pushes came since the model that the update began with and a is ``staleness_exponent``: 0, the paper's
    rule, counts old updates in full. A round of the records is as many pushes as there are devices; a device pushes
    ``rounds`` times at most. Combines by the mean only, and takes no mechanisms on the server.

    Attributes:
        rounds: how often each device pushes.
        server_learning_rate: factor of every update.
        staleness_exponent: how much less an old update counts.

    References:
        Dean et al., Large Scale Distributed Deep Networks, NIPS 2012, section 4.1. The divisor: Xie, Koyejo and
        Gupta, Asynchronous Federated Optimization, 2019, section 5.2, polynomial.
    """

    grade: ClassVar[Grade] = "measured"
    asynchronous: ClassVar[bool] = True

    server_learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    staleness_exponent: Annotated[float, Field(ge=0, le=10)] = 0.0

    def pace(self, staleness: int) -> float:
        return self.server_learning_rate / float((1 + staleness) ** self.staleness_exponent)
