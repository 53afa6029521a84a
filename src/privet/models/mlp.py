"""A multilayer perceptron for any shape of input."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from privet.models.contract import Model
from privet.parts import Grade, part


@part
class Mlp(Model):
    """Linear layers with ReLU between them; inputs of any shape are flattened first.

    Attributes:
        hidden: widths of the hidden layers.
    """

    grade: ClassVar[Grade] = "measured"
    cut_points: ClassVar[tuple[str, ...]] = ("hidden1",)

    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (128,)

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        widths = (math.prod(shape), *self.hidden)
        stages: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
        for number, (wide, narrow) in enumerate(itertools.pairwise(widths), start=1):
            stages += [(f"linear{number}", nn.Linear(wide, narrow)), (f"hidden{number}", nn.ReLU())]
        return nn.Sequential(OrderedDict([*stages, ("logits", nn.Linear(widths[-1], classes))]))
