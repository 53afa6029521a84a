"""Free riders: devices that want the model and do no work."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour
from privet.parts import Grade, part
from privet.randomness import Source


@part
class FreeRider(Behaviour):
    """Sends faint noise that fades from round to round, as the updates of a device that trains would.

    What the device trained is thrown away; its modelled time and energy are those of an honest device.

    Attributes:
        scale: standard deviation of each coordinate in the first round; 0 sends zeros, the model unchanged.
        fade: the noise shrinks as round ** -fade.

    References:
        Fraboni, Vidal, Lorenzi, Free-rider Attacks on Model Aggregation in Federated Learning, AISTATS 2021,
        section 3.2 (disguised free riders).
    """

    grade: ClassVar[Grade] = "measured"

    scale: Annotated[float, Field(ge=0)] = 0.001
    fade: Annotated[float, Field(ge=0)] = 1.0

    def update(self, update: Tensor, round: int, rng: Source) -> Tensor | None:
        """Returns noise (d,)."""
        scale: float = self.scale * round**-self.fade
        return rng.normal(tuple(update.shape)).to(update.dtype) * scale
