"""FedYogi: FedAdam whose second moment changes slowly, so that rare large updates don't stall the rest.

Cost and assumptions are those of FedAdam.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from privet.parts import Grade, part
from privet.training.protocols.fedadam import Fedadam


@part
class Fedyogi(Fedadam):
    """Federated averaging whose coordinator moves each weight by Yogi: FedAdam with a steadier second moment.

    v = v - (1 - beta2) D^2 sign(v - D^2): it moves by D^2 at most, up or down, where Adam's also forgets a share
    of itself.

    References:
        Reddi et al., Adaptive Federated Optimization, ICLR 2021, algorithm 2; Zaheer et al., Adaptive Methods for
        Nonconvex Optimization, NeurIPS 2018, algorithm 2.
    """

    grade: ClassVar[Grade] = "measured"

    def second(self, second: Tensor, squared: Tensor) -> Tensor:
        return second - (1 - self.beta2) * squared * torch.sign(second - squared)
