"""The exponential mechanism: picks a place by its score, the better the likelier.

Assumes that the scores' largest change was bounded before (clamp them: clip with norm linf). Drawn by the
Gumbel trick from 53-bit uniforms in double precision, so a choice of probability below about 2^-53 is
not drawn with exactly that probability. Cost: two logarithms a value.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, NoOpDpEvent, SelfComposedDpEvent
from pydantic import Field
from torch import Tensor, nn

from privet.accounting.pure import pure_event
from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.contract import Mechanism
from privet.parts import Grade, part
from privet.randomness import Source


@part
class Exponential(Mechanism):
    """Replaces each vector of scores by one place, chosen with probability ~ exp(score / scale), in one-hot form.

    When no score moves by more than linf, one choice loses at most epsilon = 2 linf / scale. Its event is
    binary randomised response of that epsilon, which dominates every mechanism of pure loss epsilon; a
    vector that one unit moves is one choice. The gradient is that of the identity.

    Attributes:
        scale: how far apart two scores are whose chances differ by a factor e, in units of the scores.

    References:
        McSherry and Talwar, Mechanism Design via Differential Privacy, FOCS 2007, theorem 6; Kairouz, Oh,
        Viswanath, The Composition Theorem for Differential Privacy, ICML 2015, theorem 3.2 (domination).
    """

    grade: ClassVar[Grade] = "derived"
    adds_noise: ClassVar[bool] = True
    straight_through: ClassVar[bool] = True

    scale: Annotated[float, Field(gt=0)]

    def __call__(self, value: Tensor, rng: Source) -> Tensor:
        gumbel = rng.uniform(tuple(value.shape)).log_().neg_().clamp_min_(2.0**-54).log_().neg_().to(value.device)
        # A score that is no number counts as 0; one that is infinite wins or loses as it should.
        scores = value.detach().double().nan_to_num(nan=0.0) / self.scale
        return self.passing_gradient(value, nn.functional.one_hot((scores + gumbel).argmax(-1), value.shape[-1]))

    def event(self, sensitivity: Sensitivity) -> DpEvent:
        """Returns what one release costs; ``NonPrivateDpEvent`` where linf is unbounded."""
        vectors = 1 if sensitivity.unit == "coordinate" else sensitivity.vectors
        linf = sensitivity.tightened().linf
        if math.isinf(linf) or math.isinf(vectors):
            return NonPrivateDpEvent()
        if linf == 0:
            return NoOpDpEvent()
        if (loss := 2 * linf / self.scale) > 700:  # odds of e^700 are no protection
            return NonPrivateDpEvent()
        one = pure_event(loss)
        return one if vectors == 1 else SelfComposedDpEvent(one, int(vectors))
