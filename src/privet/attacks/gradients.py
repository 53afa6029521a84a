"""Gradients of a network at chosen rows, and the labels that they give away: what attacks on updates share.

References:
    Zhao, Mopuri, Bilen, iDLG: Improved Deep Leakage from Gradients (2020), section 3: one record's label.
    Yin et al., See through Gradients: Image Batch Recovery via GradInversion (CVPR 2021), section 3.2: a
    batch's labels; the counting of repeated labels is this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from privet.attacks.contract import network_of, rows
from privet.engines.view import View
from privet.errors import InputError

Gradients = dict[str, Tensor]
"""By a parameter's name, (k, *its shape): the mean gradients of k groups of rows."""

MOST = 256
"""More rows behind one gradient than this can't be told apart, and are most likely a slip."""


class Differentiator:
    """Computes mean gradients of the cross-entropy, many groups of rows at once, and differentiably in the rows.

    Args:
        network: at whose values; its own parameters are left alone.
    """

    def __init__(self, network: nn.Sequential) -> None:
        self.network = network
        self.values = {name: value.detach() for name, value in network.named_parameters()}
        self._together = True

    def __call__(self, inputs: Tensor, labels: Tensor) -> Gradients:
        """Returns the gradients of k groups.

        Args:
            inputs: shape (k, b, ...).
            labels: shape (k, b), int64, or probabilities (k, b, classes).
        """
        if self._together:
            try:
                together: Gradients = vmap(grad(self._loss), (None, 0, 0))(self.values, inputs, labels)
                return together
            except (RuntimeError, NotImplementedError):  # a layer that torch.func can't differentiate: one by one
                self._together = False
        found = [self._alone(*group) for group in zip(inputs, labels, strict=True)]
        return {name: torch.stack([gradients[name] for gradients in found]) for name in self.values}

    def _loss(self, values: Mapping[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, dict(values), (inputs,))
        return F.cross_entropy(logits, labels)

    def _alone(self, inputs: Tensor, labels: Tensor) -> Gradients:
        values = {name: value.requires_grad_() for name, value in self.values.items()}
        found = torch.autograd.grad(
            self._loss(values, inputs, labels), list(values.values()), create_graph=inputs.requires_grad
        )
        return dict(zip(values, found, strict=True))

    def vector(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the gradients of k groups as vectors (k, d) of the parameters alone, names sorted."""
        return flat(self(inputs, labels))


def flat(gradients: Gradients) -> Tensor:
    """Returns gradients as one vector a group, names sorted, shape (k, d)."""
    return torch.cat([gradients[name].flatten(1) for name in sorted(gradients)], 1)


def unpack(seen: Tensor, network: nn.Module) -> Gradients:
    """Returns the parts of vectors (k, d), laid out as the network's state, that belong to its parameters.

    Raises:
        InputError: the vectors have another length than the network's state.
    """
    state, own = network.state_dict(), {name for name, _ in network.named_parameters()}
    size = sum(value.numel() for value in state.values())
    if seen.dim() != 2 or seen.shape[1] != size:
        raise InputError(f"the gradients have shape {tuple(seen.shape)}", allowed=f"(devices, {size}), as the network")
    out, at = {}, 0
    for name in sorted(state):
        count = state[name].numel()
        if name in own:
            out[name] = seen[:, at : at + count].reshape(len(seen), *state[name].shape)
        at += count
    return out


def seen_updates(view: View, most: int | None = MOST) -> tuple[nn.Sequential, Gradients, list[int]]:
    """Returns the network, the gradients and the number of rows behind each that a view of updates holds.

    Args:
        view: what was seen.
        most: rows behind one gradient, or None for any number.

    Raises:
        InputError: the view lacks one, or it doesn't fit the network.
    """
    network = network_of(view)
    seen, counts = rows(view.seen, "gradients", "counts")
    if not view.shape or view.classes < 2:
        raise InputError("the view says no shape or fewer than two classes", do="set its shape and classes")
    if counts.min() < 1 or (most is not None and counts.max() > most):
        raise InputError(
            f"the view's counts run from {int(counts.min())} to {int(counts.max())}", allowed=f"1 to {most or 'any'}"
        )
    return network, unpack(seen.float(), network), [int(count) for count in counts]


def last_layer(network: nn.Sequential) -> tuple[str, nn.Linear]:
    """Returns the name of the linear layer that makes the logits, and the layer.

    Raises:
        InputError: the network doesn't end in one.
    """
    layers = list(network.named_modules())
    name, layer = layers[-1]
    if not isinstance(layer, nn.Linear):
        raise InputError(f"the network ends in {type(layer).__name__}", allowed="one that ends in a linear layer")
    return name, layer


class LabelCounter:
    """Reads from a gradient how many of the rows behind it have each label.

    The gradient of the cross-entropy with respect to the last layer's bias is, for class c, the mean over
    the rows of p_c - [label is c]. For one row, only the true label's entry is negative: iDLG. For more,
    the counts n are those for which the mean p that rows of such labels have, less n / rows, comes nearest.
    What p rows of a label have is learned from the attacker's own rows, or, when it has none, from noise.
    A layer without bias gives the same numbers along its mean input.

    Args:
        network: at whose values.
        view: whose ``knows`` may hold ``inputs`` and ``labels``.
        noise: inputs to probe the network with where the attacker has none, shape (m, ...).
    """

    def __init__(self, network: nn.Sequential, view: View, noise: Tensor) -> None:
        self._name, layer = last_layer(network)
        inputs, labels = noise, None
        if "inputs" in view.knows:
            (inputs,) = rows(view.knows, "inputs")
            labels = view.knows.get("labels")
        met: list[Tensor] = []
        handle = layer.register_forward_pre_hook(lambda _, given: met.append(given[0].detach()))
        with torch.no_grad():
            usual = network(inputs[:2000]).softmax(1).double()
        handle.remove()
        self._middle = met[0].mean(0).double() if layer.bias is None else None
        self._answers = usual.mean(0).repeat(usual.shape[1], 1)
        if labels is not None:
            for label in labels[:2000].unique():
                self._answers[label] = usual[labels[:2000] == label].mean(0)

    def errors(self, gradients: Gradients) -> Tensor:
        """Returns the mean of p - [label] over the rows behind each gradient, shape (k, classes)."""
        if self._middle is None:
            return gradients[f"{self._name}.bias"].double()
        weights = gradients[f"{self._name}.weight"].double()
        return weights @ self._middle / self._middle.square().sum().clamp_min(1e-12)

    def __call__(self, gradients: Gradients, counts: list[int]) -> list[Tensor]:
        """Returns, for each gradient, the labels of its rows, int64, in ascending order."""
        return [
            self._one(error, count) if count > 1 else error.argmin()[None]
            for error, count in zip(self.errors(gradients), counts, strict=True)
        ]

    def _one(self, error: Tensor, count: int) -> Tensor:
        classes = len(error)
        missing = count * (self._answers.mean(0) - error)
        found = missing.clamp_min(0).floor()
        while found.sum() > count:
            found[found.argmax()] -= 1
        for _ in range(int(count - found.sum())):
            found[(missing - found).argmax()] += 1
        moves = self._answers - torch.eye(classes, dtype=torch.float64)  # what one more row of a label adds
        rest = found @ moves - count * error
        for _ in range(4 * count):
            # Change one row's label from a to b where that explains the gradient best.
            change = rest + moves[None] - moves[:, None]
            cost = change.square().sum(2).masked_fill((found == 0)[:, None], torch.inf)
            a, b = divmod(int(cost.argmin()), classes)
            if cost[a, b] >= rest.square().sum() - 1e-12:
                break
            rest = change[a, b]
            found[a], found[b] = found[a] - 1, found[b] + 1
        return torch.arange(classes).repeat_interleave(found.long())
