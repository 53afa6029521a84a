"""Selective SGD: devices share only the largest part of what they learnt.

Cost: the bytes of the shared values and of their places, 8 a value in place of 4; one vector of the model's size a
device. Sharing less is no guarantee: the values that are shared say as much as ever, and their places say more. With
a mechanism on the device the choice is made among noised values, and is post-processing.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privet.parts import Grade, part
from privet.tensors import State
from privet.training.contract import Lesson
from privet.training.protocols.fedavg import Fedavg


@part
class SelectiveSgd(Fedavg):
    """Each device sends only the largest changes, values with their places, and keeps the rest for later.

    What is not sent is added to the device's next update, so that small changes in one direction arrive in the end.

    Attributes:
        share: theta, the share of the model's values that a device sends in a round.

    References:
        Shokri, Shmatikov, Privacy-Preserving Deep Learning, CCS 2015, section 5 ("largest values"); Strom, Scalable
        Distributed DNN Training Using Commodity GPU Cloud Computing, Interspeech 2015 (keeping the rest).
    """

    grade: ClassVar[Grade] = "measured"

    share: Annotated[float, Field(gt=0, le=1)] = 0.1

    def reply(self, update: Tensor, lesson: Lesson) -> Tensor:
        return update + lesson.memory["rest"] if "rest" in lesson.memory else update

    def upload(self, sent: Tensor, lesson: Lesson) -> tuple[Tensor, State]:
        places = sent.abs().topk(math.ceil(self.share * len(sent)), sorted=False).indices.sort().values
        arrives = torch.zeros_like(sent)
        arrives[places] = sent[places]
        lesson.kept["rest"] = sent - arrives
        return arrives, {"values": sent[places], "places": places.to(torch.int32)}
