"""Private training of records: clipped per-record gradients over Poisson samples, with Gaussian noise.

Cost: about one plain step a batch, plus one normal number a parameter and step. Assumes that a device's
number of rows is public, and that who reads an update doesn't also read the device's clock: the time of a
step grows with its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from dp_accounting.dp_event import GaussianDpEvent
from pydantic import Field
from torch import Tensor, nn

from privet.accounting import Guarantee, Sensitivity
from privet.accounting.accountants import guarantee
from privet.errors import PartError
from privet.parts import Grade, part
from privet.randomness import Source
from privet.training.contract import Bench, Lesson, Promise, Protocol
from privet.training.per_record import Clipping, PerRecord
from privet.training.sampling import Poisson

_FEW = 8  # different devices whose costs are derived one by one


@part
class DpSgd(Protocol):
    """Devices train on Poisson samples of their rows with clipped, noised gradients: epsilon per record.

    A step takes each of a device's rows with probability ``batch_size / rows``, sums their clipped gradients,
    adds Gaussian noise of standard deviation ``noise_multiplier * clipping_norm`` and divides by
    ``batch_size``. Sample and noise come from the run's source of noise, not from its shuffles.

    ``each-device`` noise: every device adds the whole noise to its own sums, takes ``local_epochs * rows /
    batch_size`` steps a round and sends the difference. The guarantee holds against whoever sees the updates.

    ``distributed`` noise: a round is one step of the whole fleet. Each device adds a share of variance
    ``(noise_multiplier * clipping_norm)**2 / shares``, so that the sum of ``shares`` devices carries the noise
    once. The guarantee holds ONLY against whoever sees nothing but the sum: secure aggregation hides the rest.
    This build simulates it: here the coordinator could look at single updates, which carry too little noise.
    Give the sum to the mean with equal weights, and let no round with fewer replies than ``shares`` count.

    The training loss isn't reported: it isn't covered by the noise.

    Attributes:
        local_epochs: expected passes over a device's rows in a round (each-device noise only).
        batch_size: expected number of rows that a device's step takes.
        momentum: of the device's steps, fresh in every round; costs no privacy.
        noise_multiplier: standard deviation of the noise over ``clipping_norm``; 0 leaves it out.
        clipping_norm: the l2 norm that a record's gradient keeps at most.
        clipping: ``flat``; ``per-layer`` (each of k layers to ``clipping_norm / sqrt(k)``); ``adaptive``: the
            norm follows a noisy quantile of the gradients' norms, from ``clipping_norm`` afresh in every round.
        quantile: the share of gradients that adaptive clipping leaves whole.
        noise: who adds the noise.
        shares: how many devices' shares make the noise once (distributed noise only).

    References:
        Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1; Andrew et al.,
        Differentially Private Learning with Adaptive Clipping, NeurIPS 2021, algorithm 1 and theorem 1;
        Kairouz et al., The Distributed Discrete Gaussian Mechanism, ICML 2021 (the seam for it).
    """

    grade: ClassVar[Grade] = "derived"
    reports_loss: ClassVar[bool] = False
    sampler: ClassVar[Poisson] = Poisson()
    """How the rows of a step are drawn; the guarantee's event is derived from it."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise_multiplier: Annotated[float, Field(ge=0)] = 1.0
    clipping_norm: Annotated[float, Field(gt=0)] = 1.0
    clipping: Literal["flat", "per-layer", "adaptive"] = "flat"
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    noise: Literal["each-device", "distributed"] = "each-device"
    shares: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        together = self.noise == "distributed"
        if together and (self.local_epochs != 1 or self.momentum or self.clipping == "adaptive"):
            raise PartError(
                "dp-sgd with distributed noise takes one step a round, from the same model on every device",
                allowed="local_epochs = 1, momentum = 0, clipping = 'flat' or 'per-layer'",
                do="raise rounds instead",
            )
        if not together and self.shares != 1:
            raise PartError("dp-sgd.shares is for distributed noise", do="leave it out, or set noise = 'distributed'")

    def rate(self, rows: int) -> float:
        """Returns the probability with which a step takes each of a device's rows."""
        return min(1.0, self.batch_size / rows)

    def steps(self, rows: int) -> int:
        """Returns the steps of one round of a device with so many rows."""
        return 1 if self.noise == "distributed" else max(1, round(self.local_epochs / self.rate(rows)))

    def quiet(self) -> DpSgd:
        """Returns the same training, clipped but without noise: what a device does for itself."""
        return replace(self, noise_multiplier=0.0)

    def train(self, lesson: Lesson) -> float:
        bench, labels, noise = lesson.bench, lesson.labels, lesson.noise
        gradients = PerRecord(bench.network, tuple(lesson.inputs.shape[1:]))
        features = _features(gradients, bench, lesson.inputs, lesson.channel.device)
        rate, limit = self.rate(len(labels)), self.clipping_norm
        clipping: Clipping = "per-layer" if self.clipping == "per-layer" else "flat"
        total = bench.descent.gradients
        for _ in range(self.steps(len(labels))):
            rows = self.sampler.draw(len(labels), rate, noise)
            norms = gradients.add(features[rows], labels[rows], limit, clipping)
            deviation = self._multiplier() * limit / math.sqrt(self.shares)
            if deviation:
                total.add_(noise.normal(tuple(total.shape)), alpha=deviation)
            if self.clipping == "adaptive":
                limit *= self._adapted(norms <= limit, rate * len(labels), noise)
            total.div_(rate * len(labels))
            bench.descent.step(self.learning_rate, self.momentum)
        return 0.0

    def _multiplier(self) -> float:
        """Returns the noise multiplier of the gradients alone: more, where a noisy count costs something too."""
        if self.clipping != "adaptive" or not self.noise_multiplier:
            return self.noise_multiplier
        return 1 / math.sqrt(self.noise_multiplier**-2 - (2 * self._count_noise()) ** -2)

    def _count_noise(self) -> float:
        """Returns the standard deviation on the count of whole gradients, each of which counts +-1/2.

        16 noise multipliers of the count's sensitivity raise the gradients' noise by 0.2 %.
        """
        return 8 * self.noise_multiplier

    def _adapted(self, whole: Tensor, expected: float, noise: Source) -> float:
        """Returns the factor by which the clipping norm changes (Andrew et al., algorithm 1)."""
        count = float(whole.double().sub(0.5).sum()) + self._count_noise() * float(noise.normal((1,)))
        share = count / expected + 0.5
        return math.exp(-0.2 * (share - self.quantile))

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        how = f"{self.sampler.name} of {self.batch_size} rows a step, rows per device public"
        if self.noise == "distributed":
            whom = (
                f"whoever sees only the sum of each step's updates (secure aggregation, which this build simulates), "
                f"if {self.shares} devices added their share of its noise"
            )
        else:
            whom = "whoever sees the updates or the model"
        claim = f"one record, against {whom}; {how}"
        record = Sensitivity("record", promise.relation, promise.dimension)
        rounds, rows = promise.cohort.participations(self.rounds), sorted(set(promise.examples))
        if reason := self._why_nothing(promise):
            claim = f"{claim}; {reason}"
            return [Guarantee(claim, "record", promise.relation, math.inf, promise.delta, rounds, "none")]
        step = GaussianDpEvent(self._effective(promise))
        costs = {(self.rate(count), rounds * self.steps(count)) for count in rows}
        if len(costs) > _FEW:
            costs = {(max(rate for rate, _ in costs), max(steps for _, steps in costs))}
        stated = [
            guarantee(claim, self.sampler.event(rate, step), record, promise.delta, steps) for rate, steps in costs
        ]
        return [max(stated, key=lambda one: (one.epsilon, one.releases))]

    def _why_nothing(self, promise: Promise) -> str:
        """Returns why no guarantee can be derived, or "" where one can."""
        if not promise.examples:
            return "the devices' numbers of rows are not known"
        if promise.relation != "add-or-remove-one":
            return "nothing is derived for Poisson samples under replace-one: set privacy.relation"
        if self.noise == "distributed" and promise.on_device.mechanisms:
            return "what mechanisms.on_device changes is no share of a sum"
        return ""

    def _effective(self, promise: Promise) -> float:
        """Returns the noise multiplier of what is released: of a device's sum, or of the fleet's.

        Only a linear rule that treats all devices alike bounds what a record moves, and it scales every
        device's gradients and noise by the same factor: the multiplier of the sum is that of what comes out.
        """
        if self.noise == "each-device":
            return self.noise_multiplier
        record = Sensitivity("record", promise.relation, promise.dimension).bounded(l2=self.clipping_norm)
        if math.isinf(promise.combine(record, promise.devices).l2):
            return 0.0
        return self.noise_multiplier * math.sqrt(promise.devices / self.shares)


def _features(gradients: PerRecord, bench: Bench, inputs: Tensor, device: str) -> Tensor:
    """Returns the fixed stages' features of a device's rows, made once if they cost anything."""
    if all(isinstance(stage, nn.Flatten) for stage in gradients.fixed):
        return gradients.features(inputs)
    check = float(inputs.sum(dtype=torch.float64))
    if bench.kept.get(device, (math.nan,))[0] != check:
        bench.kept[device] = (check, gradients.features(inputs))
    return bench.kept[device][1]
