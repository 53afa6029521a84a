"""The sum over a batch of per-record gradients, each clipped first: the query that DP-SGD noises.

For networks whose parameters lie in linear layers and convolutions, one forward and one backward pass
give every layer's inputs and output gradients; :mod:`privet.training.clipped_layers` makes norms and the
weighted sum of them, so that a step costs about as much as a plain one. Other layers go through
``torch.func``, which is slower. Whatever lets one record of a batch move another's output is refused: no
clipping bounds what such a record moves.

References:
    Abadi et al., Deep Learning with Differential Privacy, CCS 2016, algorithm 1;
    McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018, section 3.1
    (clipping by layer).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from privet.errors import PartError
from privet.training import clipped_layers
from privet.training.clipped_layers import Gradients

Clipping = Literal["flat", "per-layer"]

_CHUNK, _IMAGES, _FALL_BACK = 1024, 64, 32  # records in memory at once: linear layers, convolutions, torch.func
_BELOW = 1 - 2.0**-19  # float32 norms err by less than this


class PerRecord:
    """Sums clipped per-record gradients of the cross-entropy into the parameters' ``.grad``.

    Guarantee: without one record, the sum changes by at most ``limit`` in l2 norm.

    Args:
        network: stages in order. Leading stages without parameters are ``fixed``: their outputs are features
            that depend on no parameter and on no other record, so that they can be made once and kept.
        shape: shape of one input.

    Raises:
        PartError: one record's output depends on the other records of its batch, or nothing is trained.
    """

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...]) -> None:
        stages = list(_flattened(network))
        _refuse_coupled(network, stages, shape)
        self.fixed = nn.Sequential(*takewhile(lambda stage: not any(True for _ in stage.parameters()), stages))
        self.trained = nn.Sequential(*stages[len(self.fixed) :])
        parameters = [value for stage in self.trained for value in stage.parameters() if value.requires_grad]
        if not parameters:
            raise PartError("the network has nothing to train", do="take a model with parameters")
        holders = [stage for stage in self.trained if any(True for _ in stage.parameters())]
        _refuse_shared(self.trained)
        used_once = len({id(stage) for stage in holders}) == len(holders)
        self.closed_form = used_once and all(clipped_layers.closed_form(stage) for stage in holders)
        self._size = _FALL_BACK if not self.closed_form else _CHUNK
        if self.closed_form and any(isinstance(stage, nn.Conv2d) for stage in holders):
            self._size = _IMAGES

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """Returns what the fixed stages make of inputs (n, ...); it depends on no parameter."""
        if len(inputs) <= _CHUNK:
            return self.fixed(inputs)  # type: ignore[no-any-return]
        return torch.cat([self.fixed(part) for part in inputs.split(_CHUNK)])

    def add(self, features: Tensor, labels: Tensor, limit: float, clipping: Clipping = "flat") -> Tensor:
        """Adds the sum of the clipped gradients to the trained parameters' ``.grad``.

        A record whose gradient is not finite counts as 0. An empty batch adds nothing.

        Args:
            features: as :meth:`features` returns them, shape (b, ...).
            labels: shape (b,).
            limit: the l2 norm that a record's gradient keeps at most.
            clipping: ``flat`` scales a whole gradient; ``per-layer`` clips each of k layers to
                ``limit / sqrt(k)``, so that a large one takes nothing from the others.

        Returns:
            The l2 norm of each record's gradient before clipping, shape (b,).
        """
        parts = zip(features.split(self._size), labels.split(self._size), strict=True)
        norms = [self._chunk(*part, limit, clipping) for part in parts if len(part[0])]
        if len(norms) == 1:
            return norms[0]
        return torch.cat(norms) if norms else torch.zeros(0)

    def _chunk(self, features: Tensor, labels: Tensor, limit: float, clipping: Clipping) -> Tensor:
        layers = (self._by_layer if self.closed_form else self._one_by_one)(features, labels)
        norms = functools.reduce(torch.add, [layer.squared for layer in layers]).sqrt()
        if not math.isfinite(float(norms.sum())):
            return self._finite_only(norms, features, labels, limit, clipping)
        most = limit * _BELOW if clipping == "flat" else limit * _BELOW / math.sqrt(len(layers))
        weights = most / norms.clamp_min(most)
        for layer in layers:
            if clipping == "per-layer":
                weights = most / layer.squared.sqrt().clamp_min(most)
            layer.add(weights)
        return norms

    def _finite_only(self, norms: Tensor, features: Tensor, labels: Tensor, limit: float, clipping: Clipping) -> Tensor:
        """Adds the records whose gradients are finite; returns all norms, the others' as infinite."""
        finite = norms < torch.finfo(norms.dtype).max / len(norms)
        if finite.any():
            self._chunk(features[finite], labels[finite], limit, clipping)
        return torch.where(finite, norms, math.inf)

    def _by_layer(self, features: Tensor, labels: Tensor) -> list[Gradients]:
        taps: list[tuple[clipped_layers.Layer, Tensor, list[Tensor]]] = []
        value, start = features, torch.zeros((), requires_grad=True)
        with torch.enable_grad():
            for stage in self.trained:
                if not isinstance(stage, clipped_layers.Layer):
                    # What works in place would change what the layer before it has put out.
                    value = stage(value.clone() if getattr(stage, "inplace", False) else value)
                    continue
                taps.append((stage, value.detach(), []))
                value = clipped_layers.forward(stage, value)
                if not value.requires_grad:
                    value = value.add_(start)
                assert value.grad_fn is not None  # noqa: S101 - either line above has made one
                # Asked of the node and not of the output, which so is not kept.
                value.grad_fn.register_prehook(taps[-1][2].extend)
        with torch.no_grad():
            outward = value.softmax(1)
            outward.scatter_add_(1, labels[:, None], outward.new_full((len(labels), 1), -1.0))
        torch.autograd.grad(value, start, outward)
        with torch.no_grad():
            return [
                clipped_layers.gradients(layer, into, *gradient)
                for layer, into, gradient in taps
                if any(parameter.requires_grad for parameter in layer.parameters())
            ]

    def _one_by_one(self, features: Tensor, labels: Tensor) -> list[Gradients]:
        trained = {name: value for name, value in self.trained.named_parameters() if value.requires_grad}

        def loss(values: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
            # A module that is used twice is named once: tying would swap its values twice and lose them.
            logits = functional_call(self.trained, values, (one[None],), tie_weights=False)
            return nn.functional.cross_entropy(logits, label[None])

        values = {name: value.detach() for name, value in trained.items()}
        try:
            each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(values, features, labels)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise PartError(
                f"torch can't make per-record gradients of this network: {reason}",
                allowed="Linear, Conv2d, and layers that torch.func.vmap knows",
                do="take another model",
            ) from None
        with torch.no_grad():
            return [_materialised(trained, each, stage) for stage in _holders(trained)]


def _holders(names: dict[str, nn.Parameter]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _materialised(trained: dict[str, nn.Parameter], each: dict[str, Tensor], stage: str) -> Gradients:
    names = [name for name in trained if name.rpartition(".")[0] == stage]
    squared = torch.stack([each[name].flatten(1).square().sum(1) for name in names]).sum(0)

    def add(weights: Tensor) -> None:
        for name in names:
            total = torch.tensordot(weights, each[name], dims=1)
            parameter = trained[name]
            parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)

    return Gradients(squared, add)


def _flattened(network: nn.Module) -> Iterator[nn.Module]:
    if type(network) is nn.Sequential:
        for stage in network:
            yield from _flattened(stage)
    else:
        yield network


def _refuse_shared(network: nn.Module) -> None:
    held = [id(value) for module in network.modules() for value in module._parameters.values() if value is not None]
    if len(set(held)) < len(held):
        raise PartError(
            "two layers of the network share a parameter, whose per-record gradient can't be made",
            do="use one layer twice, or give each its own",
        )


@torch.no_grad()
def _refuse_coupled(network: nn.Sequential, stages: list[nn.Module], shape: tuple[int, ...]) -> None:
    """Refuses a network in which a record's output changes when the others of its batch do."""
    coupled = any(isinstance(inner, nn.modules.batchnorm._BatchNorm) for stage in stages for inner in stage.modules())
    if not coupled:
        generator = torch.Generator().manual_seed(0)
        one, others = torch.rand(4, *shape, generator=generator), torch.rand(4, *shape, generator=generator)
        others[0] = one[0]
        outputs = []
        for batch in (one, others):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                outputs.append(network(batch)[0])
        coupled = not torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    if coupled:
        raise PartError(
            "one record's output depends on the other records of its batch, so that no clipping bounds what it moves",
            allowed="networks without batch normalisation",
            do="normalise each record by itself: GroupNorm, or normalisation = 'sample'",
        )
