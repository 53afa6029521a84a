"""Selective offload: the device answers what it is sure of, and only the rest leaves, by a way that is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.errors import InputError

Answers = Callable[[Tensor], Tensor]
"""Samples (n, ...) -> logits (n, classes)."""


@dataclass(frozen=True, eq=False)
class Offloaded:
    """Answers, and who gave them.

    Attributes:
        logits: shape (n, classes); of the device, or of the other side where a sample left.
        left: bool (n,), which samples left.
    """

    logits: Tensor
    left: Tensor


@dataclass(frozen=True, eq=False)
class Offload:
    """Asks elsewhere about what the device's own model is less sure of than a threshold.

    Attributes:
        own: the device's model.
        elsewhere: asks the other side, over an obfuscator, a blinded protocol or a plain service; its way is all
            that decides what the samples that leave tell.
        threshold: of the largest probability, below which a sample leaves.
        share: or: of the samples asked about, 0 (send nothing) to 1 (send all), those that leave.

    Raises:
        InputError: not one of both is given.
    """

    own: Answers
    elsewhere: Answers
    threshold: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.share is None):
            raise InputError("what leaves is not said", allowed="a threshold, or a share")

    @classmethod
    def calibrated(cls, own: Answers, elsewhere: Answers, rows: Tensor, share: float) -> Offload:
        """Returns an offload whose threshold lets ``share`` of some rows leave.

        Args:
            own, elsewhere: as the attributes.
            rows: shape (n, ...), of the kind that will be asked about, which nobody trained on.
            share: 0 (send nothing) to 1 (send all).

        Raises:
            InputError: the share is none, or there are no rows.
        """
        with torch.no_grad():
            return cls(own, elsewhere, threshold(sureness(own(rows)), share))

    @torch.no_grad()
    def answer(self, samples: Tensor) -> Offloaded:
        """Returns the answers for samples (n, ...); the other side is asked once, or not at all.

        Raises:
            InputError: the share is none, or there are no samples to take it of.
        """
        logits = self.own(samples)
        sure = sureness(logits)
        limit = self.threshold if self.share is None else threshold(sure, self.share)
        assert limit is not None  # noqa: S101 - one of both was given
        left = ~(sure >= limit)  # a score that is no number is no answer
        if left.any():
            logits = logits.clone()
            logits[left] = self.elsewhere(samples[left]).to(logits.dtype)
        return Offloaded(logits, left)


def sureness(logits: Tensor) -> Tensor:
    """Returns each row's largest probability, (n,), for logits (n, classes)."""
    return logits.softmax(1).amax(1)


def threshold(sure: Tensor, share: float) -> float:
    """Returns the sureness below which a share of rows lies; rows as sure as it stay.

    Args:
        sure: of held-out rows, (n,).
        share: 0 to 1; ``math.inf`` is returned for 1, so that all leave.

    Raises:
        InputError: the share is none, or there are no rows.
    """
    if not 0 <= share <= 1 or not len(sure):
        raise InputError(f"a share of {share} of {len(sure)} rows", allowed="0 to 1, of one row or more")
    count = round(share * len(sure))
    return math.inf if count == len(sure) else float(sure.sort().values[count])


def accuracies(own: Tensor, elsewhere: Tensor, labels: Tensor, shares: Sequence[float]) -> list[float]:
    """Returns the accuracy for each share of rows that leave, least sure first: the line of a figure.

    Args:
        own: the device's logits (n, classes).
        elsewhere: the other side's, for the same rows.
        labels: int64 (n,).
        shares: each 0 to 1.
    """
    least = sureness(own).argsort(stable=True)
    right_here, right_there = (logits.argmax(1)[least] == labels[least] for logits in (own, elsewhere))
    return [
        float(torch.cat([right_there[: round(q * len(labels))], right_here[round(q * len(labels)) :]]).double().mean())
        for q in shares
    ]
