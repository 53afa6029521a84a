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

    A push moves the global model by the device's update times its share of all rows, however old the model is that
    the update began with. A round of the records is as many pushes as there are devices; a device pushes ``rounds``
    times at most. Combines by the mean only, and takes no mechanisms on the server.

    Attributes:
        rounds: how often each device pushes.
        server_learning_rate: factor of every update.

    References:
        Dean et al., Large Scale Distributed Deep Networks, NIPS 2012, section 4.1.
    """

    grade: ClassVar[Grade] = "measured"
    asynchronous: ClassVar[bool] = True

    server_learning_rate: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    def pace(self) -> float:
        return self.server_learning_rate
