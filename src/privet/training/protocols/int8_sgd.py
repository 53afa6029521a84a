"""A byte a value: devices round what they send to a grid of 255 steps, and keep the error for the next round.

Cost: one byte a value in place of four, and one for each block of 256 values; with ``share`` below 1 five bytes a
shared value, its place included. Rounding is no guarantee. With a mechanism on the device it is post-processing of what
was noised. Grids are powers of two, so that what arrives is packed without loss whatever carries it.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.engines.packing import exponents_of, off_grid, on_grid
from privet.parts import Grade, part
from privet.tensors import State
from privet.training.contract import Lesson
from privet.training.protocols.selective_sgd import SelectiveSgd


@part
class Int8Sgd(SelectiveSgd):
    """Each device sends its changes as bytes, all or only the largest, and adds what was lost to its next update.

    Attributes:
        share: of the model's values that a device sends in a round; 1 sends all.

    References:
        Seide, Fu, Droppo, Li, Yu, 1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
        Training of Speech DNNs, Interspeech 2014, section 3.2 (keeping the rounding error); Karimireddy, Rebjock,
        Stich, Jaggi, Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019, algorithm 2.
    """

    grade: ClassVar[Grade] = "measured"

    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    def upload(self, sent: Tensor, lesson: Lesson) -> tuple[Tensor, State]:
        count = math.ceil(self.share * len(sent))
        places = sent.abs().topk(count, sorted=False).indices.sort().values
        chosen = sent[places]
        exponents = exponents_of(chosen)
        whole = on_grid(chosen, exponents)
        arrives = torch.zeros_like(sent)
        arrives[places] = off_grid(whole, exponents)
        lesson.kept["rest"] = sent - arrives
        where = {} if count == len(sent) else {"places": places.to(torch.int32)}
        return arrives, {"bytes": whole, "exponents": exponents} | where
