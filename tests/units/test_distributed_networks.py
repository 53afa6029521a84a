"""Descriptions of sequential networks: they compute what the module computes, and refuse what they can't say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privet.errors import InputError
from privet.inference.distributed.networks import PAPER, Conv2d, Linear, described, paper_network

SHAPE = (3, 12, 10)


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 5, (3, 1), padding="same"), nn.BatchNorm2d(5, affine=False), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(5 * 3 * 2, 7),
    )


def test_a_description_computes_what_the_module_does_in_evaluation() -> None:
    module = small()
    module(torch.randn(64, *SHAPE))  # moves the running statistics
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d) and each.affine:
            nn.init.uniform_(each.weight, 0.5, 2.0)
            nn.init.normal_(each.bias)
    network = described(module.eval(), SHAPE)
    value = torch.randn(6, *SHAPE)
    torch.testing.assert_close(network(value), module(value), rtol=1e-5, atol=1e-5)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == ["Conv2d", "Relu", "Conv2d", "MaxPool", "Flatten", "Linear"]
    assert network.layers[2].name == "3.0"
    assert (network.inputs, network.outputs) == (SHAPE, (7,))


def test_its_weights_are_a_copy() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    network, value = described(module, (1, 2, 2)), torch.ones(1, 1, 2, 2)
    before = network(value)
    with torch.no_grad():
        module[1].weight.zero_()
    assert torch.equal(network(value), before)


@pytest.mark.parametrize("name", ["lenet", "cifar"])
def test_the_documents_networks_run_and_equal_their_description_without_weights(name: str) -> None:
    network = paper_network(name)
    _, shape, classes = PAPER[name]
    assert network(torch.randn(2, *shape)).shape == (2, classes)
    assert network == paper_network(name, weights=False)
    assert hash(network) == hash(paper_network(name, weights=False))


@pytest.mark.parametrize(
    ("name", "maps", "linear"),
    [
        ("lenet", [8, 16], [120, 84, 10]),
        ("cifar", [64, 64, 128, 128, 128, 128], [512, 10]),
        ("vgg16", [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6, [4096, 4096, 196]),
        ("vgg19", [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8, [4096, 4096, 40]),
    ],
)
def test_the_documents_networks_have_the_documents_layers(name: str, maps: list[int], linear: list[int]) -> None:
    layers = paper_network(name, weights=False).layers
    assert [layer.outputs[0] for layer in layers if isinstance(layer, Conv2d)] == maps
    assert [layer.outputs[0] for layer in layers if isinstance(layer, Linear)] == linear


@pytest.mark.parametrize("size", range(3, 12))
@pytest.mark.parametrize(
    "options", [(2, 2, 0, True), (3, 2, 1, True), (3, 2, 1, False), (2, 3, 1, True), (2, 3, 0, True)]
)
def test_sizes_after_pooling_are_torchs(size: int, options: tuple[int, int, int, bool]) -> None:
    kernel, stride, padding, ceil = options
    module = nn.Sequential(nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil))
    value = torch.randn(1, 2, size, size + 1)
    assert described(module, (2, size, size + 1)).outputs == module(value).shape[1:]


class Own(nn.ReLU):
    """Something else under a known name."""


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Linear(3, 3), "Linear is not a sequential network"),
        (nn.Sequential(), "no layers"),
        (nn.Sequential(nn.GELU()), "0 is a GELU"),
        (nn.Sequential(nn.Dropout()), "0 is a Dropout"),
        (nn.Sequential(Own()), "0 is a Own"),
        (nn.Sequential(nn.Sequential(nn.AvgPool2d(2))), r"0\.0 is a AvgPool2d"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), "groups"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, dilation=2)), "dilation"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")), "padding"),
        (nn.Sequential(nn.Conv2d(3, 3, 2, padding="same")), "even kernel"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), "takes 1 maps, but gets"),
        (nn.Sequential(nn.Conv2d(3, 3, 13)), "leaves nothing"),
        (nn.Sequential(nn.MaxPool2d(20)), "leaves nothing"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), "dilation"),
        (nn.Sequential(nn.Flatten(), nn.MaxPool2d(2)), "takes maps"),
        (nn.Sequential(nn.Flatten(2)), "some dimensions"),
        (nn.Sequential(nn.Linear(10, 2)), "takes 10 values"),
        (nn.Sequential(nn.BatchNorm2d(3)), "does not follow a convolution"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5)), "takes 5 maps"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "running statistics"),
    ],
)
def test_what_cannot_be_described_is_refused_in_one_line(module: nn.Module, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        described(module, SHAPE)
    assert "\n" not in error.value.advice()


def test_no_such_network() -> None:
    with pytest.raises(InputError, match=r"did you mean 'vgg1[69]'"):
        paper_network("vgg17")
