"""The device's own answer under randomised response, shown as one image of its class."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from privet.accounting.accountants import guarantee
from privet.accounting.guarantee import Guarantee
from privet.accounting.pure import pure_event
from privet.accounting.sensitivity import Sensitivity
from privet.inference.obfuscators.prototype import Prototype
from privet.mechanisms.chain import Chain
from privet.mechanisms.randomised_response import RandomisedResponse
from privet.parts import Grade, part


@part
class Response(Prototype):
    """The prototype of the device's own answer, or with a known probability that of any class: local privacy, pure.

    The guarantee is that of one release. Each further release of the same sample adds its epsilon, so a device
    repeats the first one: see :mod:`privet.inference.guarded`.

    Attributes:
        epsilon: the pure loss of one release.

    References:
        Warner, Randomized Response, JASA 1965.
    """

    grade: ClassVar[Grade] = "derived"

    epsilon: Annotated[float, Field(gt=0, le=30)] = 5.0

    @property
    def noise(self) -> Chain:
        return Chain((RandomisedResponse(self.epsilon),))

    def clean(self, code: Tensor) -> Tensor:
        return functional.one_hot(code.argmax(1), code.shape[1]).to(code)

    def guarantee(self, delta: float = 0.0) -> Guarantee | None:
        # Whatever the number of classes, the loss of an answer is epsilon.
        one = Sensitivity("record", "replace-one")
        return guarantee("one sample, in one release of it", pure_event(self.epsilon), one, 0.0, 1)
