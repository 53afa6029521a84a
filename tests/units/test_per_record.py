"""Per-record clipped sums against one backward a record, and what they refuse."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from privet.errors import PartError
from privet.models.lenet import Lenet
from privet.models.mlp import Mlp
from privet.models.smart_home_cnn import SmartHomeCnn
from privet.tensors import flatten
from privet.training import clipped_layers
from privet.training.per_record import PerRecord

ROWS, SHAPE = 9, (1, 28, 28)


def slow(network: nn.Module, inputs: Tensor, labels: Tensor, limit: float, clipping: str) -> tuple[Tensor, Tensor]:
    """One backward a record: the clipped sum, flattened, and each record's norm."""
    named = {name: value for name, value in network.named_parameters() if value.requires_grad}
    holders = {name.rpartition(".")[0] for name in named}
    total, norms = {name: torch.zeros_like(value) for name, value in named.items()}, []
    for one, label in zip(inputs, labels, strict=True):
        loss = nn.functional.cross_entropy(network(one[None]), label[None])
        made = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        norms.append(flatten(made).norm())
        groups = [list(named)] if clipping == "flat" else [[n for n in named if n.startswith(h + ".")] for h in holders]
        for group in groups:
            most = limit / math.sqrt(len(groups))
            norm = flatten({name: made[name] for name in group}).norm()
            for name in group:
                total[name] += made[name] * min(1.0, most / float(norm))
    return flatten(total), torch.stack(norms)


def fast(network: nn.Sequential, inputs: Tensor, labels: Tensor, limit: float, clipping: str) -> tuple[Tensor, Tensor]:
    network.zero_grad()
    made = PerRecord(network, tuple(inputs.shape[1:]))
    norms = made.add(made.features(inputs), labels, limit, clipping)
    return flatten({name: value.grad for name, value in network.named_parameters() if value.grad is not None}), norms


def data(rows: int = ROWS, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, *shape, generator=generator), torch.arange(rows) % 10


def network_of(model) -> nn.Sequential:
    torch.manual_seed(2)
    return model.build(SHAPE, 10)


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3), nn.Flatten(), nn.Linear(12, 10))


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))


def shared() -> nn.Sequential:
    twice = nn.Linear(784, 784)
    return nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice, nn.Linear(784, 10))


def in_place() -> nn.Sequential:
    inner = nn.Sequential(nn.Conv2d(1, 3, 5, stride=3, dilation=2, bias=False), nn.ReLU(inplace=True), nn.AvgPool2d(2))
    return nn.Sequential(inner, nn.Flatten(), nn.Linear(27, 20), nn.ReLU(inplace=True), nn.Linear(20, 10))


NETWORKS = {
    "lenet": (lambda: network_of(Lenet()), SHAPE, True),
    "lenet, channels last": (lambda: network_of(Lenet()).to(memory_format=torch.channels_last), SHAPE, True),
    "smart-home-cnn": (lambda: network_of(SmartHomeCnn(normalisation="sample")), SHAPE, True),
    "mlp": (lambda: network_of(Mlp()), SHAPE, True),
    "one linear layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), SHAPE, True),
    "linear layers over a sequence": (sequence, (4, 6), True),
    "in place, no bias, dilated": (in_place, SHAPE, True),
    "group normalisation": (normalised, SHAPE, False),
    "a layer used twice": (shared, SHAPE, False),
}


@pytest.mark.parametrize("clipping", ["flat", "per-layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fast_sum_is_the_slow_one(name: str, clipping: str) -> None:
    build, shape, closed = NETWORKS[name]
    torch.manual_seed(3)
    network = build()
    inputs, labels = data(shape=shape)
    inputs[::2] *= 3  # so that some records are clipped and some are not
    assert PerRecord(network, shape).closed_form == closed
    _, norms = slow(network, inputs, labels, 1.0, "flat")
    limit = float(norms.median())
    total, norms = slow(network, inputs, labels, limit, clipping)
    made, found = fast(network, inputs, labels, limit, clipping)
    torch.testing.assert_close(found, norms, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made, total, rtol=1e-5, atol=1e-5 * float(total.abs().max()))


@pytest.mark.parametrize("positions", [4, 400])
def test_ghost_norm_is_the_norm_of_the_gradient(positions: int) -> None:
    generator = torch.Generator().manual_seed(4)
    layer = nn.Linear(30, 20)
    into = torch.randn(5, positions, 30, generator=generator)
    outward = torch.randn(5, positions, 20, generator=generator)
    each = torch.einsum("blo,bli->boi", outward, into)
    expected = each.square().sum((1, 2)) + outward.sum(1).square().sum(1)
    made = clipped_layers.gradients(layer, into, outward)
    torch.testing.assert_close(made.squared, expected, rtol=1e-5, atol=0)
    weights = torch.rand(5, generator=generator)
    with torch.no_grad():
        made.add(weights)
    torch.testing.assert_close(layer.weight.grad, torch.tensordot(weights, each, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e18, math.inf])
@pytest.mark.parametrize("name", ["lenet", "mlp", "group normalisation"])
def test_one_record_never_adds_more_than_the_limit(name: str, scale: float) -> None:
    network = NETWORKS[name][0]()
    inputs, labels = data()
    alone, _ = fast(network, inputs[1:], labels[1:], 0.01, "flat")
    inputs[0] = (inputs[0] - 0.5) * scale
    together, norms = fast(network, inputs, labels, 0.01, "flat")
    assert (together - alone).norm() <= 0.01 + 1e-6
    assert together.isfinite().all()
    assert norms[0] > 0.01
    single, _ = fast(network, inputs[:1], labels[:1], 0.01, "flat")
    assert single.norm() <= 0.01


def test_large_batches_go_in_parts_and_empty_ones_add_nothing() -> None:
    network = network_of(Mlp())
    inputs, labels = data(700)
    whole, norms = fast(network, inputs, labels, 0.5, "flat")
    half = [fast(network, inputs[at], labels[at], 0.5, "flat")[0] for at in (slice(350), slice(350, None))]
    torch.testing.assert_close(whole, half[0] + half[1], rtol=1e-4, atol=1e-4)
    assert len(norms) == 700
    nothing, norms = fast(network, inputs[:0], labels[:0], 0.5, "flat")
    assert len(norms) == 0
    assert not nothing.any()


def test_only_what_trains_counts() -> None:
    network = network_of(Lenet())
    network.convolution2.requires_grad_(False)
    network.linear1.bias.requires_grad_(False)
    inputs, labels = data()
    total, norms = slow(network, inputs, labels, 0.5, "flat")
    made, found = fast(network, inputs, labels, 0.5, "flat")
    torch.testing.assert_close(found, norms, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made, total, rtol=1e-5, atol=1e-5)
    assert network.convolution2.weight.grad is None
    with pytest.raises(PartError, match="nothing to train"):
        PerRecord(nn.Sequential(nn.Flatten()), SHAPE)


def test_leading_stages_without_parameters_are_features() -> None:
    made = PerRecord(nn.Sequential(OrderedDict(a=nn.AvgPool2d(2), b=nn.Flatten(), c=nn.Linear(196, 10))), SHAPE)
    inputs, _ = data(3)
    assert made.features(inputs).shape == (3, 196)
    assert [type(stage) for stage in made.trained] == [nn.Linear]


@pytest.mark.parametrize("reading", ["batch", "standardise"])
def test_what_couples_records_is_refused(reading: str) -> None:
    with pytest.raises(PartError, match="depends on the other records"):
        PerRecord(network_of(SmartHomeCnn(normalisation=reading)), SHAPE)
    with pytest.raises(PartError, match="depends on the other records"):
        PerRecord(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1352, 10)), SHAPE)


def test_two_layers_with_one_parameter_are_refused() -> None:
    first, second = nn.Linear(784, 784), nn.Linear(784, 784)
    second.weight = first.weight
    with pytest.raises(PartError, match="share a parameter"):
        PerRecord(nn.Sequential(nn.Flatten(), first, second), SHAPE)


def test_what_torch_cannot_differentiate_by_record_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(784))

        def forward(self, value: Tensor) -> Tensor:
            value = value * self.weight
            return value if float(value.detach().sum()) > 0 else -value

    network = nn.Sequential(nn.Flatten(), Branching(), nn.Linear(784, 10))
    inputs, labels = data(2)
    with pytest.raises(PartError, match="per-record gradients of this network"):
        PerRecord(network, SHAPE).add(inputs, labels, 1.0)
