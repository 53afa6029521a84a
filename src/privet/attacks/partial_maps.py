"""Black-box inversion of what one helper of a distributed inference received: some maps, partial sums, several frames.

The attacker has public images, and for each of them what the helper would have received; it needs not know the
network. From those pairs it learns to draw the image and to name its class. Everything a helper holds goes in
together: maps of several layers, partial sums of several senders, several frames.

It is no part of the family of attacks: those undo what a training run showed, and a training run has no helpers.

Cost: about 40 CPU-seconds for 6,000 pairs of 28 x 28 images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from privet.attacks.contract import Reconstruction, rows
from privet.attacks.maps_inverse import MapsInverse
from privet.attacks.sharpener import lost
from privet.engines.view import View
from privet.errors import InputError
from privet.models.fitting import Fitting
from privet.randomness import Source

_CHUNK = 250
_LEAST_PAIRS = 50
_OF_LABELS = 0.1  # weight of naming beside drawing


@dataclass(frozen=True)
class PartialMaps:
    """Learns to draw images from all tensors of a view.

    Attributes:
        epochs: passes over the attacker's pairs.
        width: channels of the network.
        learning_rate: peak step size of Adam, which rises and falls once.
        batch_size: pairs a step.

    References:
        He, Zhang, Lee, Model Inversion Attacks Against Collaborative Inference (ACSAC 2019), section 4: black-box
        inversion.
    """

    epochs: int = 15
    width: int = 48
    learning_rate: float = 0.004
    batch_size: int = 64

    def __call__(self, view: View, rng: Source) -> Reconstruction:
        """Attacks a view.

        Args:
            view: ``seen`` holds what was received, by any names, maps (n, c, h, w) or values (n, d); ``knows`` the same
                names for the attacker's own ``inputs`` (m, channels, height, width), and perhaps their ``labels``,
                which the attacker then learns to name. What has one number a row (labels, numbers of images) is
                not looked at.
            rng: of first weights and shuffles.

        Returns:
            The images, row by row what was seen, with ``labels`` where it had some to learn from.

        Raises:
            InputError: the view lacks something, or what is seen and what is known have different shapes.
        """
        names = [name for name, value in view.seen.items() if value.dim() > 1]
        if not names:
            raise InputError("the view holds nothing that was received", do="give the maps that a helper holds")
        seen = rows(view.seen, *names)
        inputs, *known = rows(view.knows, "inputs", *names)
        _check(view, names, seen, known, inputs)
        labels = rows(view.knows, "inputs", "labels")[1].long() if view.classes and "labels" in view.knows else None
        wanted = inputs.flatten(1).float()

        def missed(network: MapsInverse, batch: Tensor) -> Tensor:
            drawn, logits = network([value[batch] for value in known])
            loss = lost(drawn.flatten(1), wanted[batch], view.shape)
            return loss if labels is None else loss + _OF_LABELS * F.cross_entropy(logits, labels[batch])

        shapes = [tuple(value.shape[1:]) for value in known]
        classes = 0 if labels is None else view.classes
        network = Fitting(self.epochs, self.learning_rate, self.batch_size)(
            lambda: MapsInverse(shapes, view.shape, classes, self.width),
            missed,
            # Nothing can be normalised over a batch of one.
            len(inputs) - (len(inputs) % self.batch_size == 1),
            rng,
        )
        with torch.no_grad():
            parts = zip(*(value.split(_CHUNK) for value in seen), strict=True)
            drawn, logits = zip(*(network(list(part)) for part in parts), strict=True)
        named = None if labels is None else torch.cat(logits).argmax(1)
        return Reconstruction(torch.cat(drawn).to(inputs.dtype), named)


def _check(view: View, names: list[str], seen: tuple[Tensor, ...], known: list[Tensor], inputs: Tensor) -> None:
    if len(view.shape) != 3 or inputs.shape[1:] != view.shape:
        raise InputError(
            f"the attacker's images have shape {tuple(inputs.shape[1:])}", allowed=f"{view.shape}, an image"
        )
    if len(inputs) < _LEAST_PAIRS:
        raise InputError(f"the attacker has {len(inputs)} pairs", allowed=f"{_LEAST_PAIRS} or more")
    for name, kept, own in zip(names, seen, known, strict=True):
        if own.shape[1:] != kept.shape[1:] or own.dim() not in (2, 4):
            raise InputError(
                f"{name}: the attacker's have shape {tuple(own.shape[1:])}, the seen ones {tuple(kept.shape[1:])}",
                allowed="maps (c, h, w) or values (d), the same for both",
            )
