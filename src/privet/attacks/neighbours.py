"""Undoing features by looking up: the attacker's own inputs whose features come nearest, or are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.attacks.linear_inverse import Decoder, Pairs, class_means
from privet.attacks.sharpener import lost
from privet.randomness import Source

_CHUNK = 256
_COUNTS = (1, 4, 16)


def neighbours(pairs: Pairs, count: int) -> Decoder:
    """Returns a decoder that answers with the mean of the nearest pairs' inputs.

    Pairs of another label than the seen one come last. It beats what is learned where features leave
    only a few possibilities open, and loses to it where they vary smoothly.

    Args:
        pairs: the attacker's own.
        count: how many neighbours.
    """

    def decode(features: Tensor, labels: Tensor) -> Tensor:
        return _mean(pairs.inputs, _nearest(pairs, features, labels, count))

    return decode


def _nearest(pairs: Pairs, features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Returns the places of the nearest pairs (n, count), nearest first, those of other labels last."""
    near = min(count, len(pairs.inputs))
    far = 2 * pairs.features.square().sum(1).max().sqrt() + 1
    places = []
    for some, mine in zip(features.double().split(_CHUNK), labels.split(_CHUNK), strict=True):
        distance = torch.cdist(some, pairs.features)
        distance += (far + some.norm(dim=1).max()) * (mine[:, None] != pairs.labels)
        places.append(distance.topk(near, largest=False).indices)
    return torch.cat(places)


def _mean(inputs: Tensor, places: Tensor) -> Tensor:
    """Returns the mean of the inputs (n, p) at some places (n, count)."""
    total = torch.zeros(len(places), inputs.shape[1], dtype=inputs.dtype)
    for column in places.unbind(1):
        total += inputs[column]
    return total / places.shape[1]


def equals(pairs: Pairs) -> Decoder:
    """Returns a decoder that answers with the mean input of all pairs with the nearest release, one of the label's.

    Of a code that is the best guess in the squared error: all that the code leaves open is averaged.

    Args:
        pairs: the attacker's own; equal releases are equal to the last bit.
    """
    wide = torch.cat((pairs.features, pairs.labels[:, None].double()), 1)
    codes, place = wide.unique(dim=0, return_inverse=True)
    means = class_means(pairs.inputs, place, len(codes))
    return neighbours(Pairs(means, codes[:, -1].long(), codes[:, :-1].contiguous(), pairs.classes), 1)


def looked_up(pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
    """Returns the decoder that does best on a tenth of the pairs held out: class mean, neighbours, or equal releases.

    Args:
        pairs: the attacker's own.
        shape: shape of one input.
        rng: of who is held out.
    """
    order = rng.permutation(len(pairs.inputs))
    tested, fitted = (pairs.take(order[part]) for part in (slice(len(order) // 10), slice(len(order) // 10, None)))
    means = class_means(fitted.inputs, fitted.labels, pairs.classes)
    near, equal = _nearest(fitted, tested.features, tested.labels, max(_COUNTS)), equals(fitted)
    tried: list[tuple[Decoder, Tensor]] = [(lambda _, labels: means[labels], means[tested.labels])]
    tried += [(neighbours(fitted, count), _mean(fitted.inputs, near[:, :count])) for count in _COUNTS]
    tried.append((equal, equal(tested.features, tested.labels)))
    losses = [lost(guess, tested.inputs, shape).item() for _, guess in tried]
    return tried[losses.index(min(losses))][0]
