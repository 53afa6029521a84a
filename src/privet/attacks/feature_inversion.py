"""Feature inversion: an attacker who knows the front and the mechanism learns to undo them.

The attacker runs its own inputs through the public front and the known mechanism and learns the
way back from those pairs, in several ways; which one answers is chosen on a tenth of its own pairs
that it holds out, never on the truth:

1. Releases of one record are averaged, either as they are or after each was pressed through a
   tanh around its class mean.
2. A linear decoder in closed form: a Gaussian posterior of some rank, or ridge regression.
3. A network corrects that guess. It learns from guesses that the decoder made for pairs it was
   not fitted on (five folds), so that it meets the errors that it will meet on what was seen.
4. A network of convolutions draws an image from the features' principal directions; of vectors,
   one of linear layers does.
5. The inputs of the attacker's own whose features are nearest.

Every step uses the label when it was seen. Besides the guess come two ways to tell whose record was
seen without undoing anything, :mod:`privet.attacks.matchers`: a guess alone understates.

Cost: about 20 CPU-seconds for 2,000 pairs of 3,920 features and 784 pixels.

References:
    He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019):
    the inverse network. Steps 1 and 2 are this project's own.
"""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from pydantic import Field
from torch import Tensor, nn

from privet.attacks import matchers
from privet.attacks.contract import Attack, Matcher, Reconstruction, Target
from privet.attacks.convolutional_inverse import ConvolutionalInverse
from privet.attacks.likelihoods import likelihoods
from privet.attacks.linear_inverse import Decoder, Pairs, best_linear, class_means, crossed
from privet.attacks.matchers import Blocks
from privet.attacks.material import Material, Units, material
from privet.attacks.neighbours import neighbours
from privet.attacks.principal import Principal
from privet.attacks.releases import Squash, gather
from privet.attacks.sharpener import Sharpener, lost
from privet.engines.view import View
from privet.models.fitting import Fitting
from privet.parts import Grade, part
from privet.randomness import Source

_NEIGHBOURS = (1, 4, 16)
_PRINCIPAL = 256


@part
class FeatureInversion(Attack):
    """Learns to turn seen features back into inputs from pairs that the attacker makes itself.

    Needs ``seen["features"]`` (n, d) and ``knows["features"]`` (m, d), or (n, r, d) and (m, r, d)
    for r releases of each record, ``knows["inputs"]`` (m, ...), and ``view.shape``; uses ``labels``
    when both sides have them, and ``view.release`` to recognise candidates. An input of shape
    (channels, height, width) is treated as an image.

    Attributes:
        epochs: passes of the network over the attacker's pairs.
        width: units in each of its two hidden layers.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: pairs a step.
        dropout: share of hidden units left out in training.
    """

    grade: ClassVar[Grade] = "measured"
    target: ClassVar[Target] = "features"

    epochs: Annotated[int, Field(ge=1)] = 20
    width: Annotated[int, Field(ge=1)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    batch_size: Annotated[int, Field(ge=2)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        given = material(view)
        known, known_labels, seen, seen_labels = given.known, given.known_labels, given.seen, given.seen_labels
        classes, inputs = given.classes, given.inputs.flatten(1).double()
        units = Units.of(inputs, view.shape)
        targets = units.forward(inputs)
        order = rng.child("held out").permutation(len(inputs))
        tested, fitted = order[: len(order) // 10], order[len(order) // 10 :]

        sides = []
        for squash in (None, Squash(known, known_labels, classes)):
            met, kept = (gather(known, known_labels, squash), gather(seen, seen_labels, squash))
            sides.append((Pairs(targets, known_labels, met, classes), kept))
        found = [best_linear(pairs.take(fitted), pairs.take(tested)) for pairs, _ in sides]
        at = min(range(len(found)), key=lambda i: found[i][0])
        (pairs, kept), (_, fit) = sides[at], found[at]
        learned, held = pairs.take(fitted), pairs.take(tested)

        decoder, guessed = fit(learned), crossed(learned, fit)
        means = class_means(learned.inputs, learned.labels, classes)
        network = self._sharpen(guessed, learned, view.shape, rng.child("network"))
        guesses: list[Decoder] = [
            lambda _, labels: means[labels],
            decoder,
            lambda features, labels: network(decoder(features, labels), labels),
            self._draw(learned, view.shape, rng.child("drawing")),
            *(neighbours(learned, count) for count in _NEIGHBOURS),
        ]
        losses = [lost(guess(held.features, held.labels), held.inputs, view.shape).item() for guess in guesses]
        best = guesses[losses.index(min(losses))]
        guess = units.back(best(kept, seen_labels))
        # What the matcher meets of a pair must not come from a decoder that was fitted on this pair.
        shown = (learned.features, guessed), (kept, decoder(kept, seen_labels))
        ways = {"matcher": self._matcher(given.inputs[fitted], shown, rng)} | _known_mechanism(view, given)
        return Reconstruction(guess.float().reshape(-1, *view.shape), matchers=ways)

    @property
    def _fitting(self) -> Fitting:
        return Fitting(self.epochs, self.learning_rate, self.batch_size)

    def _sharpen(self, linear: Tensor, pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
        """Returns a network from (linear guesses, labels) to inputs."""
        size = pairs.inputs.shape[1]
        middle, spread = linear.mean(0), linear.std().clamp_min(1e-12)

        def prepared(guess: Tensor, labels: Tensor) -> Tensor:
            return torch.cat(((guess - middle) / spread, F.one_hot(labels, pairs.classes)), 1).float()

        given, start, wanted = prepared(linear, pairs.labels), linear.float(), pairs.inputs.float()
        network = self._fitting(
            lambda: Sharpener(given.shape[1], size, self.width, self.dropout, image=len(shape) == 3),
            lambda network, batch: lost(network(given[batch], start[batch]), wanted[batch], shape),
            len(given),
            rng,
        )

        @torch.no_grad()
        def sharpened(guess: Tensor, labels: Tensor) -> Tensor:
            out: Tensor = network(prepared(guess, labels), guess.float()).double()
            return out

        return sharpened

    def _draw(self, pairs: Pairs, shape: tuple[int, ...], rng: Source) -> Decoder:
        """Returns a network from (features, labels) to inputs, through no linear guess."""
        principal = Principal(pairs.features, _PRINCIPAL, rng.child("principal"))

        def prepared(features: Tensor, labels: Tensor) -> Tensor:
            return torch.cat((principal(features), F.one_hot(labels, pairs.classes)), 1)

        def layers() -> nn.Module:
            if len(shape) == 3:
                return ConvolutionalInverse(given.shape[1], shape)
            wide = self.width
            return nn.Sequential(
                *(nn.Linear(given.shape[1], wide), nn.ReLU(), nn.Dropout(self.dropout)),
                *(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, wanted.shape[1])),
            )

        given, wanted = prepared(pairs.features, pairs.labels), pairs.inputs.float()
        network = self._fitting(
            layers, lambda network, batch: lost(network(given[batch]), wanted[batch], shape), len(given), rng
        )

        @torch.no_grad()
        def drawn(features: Tensor, labels: Tensor) -> Tensor:
            out: Tensor = network(prepared(features, labels)).double()
            return out

        return drawn

    def _matcher(self, inputs: Tensor, shown: tuple[Blocks, Blocks], rng: Source) -> Matcher:
        @functools.cache
        def made() -> Matcher:
            return matchers.learned(shown[0], inputs, shown[1], self._fitting, rng.child("matcher"))

        return lambda candidates: made()(candidates)


def _known_mechanism(view: View, given: Material) -> dict[str, Matcher]:
    """Returns how to recognise a candidate by the mechanism computed on it, where the party can do that."""
    release = view.release
    if release is None:
        return {}
    return {"likelihood": lambda candidates: likelihoods(given, release(given.inputs), release(candidates))}
