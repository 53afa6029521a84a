"""Feature inversion: an attacker who knows the front and the mechanism learns to undo them.

The attacker runs its own inputs through the public front and the known mechanism and learns the
way back from those pairs. Three steps; what to use is chosen on a tenth of its own pairs that it
holds out, never on the truth:

1. Releases of one record are averaged, either as they are or after each was pressed through a
   tanh around its class mean. Under Laplace noise the best score of a weak signal is the sign,
   which holds twice the information of the mean; the tanh comes near it.
2. A linear decoder in closed form: a Gaussian posterior of some rank, or ridge regression.
3. A network corrects that guess. It learns from guesses that the decoder made for pairs it was
   not fitted on (five folds), so that it meets the errors that it will meet on what was seen.

Every step uses the label when it was seen. Repeated releases of a record let the noise be
averaged away.

Cost: about 15 CPU-seconds for 2,000 pairs of 3,920 features and 784 pixels.

References:
    He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019):
    the inverse network. Steps 1 and 2 are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, rows
from privet.attacks.linear_inverse import Decoder, Pairs, class_means, gaussian_posterior, ridge
from privet.attacks.sharpener import Sharpener, lost
from privet.engines.view import View
from privet.errors import InputError
from privet.parts import Grade, part
from privet.randomness import Source

_FOLDS = 5
_LEAST_PAIRS = 50
_RANKS = (15, 30, 60, 120, 240)
_STRENGTHS = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0)

_Fit = Callable[[Pairs], Decoder]


@part
class FeatureInversion(Attack):
    """Learns to turn seen features back into inputs from pairs that the attacker makes itself.

    Needs ``seen["features"]`` (n, d) and ``knows["features"]`` (m, d), or (n, r, d) and (m, r, d)
    for r releases of each record, ``knows["inputs"]`` (m, ...), and ``view.shape``; uses ``labels``
    when both sides have them. An input of shape (channels, height, width) is treated as an image.

    Attributes:
        epochs: passes of the network over the attacker's pairs.
        width: units in each of its two hidden layers.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: pairs a step.
        dropout: share of hidden units left out in training.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Literal["features", "members"]] = "features"

    epochs: Annotated[int, Field(ge=1)] = 20
    width: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    batch_size: Annotated[int, Field(ge=2)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        known, known_labels, seen, seen_labels, classes = _material(view)
        inputs = view.knows["inputs"].flatten(1).double()
        low, high = inputs.amin(0), inputs.amax(0)
        offset, scale = _units(inputs, view.shape)
        targets = (inputs - offset) / scale
        order = rng.child("held out").permutation(len(inputs))
        tested, fitted = order[: len(order) // 10], order[len(order) // 10 :]

        sides = []
        for squash in (None, _Squash(known, known_labels, classes)):
            met, kept = (_gather(known, known_labels, squash), _gather(seen, seen_labels, squash))
            sides.append((Pairs(targets, known_labels, met, classes), kept))
        found = [_best_linear(pairs.take(fitted), pairs.take(tested)) for pairs, _ in sides]
        at = min(range(len(found)), key=lambda i: found[i][0])
        (pairs, kept), (_, fit) = sides[at], found[at]
        learned, held = pairs.take(fitted), pairs.take(tested)

        decoder = fit(learned)
        means = class_means(learned.inputs, learned.labels, classes)
        network = self._sharpen(_crossed(learned, fit), learned, view.shape, rng)
        guesses: tuple[Decoder, ...] = (
            lambda _, labels: means[labels],
            decoder,
            lambda features, labels: network(decoder(features, labels), labels),
        )
        losses = [lost(guess(held.features, held.labels), held.inputs, view.shape).item() for guess in guesses]
        best = guesses[losses.index(min(losses))]
        guess = (best(kept, seen_labels) * scale + offset).clamp(low, high)
        return Reconstruction(guess.float().reshape(-1, *view.shape))

    def _sharpen(self, linear: Tensor, pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
        """Returns a network from (linear guesses, labels) to inputs."""
        size = pairs.inputs.shape[1]
        middle, spread = linear.mean(0), linear.std().clamp_min(1e-12)

        def prepared(guess: Tensor, labels: Tensor) -> Tensor:
            return torch.cat(((guess - middle) / spread, F.one_hot(labels, pairs.classes)), 1).float()

        given, start, wanted = prepared(linear, pairs.labels), linear.float(), pairs.inputs.float()
        steps = self.epochs * -(-len(given) // self.batch_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.child("network").integers(1 << 62, 1)[0]))
            network = Sharpener(given.shape[1], size, self.width, self.dropout, image=len(shape) == 3)
            adam = torch.optim.Adam(network.parameters(), self.learning_rate)
            rise = torch.optim.lr_scheduler.OneCycleLR(adam, self.learning_rate, total_steps=max(steps, 2))
            for _ in range(self.epochs):
                for batch in torch.split(torch.randperm(len(given)), self.batch_size):
                    adam.zero_grad()
                    lost(network(given[batch], start[batch]), wanted[batch], shape).backward()
                    adam.step()
                    rise.step()
        network.eval()

        @torch.no_grad()
        def sharpened(guess: Tensor, labels: Tensor) -> Tensor:
            out: Tensor = network(prepared(guess, labels), guess.float()).double()
            return out

        return sharpened


def _material(view: View) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Returns the attacker's and the seen features (k, r, d), both labels, and the number of classes."""
    (seen,) = rows(view.seen, "features")
    inputs, known = rows(view.knows, "inputs", "features")
    if inputs.shape[1:] != view.shape or not view.shape:
        raise InputError(f"the attacker's inputs have shape {tuple(inputs.shape[1:])}", allowed=f"{view.shape}")
    if len(inputs) < _LEAST_PAIRS:
        raise InputError(f"the attacker has {len(inputs)} pairs", allowed=f"{_LEAST_PAIRS} or more")
    if seen.dim() not in (2, 3) or known.shape[1:] != seen.shape[1:]:
        raise InputError(
            f"the attacker's features have shape {tuple(known.shape[1:])}, the seen ones {tuple(seen.shape[1:])}",
            allowed="(d) or (releases, d), the same for both",
        )
    classes = view.classes
    if classes and "labels" in view.seen and "labels" in view.knows:
        labels = [rows(view.knows, "inputs", "labels")[1].long(), rows(view.seen, "features", "labels")[1].long()]
        if any(not 0 <= int(end) < classes for side in labels for end in side.aminmax()):
            raise InputError("the view holds a label that is no class", allowed=f"0 to {classes - 1}")
    else:
        classes, labels = 1, [torch.zeros(len(side), dtype=torch.int64) for side in (known, seen)]
    if seen.dim() == 2:
        known, seen = known[:, None], seen[:, None]
    return known, labels[0], seen, labels[1], classes


def _units(inputs: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Returns the offset and scale that bring an image's range to [0, 1], a vector's columns to variance 1."""
    if len(shape) == 3:
        return inputs.min(), (inputs.max() - inputs.min()).clamp_min(1e-12)
    spread = inputs.std(0)
    return inputs.mean(0), torch.where(spread > 0, spread, 1.0)


class _Squash:
    """Presses each coordinate through a tanh around its class mean."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self._centres = class_means(features.mean(1), labels, classes).float()
        first = features[:, 0] - self._centres[labels]
        self._spread = 0.7 * first.abs().mean().clamp_min(1e-12)

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh((features - self._centres[labels]) / self._spread)


def _gather(features: Tensor, labels: Tensor, squash: _Squash | None) -> Tensor:
    releases = features.unbind(1)
    total = torch.zeros(features.shape[0], features.shape[2], dtype=torch.float64)
    for release in releases:
        total += release if squash is None else squash(release, labels)
    return total / len(releases)


def _best_linear(fitted: Pairs, held: Pairs) -> tuple[float, _Fit]:
    """Returns the least squared error on held-out pairs, and how to fit the decoder that reached it."""

    def gaussian(rank: int) -> _Fit:
        return lambda pairs: gaussian_posterior(pairs, (rank,))[rank]

    def ridged(strength: float) -> _Fit:
        return lambda pairs: ridge(pairs, (strength,))[strength]

    tried: list[tuple[Decoder, _Fit]] = []
    tried += [(decode, gaussian(rank)) for rank, decode in gaussian_posterior(fitted, _RANKS).items()]
    tried += [(decode, ridged(strength)) for strength, decode in ridge(fitted, _STRENGTHS).items()]
    losses = [F.mse_loss(decode(held.features, held.labels), held.inputs).item() for decode, _ in tried]
    return min(losses), tried[losses.index(min(losses))][1]


def _crossed(pairs: Pairs, fit: _Fit) -> Tensor:
    """Returns a guess for every pair, made by a decoder that was fitted without it."""
    guesses = torch.empty_like(pairs.inputs)
    fold = torch.arange(len(guesses)) % _FOLDS
    for number in range(_FOLDS):
        out = fold == number
        guesses[out] = fit(pairs.take(~out))(pairs.features[out], pairs.labels[out])
    return guesses
