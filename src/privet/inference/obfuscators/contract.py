"""The contract of an obfuscator: trained through a model that stays as it is, run on a device that sends no sample."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from privet.accounting.accountants import guarantee
from privet.accounting.guarantee import Guarantee
from privet.accounting.sensitivity import Sensitivity
from privet.mechanisms.chain import Chain
from privet.models.fitting import Fitting
from privet.parts import Part, part
from privet.randomness import Source, system

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class UserModel:
    """A trained classifier and the rows that its owner, who trains obfuscators for others, has.

    Attributes:
        network: inputs (n, ...) -> logits (n, classes); nothing here changes it.
        inputs: rows to train obfuscators on, float32 (n, ...).
        labels: their classes, int64 (n,).
        classes: number of classes.
    """

    network: nn.Module
    inputs: Tensor
    labels: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @contextmanager
    def still(self) -> Iterator[nn.Module]:
        """Lends the network in evaluation mode, its values without gradients."""
        wanted = [value.requires_grad for value in self.network.parameters()]
        training = self.network.training
        self.network.eval().requires_grad_(False)
        try:
            yield self.network
        finally:
            self.network.train(training)
            for value, want in zip(self.network.parameters(), wanted, strict=True):
                value.requires_grad_(want)


class Sides(nn.Module):
    """What runs where.

    Args:
        encoder: on the device, a sample (n, ...) -> its code (n, d), to which the obfuscator's noise is added.
        decoder: on the device, the code -> what leaves, in the sample's shape.
        service: where the model is, what came -> what the model is given; nothing unless the obfuscator needs it.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, service: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.service = service or nn.Identity()


class Obfuscator(Part):
    """Changes a sample so that a model answers it nearly as before, and tells less of it, or so it is claimed."""

    claims_key: ClassVar[bool] = False
    """Whether what leaves is the sample under a linear key that only the device has; then that key is attacked."""

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> Sides:
        """Returns untrained networks.

        Args:
            shape: of one sample.
            classes: of the model.
        """

    @abstractmethod
    def fit(self, model: UserModel, rng: Source) -> Sides:
        """Returns networks trained through a model, which stays as it was.

        Args:
            model: and the rows to train on.
            rng: of first weights and batches; it protects nothing.
        """

    @property
    def noise(self) -> Chain:
        """What a code passes on the device, between encoder and decoder; nothing unless the part says otherwise."""
        return Chain()

    def clean(self, code: Tensor) -> Tensor:
        """Returns what the noise keeps of a code (n, d) where it is at its least: it may bound or round it first."""
        return self.noise.without_noise()(code, system())

    def codes(self, sides: Sides) -> float:
        """Returns how many different things can leave; ``math.inf`` unless the part counts them."""
        return math.inf

    def release(self, sides: Sides, samples: Tensor, rng: Source) -> Tensor:
        """Returns what leaves a device, in the shape of the samples; takes noise afresh.

        Args:
            sides: the trained networks.
            samples: shape (n, ...).
            rng: of the noise.
        """
        sides.eval()
        with torch.no_grad():
            parts = [sides.decoder(self.noise(sides.encoder(part), rng)) for part in samples.split(_CHUNK)]
        return torch.cat(parts)

    def guarantee(self, delta: float = 1e-5) -> Guarantee | None:
        """Returns what one release tells of the sample, which any other could have been; None where nothing is noisy.

        Args:
            delta: the probability that epsilon does not bound.
        """
        if not any(each.adds_noise for each in self.noise.mechanisms):
            return None
        one = Sensitivity("record", "replace-one", dimension=self.dimension)
        return guarantee("one sample, in one release of it", self.noise.event(one), one, delta, 1)

    @property
    def dimension(self) -> int:
        """How many values a code has; asked of parts with noise only."""
        raise NotImplementedError


def activation(shape: tuple[int, ...]) -> list[nn.Module]:
    """Returns what ends an obfuscator: ReLU where samples are images, whose values are not negative, else nothing."""
    return [nn.ReLU()] if len(shape) == 3 else []


@part
class ThroughModel(Obfuscator):
    """An obfuscator whose networks are trained at once, by the answers of the model behind them.

    Attributes:
        epochs: passes over the rows.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: rows a step.

    References:
        Zheng, Xu, Jiang, Gu, Tan, Cheng, Challenges of Privacy-Preserving Machine Learning in IoT, AIChallengeIoT 2019,
        section 3.2.
    """

    epochs: Annotated[int, Field(ge=1)] = 12
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    batch_size: Annotated[int, Field(ge=2)] = 128

    def fit(self, model: UserModel, rng: Source) -> Sides:
        noise = rng.child("noise")

        def lost(sides: Sides, batch: Tensor) -> Tensor:
            released = sides.decoder(self.noise(sides.encoder(model.inputs[batch]), noise))
            answers = network(sides.service(released))
            return functional.cross_entropy(answers, model.labels[batch])

        with model.still() as network:
            return self.fitting(lambda: self.start(model, rng), lost, len(model.inputs), rng)

    def start(self, model: UserModel, rng: Source) -> Sides:
        """Returns the networks before training."""
        return self.build(model.shape, model.classes)

    @property
    def fitting(self) -> Fitting:
        """How long and how fast."""
        return Fitting(self.epochs, self.learning_rate, self.batch_size)
