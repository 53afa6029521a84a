"""A bottleneck whose values are bounded and noised on the device, with the epsilon that follows."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from privet.inference.obfuscators.bottleneck import Bottleneck
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.parts import Grade, part


@part
class Noised(Bottleneck):
    """A bottleneck of which every release is clipped and gets Gaussian noise: local differential privacy of the sample.

    Attributes:
        limit: l2 norm to which a code is clipped.
        sigma: standard deviation of the noise on each of its values.
    """

    grade: ClassVar[Grade] = "derived"

    limit: Annotated[float, Field(gt=0)] = 1.0
    sigma: Annotated[float, Field(gt=0)] = 0.3

    @property
    def noise(self) -> Chain:
        return Chain((Clip(self.limit), Gaussian(self.sigma)))
