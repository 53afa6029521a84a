"""Fresh inverse: a network that never saw the obfuscator being trained learns its way back from pairs.

Whoever can have samples obfuscated (the coordinator, which trained the obfuscator, or an outsider with a device
of the same kind) makes as many pairs of release and input as it likes and fits a network to them. An obfuscator
that was trained against an inverse was trained against that one only, so the attacker takes a new one, in several
architectures, and the worst is the figure.

Knowledge: pairs (coordinator or outsider); labels if they travel.
Cost: 30 to 40 CPU-seconds for 20,000 pairs of 784 values and 784 pixels, 60 for 3,072 of each; one thread.

References:
    He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019): the inverse network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor, nn

from privet.attacks.contract import Attack, Reconstruction, Target
from privet.attacks.convolutional_inverse import ConvolutionalInverse
from privet.attacks.linear_inverse import Decoder, Pairs, class_means
from privet.attacks.maps_inverse import MapsInverse
from privet.attacks.material import averaged, material
from privet.attacks.neighbours import looked_up
from privet.attacks.principal import Principal
from privet.attacks.sharpener import lost
from privet.engines.view import View
from privet.errors import InputError
from privet.models.fitting import Fitting
from privet.parts import Grade, part
from privet.randomness import Source

Architecture = Literal["mlp", "residual", "convolutional", "maps", "nearest"]
"""How an inverse is built; :class:`FreshInverse` says what each is."""

Look = Callable[[Tensor], Tensor]
"""Releases (n, d), float64 -> what a network is given, float32."""

_SHARE = {"mlp": 1.0, "residual": 1.0, "convolutional": 0.8, "maps": 0.3}  # of the steps: some cost more
_USUAL = 1500  # numbers of an input; a step for larger ones costs more
_MOST_PASSES = 60
_MOST_GIVEN = 1024  # longer releases are described by their principal directions
_PRINCIPAL = 512
_MAPS_WIDTH = 32
_TRUST = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHUNK = 1024


@part
class FreshInverse(Attack):
    """Learns on pairs of its own to turn releases back into inputs, in one of five architectures.

    Needs ``seen["features"]`` (n, d), ``knows["features"]`` (m, d) and ``knows["inputs"]`` (m, ...); of (n, r, d) and
    (m, r, d) the mean over r releases of one record is taken. Uses ``labels`` when both sides have them. How far it
    trusts its network, and how far the mean of the class, is chosen on a tenth of the pairs that it holds out.

    Attributes:
        architecture: ``mlp``: two hidden layers; ``residual``: the same beside a straight linear path;
            ``convolutional``: draws an image coarse to fine (images only); ``maps``: sees a release as an image if it
            has an image's size, and draws one (images only); ``nearest``: looks up the pairs with the nearest or
            equal release, which suits codes.
        steps: of the optimiser, for ``mlp`` and inputs of at most 1,500 numbers; what costs more a step takes fewer,
            and nothing passes over the pairs more than 60 times.
        width: units in each of the two hidden layers.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: pairs a step.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    architecture: Architecture = "residual"
    steps: Annotated[int, Field(ge=1)] = 1000
    width: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    batch_size: Annotated[int, Field(ge=2)] = 128

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        given = material(view)
        if self.architecture in ("convolutional", "maps") and len(view.shape) != 3:
            raise InputError(
                f"the architecture {self.architecture!r} draws images, and inputs have shape {view.shape}",
                allowed="mlp, residual, nearest",
            )
        known = averaged(given, view.shape)
        if self.architecture == "nearest":
            decoder = looked_up(known.pairs, view.shape, rng.child("held out"))
        else:
            decoder = self._learn(known.pairs, view.shape, rng)
        return Reconstruction(known.undone(decoder))

    def _learn(self, pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
        order = rng.child("held out").permutation(len(pairs.inputs))
        held, fitted = pairs.take(order[: len(order) // 10]), pairs.take(order[len(order) // 10 :])
        means = class_means(fitted.inputs, fitted.labels, pairs.classes)
        network = self._fit(fitted, shape, rng)

        def trusting(trust: float) -> Decoder:
            return lambda features, labels: torch.lerp(means[labels], network(features, labels), trust)

        drawn, blind = network(held.features, held.labels), means[held.labels]
        losses = [lost(torch.lerp(blind, drawn, trust), held.inputs, shape).item() for trust in _TRUST]
        return trusting(_TRUST[losses.index(min(losses))])

    def _fit(self, pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
        look, received = self._look(pairs.features, shape, rng.child("principal"))
        count, size = len(pairs.inputs), pairs.inputs.shape[1]
        given, named = look(pairs.features), F.one_hot(pairs.labels, pairs.classes).float()
        wanted = pairs.inputs.float()

        def layers() -> nn.Module:
            if self.architecture == "maps":
                return MapsInverse([received, (pairs.classes,)], shape, 0, _MAPS_WIDTH)
            wide = received[0] + pairs.classes
            if self.architecture == "convolutional":
                return ConvolutionalInverse(wide, shape)
            return _Layers(wide, self.width, size, len(shape) == 3, self.architecture == "residual")

        def drawn(network: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
            if self.architecture == "maps":
                picture: Tensor = network((features.unflatten(1, received), labels))[0]
                return picture.flatten(1)
            out: Tensor = network(torch.cat((features, labels), 1))
            return out

        batch = min(self.batch_size, count)
        share = _SHARE[self.architecture] * min(_USUAL / size, 1)
        passes = math.ceil(self.steps * share * batch / count)
        fitting = Fitting(min(passes, _MOST_PASSES), self.learning_rate, batch)
        network = fitting(
            layers,
            lambda network, some: lost(drawn(network, given[some], named[some]), wanted[some], shape),
            count,
            rng.child("network"),
        )

        @torch.no_grad()
        def decode(features: Tensor, labels: Tensor) -> Tensor:
            sides = look(features).split(_CHUNK), F.one_hot(labels, pairs.classes).float().split(_CHUNK)
            return torch.cat([drawn(network, *some) for some in zip(*sides, strict=True)]).double()

        return decode

    def _look(self, features: Tensor, shape: tuple[int, ...], rng: Source) -> tuple[Look, tuple[int, ...]]:
        """Returns how the network is shown releases, and the shape of one."""
        count = features.shape[1]
        if self.architecture == "maps" and count == math.prod(shape):
            return lambda rows: rows.float(), shape
        if count > _MOST_GIVEN:
            principal = Principal(features, _PRINCIPAL, rng)
            # In units of its own spread each direction would count alike, and most of many hold next to nothing.
            unit = principal.spread / principal.spread.square().mean().sqrt()
            return lambda rows: principal(rows) * unit, (principal.count,)
        middle, spread = features.mean(0), features.std(0)
        spread = spread.clamp_min(1e-2 * float(spread.max()) + 1e-12)
        return lambda rows: ((rows - middle) / spread).float(), (count,)


class _Layers(nn.Module):
    """Two hidden layers, beside them perhaps a linear path; pixels end in a sigmoid."""

    def __init__(self, given: int, width: int, size: int, image: bool, straight: bool) -> None:
        super().__init__()
        hidden = nn.Linear(given, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        self._bent = nn.Sequential(*hidden, nn.Linear(width, size))
        self._straight = nn.Linear(given, size) if straight else None
        self._image = image

    def forward(self, given: Tensor) -> Tensor:
        out: Tensor = self._bent(given)
        if self._straight is not None:
            out = out + self._straight(given)
        return torch.sigmoid(out) if self._image else out
