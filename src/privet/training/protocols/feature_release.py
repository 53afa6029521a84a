"""Split training whose guarantee holds: features are released once, by a front that does not train.

Cost: one forward pass of the front a record on the device, one message a device; all training is the edge
server's. Assumes that the number of a device's records is public.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privet.accounting import Guarantee
from privet.engines import Channel
from privet.mechanisms.chain import Chain
from privet.mechanisms.randomised_response import RandomisedResponse
from privet.models import Model
from privet.parts import Grade, part
from privet.randomness import Source
from privet.training.contract import Bench, Lesson, Promise, Protocol
from privet.training.descent import batches
from privet.training.guarantees import of_released_features
from privet.training.protocols.split_federated import EDGE

_RARE = 1e-3
"""The smallest share that a label counts with, so that one that a device lacks has a finite logarithm."""


def likelihood_of_labels(logits: Tensor, labels: Tensor, share: Tensor, keep: float) -> Tensor:
    """Returns the mean negative log-likelihood of labels that passed a randomised response.

    Args:
        logits: of the head, (n, k), as if all true labels were equally frequent.
        labels: as released, (n,).
        share: of each true label, (k,).
        keep: the probability with which a label was released as it is.

    References:
        Patrini et al., Making Deep Neural Networks Robust to Label Noise, CVPR 2017, section 4.1 (forward
        correction); Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021, equation 10.
    """
    truth = nn.functional.log_softmax(logits + share.log(), 1)
    if keep == 1:
        return nn.functional.nll_loss(truth, labels)
    other = (1 - keep) / (logits.shape[1] - 1)
    return nn.functional.nll_loss((other + (keep - other) * truth.exp()).log(), labels)


@part
class FeatureRelease(Protocol):
    """Devices release clipped, noised features and labels once; the edge server trains the head on them.

    The front keeps the values it was shipped with (a random or a fixed one): no gradient returns to the raw
    inputs, so nothing is given away by it. A device's release is made once and cached by the edge server;
    local epochs and rounds are free. In a simulated fleet the cache is noise that is drawn again exactly;
    bytes are counted in round 1.

    The head learns from noisy features and is meant for clean ones, on the device. It learns logits as if
    all labels were equally frequent, because under noise the frequencies would drown the features.

    Attributes:
        rounds: global epochs: how often the heads of the devices' sessions are averaged.
        local_epochs: passes of the edge server over one device's release in a round.
        cut: after which stage the model is cut; the model's own default when empty.
        label_epsilon: of the randomised response that each label passes once; labels go in the clear when
            it is left out.

    References:
        Tramer, Boneh, Differentially Private Learning Needs Better Features (or Much More Data), ICLR 2021
        (data-free features); Warner, Randomized Response, JASA 1965; Ghazi et al., Deep Learning with Label
        Differential Privacy, NeurIPS 2021, section 2.
    """

    grade: ClassVar[Grade] = "derived"
    cuts: ClassVar[bool] = True
    once: ClassVar[bool] = True

    rounds: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cut: str | None = None
    label_epsilon: Annotated[float, Field(gt=0, le=30)] | None = None

    def split(self, model: Model, network: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
        return model.cut(network, self.cut)

    def train(self, lesson: Lesson) -> float:
        bench, noise = lesson.bench, lesson.noise
        features = self._release(bench, lesson.inputs, lesson.mechanisms, noise.child("features"))
        with torch.no_grad():
            classes = bench.head(features[:1]).shape[1]
        keep = self.keep(classes)
        labels = self.answers(lesson.labels, classes, noise.child("labels"))
        self._send(lesson.channel, features.flatten(1), labels)
        seen = labels.bincount(minlength=classes) / len(labels)
        other = (1 - keep) / (classes - 1)
        share = ((seen - other) / (keep - other)).clamp_min(_RARE)

        def learn(rows: Tensor, number: int) -> Tensor:
            with bench.precision.autocast():
                logits = bench.head(features[rows])
            loss = likelihood_of_labels(logits.float(), labels[rows], share, keep)
            loss.backward()
            return loss.detach()

        return self.passes(lesson, learn)

    @torch.no_grad()
    def _release(self, bench: Bench, inputs: Tensor, mechanisms: Chain, noise: Source) -> Tensor:
        """Returns a device's features as released: the same ones in every round."""
        released = []
        for number, rows in enumerate(batches(len(inputs), self.batch_size)):
            with bench.precision.autocast():
                features = bench.front(inputs[rows])
            released.append(mechanisms(features.flatten(1).float(), noise.child(number)).view(features.shape))
        return torch.cat(released)

    def _send(self, channel: Channel, features: Tensor, labels: Tensor) -> None:
        if channel.round == 1:
            channel.send(channel.device, EDGE, "features and labels", {"f": features, "l": labels})
        if channel.keeps(EDGE):
            rows = torch.arange(len(labels))
            channel.remember("features", features, rows, 0)
            channel.remember("labels", labels, rows, 0)

    def keep(self, classes: int) -> float:
        """Returns the probability with which a label is released as it is."""
        if self.label_epsilon is None:
            return 1.0
        return 1 - RandomisedResponse(self.label_epsilon).uniform_part(classes) * (classes - 1) / classes

    def answers(self, labels: Tensor, classes: int, noise: Source) -> Tensor:
        """Returns the labels (n,) as they are released."""
        if self.label_epsilon is None:
            return labels
        return RandomisedResponse(self.label_epsilon)(nn.functional.one_hot(labels, classes), noise).argmax(1)

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_released_features(promise, self.label_epsilon)
