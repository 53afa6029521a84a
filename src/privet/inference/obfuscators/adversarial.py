"""A bottleneck trained against an inverse that is trained beside it."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from privet.inference.obfuscators.bottleneck import Bottleneck
from privet.inference.obfuscators.contract import Sides, UserModel
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Adversarial(Bottleneck):
    """Learns to be answered right and to be hard to undo for one inverse network, which learns at the same time.

    What it is hard for is that network; one that is trained afresh against the finished obfuscator undoes it.

    Attributes:
        strength: weight of the inverse's squared error, in units of the images' variance, against the cross-entropy.
    """

    grade: ClassVar[Grade] = "measured"

    width: Annotated[int, Field(ge=1)] = 64
    strength: Annotated[float, Field(gt=0)] = 5.0

    def fit(self, model: UserModel, rng: Source) -> Sides:
        size, target = math.prod(model.shape), model.inputs.flatten(1)
        spread = float(target.var(0).mean())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.child("inverse").integers(1 << 62, 1)[0]))
            inverse = nn.Sequential(
                *(nn.Flatten(), nn.Linear(size, 512), nn.ReLU()),
                *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, size)),
            )
        adam = torch.optim.Adam(inverse.parameters(), 1e-3)

        def lost(sides: Sides, batch: Tensor) -> Tensor:
            released = sides.decoder(sides.encoder(model.inputs[batch]))
            adam.zero_grad()
            functional.mse_loss(inverse(released.detach()), target[batch]).backward()
            adam.step()
            error = functional.mse_loss(inverse(released), target[batch]) / spread
            # Beyond the error of guessing the mean there is nothing more to hide.
            answer = functional.cross_entropy(network(released), model.labels[batch])
            return answer - self.strength * error.clamp_max(1.0)

        with model.still() as network:
            return self.fitting(lambda: self.start(model, rng), lost, len(model.inputs), rng)
