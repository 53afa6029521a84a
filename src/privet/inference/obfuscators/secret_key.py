"""A secret linear key for each device: shown because it is often proposed, and no defence."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import nn

from privet.inference.obfuscators.contract import Sides, ThroughModel, UserModel
from privet.parts import Grade, part
from privet.randomness import Source, system


@part
class SecretKey(ThroughModel):
    """Multiplies each sample by a matrix that only the device has; the service learns a layer in front of its model.

    A warning, not a defence: a few thousand releases, with no pair among them, give the key away, since it turns the
    cloud of samples and leaves its form. That an inverse trained on other keys fails only makes it look safe.

    Attributes:
        kind: a rotation of all values, or a permutation of them.
    """

    grade: ClassVar[Grade] = "measured"
    claims_key: ClassVar[bool] = True

    kind: Literal["orthogonal", "permutation"] = "orthogonal"

    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        size = math.prod(shape)
        service = nn.Sequential(nn.Flatten(), nn.Linear(size, size), nn.Unflatten(1, shape))
        key = nn.Linear(size, size, bias=False).requires_grad_(False)
        return Sides(nn.Sequential(nn.Flatten(), key), nn.Unflatten(1, shape), service)

    def start(self, model: UserModel, rng: Source) -> Sides:
        sides, own = self.build(model.shape, model.classes), system()  # a seed is no secret
        size = math.prod(model.shape)
        if self.kind == "permutation":
            key = torch.eye(size)[own.permutation(size)]
        else:
            turned, scale = torch.linalg.qr(own.normal((size, size)).double())
            key = turned * scale.diagonal().sign()  # with these signs it is uniform over all rotations
        sides.encoder.get_submodule("1").get_parameter("weight").copy_(key)
        return sides
