"""Two closed-form ways to undo features linearly, both knowing the label; float64.

Both work on what is left of inputs and features after their class means are taken away, and
return decoders that share one factorisation, so that trying several settings costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

Decoder = Callable[[Tensor, Tensor], Tensor]
"""Features (n, d) and labels (n,) -> inputs (n, p), float64."""

_FOLDS = 5
_RANKS = (15, 30, 60, 120, 240)
_STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


@dataclass(frozen=True)
class Pairs:
    """What an attacker learns from: row i of each belongs to one record.

    Attributes:
        inputs: the originals, shape (m, p).
        labels: shape (m,), int64.
        features: shape (m, d).
        classes: number of classes.
    """

    inputs: Tensor
    labels: Tensor
    features: Tensor
    classes: int

    def take(self, which: Tensor) -> Pairs:
        """Returns the pairs at some indices or under a mask."""
        return Pairs(self.inputs[which], self.labels[which], self.features[which], self.classes)


Fit = Callable[[Pairs], Decoder]
"""How to fit a decoder to pairs."""


def class_means(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Returns the mean of each class, shape (classes, ...); a class without rows gets the mean of all."""
    sums = torch.zeros(classes, *values.shape[1:], dtype=torch.float64).index_add_(0, labels, values.double())
    counts = labels.bincount(minlength=classes).view(-1, *[1] * (values.dim() - 1))
    return torch.where(counts > 0, sums / counts.clamp_min(1), values.double().mean(0))


def _centred(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = class_means(pairs.inputs, pairs.labels, pairs.classes)
    features = class_means(pairs.features, pairs.labels, pairs.classes)
    return inputs, features, pairs.inputs - inputs[pairs.labels], pairs.features - features[pairs.labels]


def gaussian_posterior(pairs: Pairs, ranks: Iterable[int]) -> dict[int, Decoder]:
    """Returns, by rank, the posterior mean of a Gaussian model of inputs and noise.

    The inputs of a class vary along their first ``rank`` principal directions V with variances S;
    the features answer linearly, z = W' a + noise of one variance s2, fitted on the pairs. The
    guess is V (W W'/s2 + 1/S)^-1 W z / s2. Under heavy noise this beats ridge regression by far,
    as it estimates ``rank`` x d numbers and the noise, not p x d.

    References:
        Kay, Fundamentals of Statistical Signal Processing I (1993), chapter 10: the Bayesian linear model.
    """
    input_means, feature_means, inputs, features = _centred(pairs)
    freedom = max(len(inputs) - pairs.classes, 1)
    variances, directions = torch.linalg.eigh(inputs.T @ inputs / freedom)
    usable = min(int((variances > 1e-9 * variances[-1].clamp_min(1e-30)).sum()), freedom)
    order = torch.arange(len(variances) - 1, len(variances) - 1 - usable, -1)
    variances, directions = variances[order], directions[:, order]
    answers = (inputs @ directions).T @ features / (freedom * variances[:, None])
    energy = features.square().sum()

    def decoder(rank: int) -> Decoder:
        scale, axes, answer = variances[:rank], directions[:, :rank], answers[:rank]
        explained = (answer.square().sum(1) * scale).sum() * freedom
        noise = ((energy - explained) / (max(freedom - rank, 1) * features.shape[1])).clamp_min(
            1e-9 * energy / features.numel()
        )
        posterior = torch.linalg.inv(answer @ answer.T / noise.clamp_min(1e-30) + torch.diag(1 / scale))
        weights = answer.T / noise.clamp_min(1e-30) @ posterior @ axes.T
        return lambda seen, labels: input_means[labels] + (seen - feature_means[labels]) @ weights

    return {rank: decoder(min(rank, usable)) for rank in ranks}


def ridge(pairs: Pairs, strengths: Iterable[float]) -> dict[float, Decoder]:
    """Returns, by strength, the ridge regression of inputs on features.

    A strength is a multiple of the mean eigenvalue of the smaller of the two Gram matrices. Best
    where the noise is small and the features bend.
    """
    input_means, feature_means, inputs, features = _centred(pairs)
    wide = features.shape[1] > len(features)
    gram = features @ features.T if wide else features.T @ features
    unit = (gram.diagonal().mean()).clamp_min(1e-30)
    right = inputs if wide else features.T @ inputs

    def decoder(strength: float) -> Decoder:
        factor = torch.linalg.cholesky(gram + torch.eye(len(gram), dtype=torch.float64) * unit * strength)
        solved = torch.cholesky_solve(right, factor)

        def decode(seen: Tensor, labels: Tensor) -> Tensor:
            moved = seen - feature_means[labels]
            return input_means[labels] + (moved @ features.T @ solved if wide else moved @ solved)

        return decode

    return {strength: decoder(strength) for strength in strengths}


def best_linear(fitted: Pairs, held: Pairs) -> tuple[float, Fit]:
    """Returns the least squared error on held-out pairs, and how to fit the decoder that reached it."""

    def gaussian(rank: int) -> Fit:
        return lambda pairs: gaussian_posterior(pairs, (rank,))[rank]

    def ridged(strength: float) -> Fit:
        return lambda pairs: ridge(pairs, (strength,))[strength]

    tried: list[tuple[Decoder, Fit]] = []
    tried += [(decode, gaussian(rank)) for rank, decode in gaussian_posterior(fitted, _RANKS).items()]
    tried += [(decode, ridged(strength)) for strength, decode in ridge(fitted, _STRENGTHS).items()]
    losses = [F.mse_loss(decode(held.features, held.labels), held.inputs).item() for decode, _ in tried]
    return min(losses), tried[losses.index(min(losses))][1]


def crossed(pairs: Pairs, fit: Fit) -> Tensor:
    """Returns a guess for every pair, made by a decoder that was fitted without it."""
    guesses = torch.empty_like(pairs.inputs)
    fold = torch.arange(len(guesses)) % _FOLDS
    for number in range(_FOLDS):
        out = fold == number
        guesses[out] = fit(pairs.take(~out))(pairs.features[out], pairs.labels[out])
    return guesses
