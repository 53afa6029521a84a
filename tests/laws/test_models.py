"""Laws of models: every one builds, names its cut points, and cuts without changing what it computes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from privet import parts
from privet.errors import PartError
from privet.models.cost import multiplications, parameters
from privet.models.hog_linear import Hog, HogLinear
from privet.models.imported import Given, as_stages
from privet.models.scattering_linear import Scattering
from privet.models.smart_home_cnn import SmartHomeCnn

SHAPE = (1, 28, 28)
NAMES = [name for name in parts.names("models") if name != "imported"]
SMALLER = {"vgg": {"hidden": (32, 16)}}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest):
    return parts.build("models", {"name": request.param, **SMALLER.get(request.param, {})})


def test_output_has_one_logit_a_class(model) -> None:
    network = model.build(SHAPE, 7)
    assert network(torch.rand(5, *SHAPE)).shape == (5, 7)


def test_every_cut_computes_the_same(model) -> None:
    network, inputs = model.build(SHAPE, 10), torch.rand(4, *SHAPE)
    if not model.cut_points:
        pytest.skip("it names no cut points")
    for at in (None, *model.cut_points):
        front, head = model.cut(network, at)
        assert torch.equal(head(front(inputs)), network(inputs))
        names = {*front.state_dict(), *head.state_dict()}
        assert names == set(network.state_dict())
        assert parameters(front) + parameters(head) == parameters(network)
        assert parameters(head) > 0


def test_one_records_output_depends_on_no_other(model) -> None:
    network, inputs = model.build(SHAPE, 10).eval(), torch.rand(4, *SHAPE)
    together, alone = network(inputs), torch.cat([network(one[None]) for one in inputs])
    if model.couples_records:
        pytest.skip("it normalises over the batch, and says so")
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_unknown_cut_is_refused(model) -> None:
    with pytest.raises(PartError, match="can't be cut at 'nowhere'"):
        model.cut(model.build(SHAPE, 10), "nowhere")


def test_same_seed_builds_the_same_values(model) -> None:
    torch.manual_seed(3)
    one = model.build(SHAPE, 10).state_dict()
    torch.manual_seed(3)
    two = model.build(SHAPE, 10).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["lenet", "smart-home-cnn", "hog-linear", "scattering-linear", "vgg", "cifar-cnn"])
def test_images_too_small_are_refused(name: str) -> None:
    with pytest.raises(PartError, match="can't take inputs of shape"):
        parts.build("models", {"name": name}).build((1, 3, 3), 10)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("lenet", 61_706),
        ("smart-home-cnn", 149_642),
        ("mlp", 101_770),
        ("hog-linear", 3_930),
        ("scattering-linear", 12_260),
    ],
)
def test_parameter_counts(name: str, count: int) -> None:
    assert parameters(parts.build("models", {"name": name}).build(SHAPE, 10)) == count


def test_smart_home_cnn_has_the_documents_features() -> None:
    model = SmartHomeCnn()
    front, _ = model.cut(model.build(SHAPE, 10))
    assert front(torch.rand(2, *SHAPE)).shape == (2, 3920)


def test_multiplications_of_lenet_by_hand() -> None:
    network = parts.build("models", {"name": "lenet"}).build(SHAPE, 10)
    by_hand = 25 * 6 * 28 * 28 + 25 * 6 * 16 * 10 * 10 + 400 * 120 + 120 * 84 + 84 * 10
    assert multiplications(network, SHAPE) == by_hand


@pytest.mark.parametrize("reading", ["sample", "batch", "standardise", "none"])
def test_normalisation_between_the_convolutions(reading: str) -> None:
    network = SmartHomeCnn(normalisation=reading).build(SHAPE, 10)
    between = network[:4](torch.rand(8, *SHAPE))
    if reading == "none":
        assert between.min() >= 0
    else:
        assert between.abs().max() <= 63**0.5
        assert between.min() < 0


def slow_histograms(image: torch.Tensor, directions: int) -> torch.Tensor:
    """Each pixel's votes written out, cell by cell, direction by direction."""
    side = image.shape[-1]
    at = lambda y, x: float(image[0, min(max(y, 0), side - 1), min(max(x, 0), side - 1)])  # noqa: E731
    cells = torch.zeros(directions, side // 4, side // 4)
    for y, x in itertools.product(range(side), range(side)):
        right, down = at(y, x + 1) - at(y, x - 1), at(y + 1, x) - at(y - 1, x)
        turn = math.atan2(down, right) % (2 * math.pi) * directions / (2 * math.pi)
        for b, row, column in itertools.product(range(directions), range(side // 4), range(side // 4)):
            apart = min(abs(turn - b), directions - abs(turn - b))
            tents = [max(0.0, 1 - abs(p + 0.5 - (c + 0.5) * 4) / 4) for p, c in ((y, row), (x, column))]
            cells[b, row, column] += math.sqrt(math.hypot(right, down)) * max(0.0, 1 - apart) * tents[0] * tents[1]
    energy = torch.nn.functional.avg_pool2d(cells.square().sum(0)[None, None], 3, 1, 1)[0]
    scaled = cells / (energy + 0.1).sqrt()
    return torch.nn.functional.normalize((scaled - scaled.mean(0)).flatten(), dim=0)


def test_histograms_are_the_slow_ones_and_never_leave_the_unit_sphere() -> None:
    images = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    made = Hog(8)(images)
    torch.testing.assert_close(made, torch.stack([slow_histograms(one, 8) for one in images]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert not Hog(8)(torch.full((1, 1, 12, 12), 0.3)).any()
    assert not HogLinear().build(SHAPE, 10)[0].state_dict()


def slow_scattering(image: torch.Tensor, directions: int) -> torch.Tensor:
    """One image's coefficients, each wavelet put on each pixel by itself."""

    def wavelet(octave: int, turn: float) -> np.ndarray:
        spread, side = 0.8 * 2**octave, math.ceil(2.4 * 2**octave)
        y, x = np.mgrid[-side : side + 1, -side : side + 1]
        along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        bell = np.exp(-(along**2 + (4 / directions * across) ** 2) / (2 * spread**2))
        wave = bell * np.exp(0.75j * math.pi / 2**octave * along)
        return (wave - bell * wave.sum() / bell.sum()) * 4 / directions / (2 * math.pi * spread**2)

    def passed(plane: np.ndarray, taps: np.ndarray, step: int, reach: int) -> np.ndarray:
        padded, size = np.pad(plane, reach, "edge"), len(taps)
        places = range(0, len(plane), step)
        return np.array([[(padded[y : y + size, x : x + size] * taps).sum() for x in places] for y in places])

    def modulus(plane: np.ndarray, octave: int, k: int, step: int) -> np.ndarray:
        return np.abs(passed(plane, wavelet(octave, k * math.pi / directions), step, math.ceil(2.4 * 2**octave)))

    def average(plane: np.ndarray, step: int) -> np.ndarray:
        reach = 2 * step - 1 + step // 2
        bell = np.exp(-((np.arange(-reach, reach + step) - (step - 1) / 2) ** 2) / (2 * (0.4 * step) ** 2))
        return passed(plane, np.outer(bell, bell) / bell.sum() ** 2, step, reach)

    grey, turns = image.mean(0).double().numpy(), range(directions)
    fine = [modulus(grey, 0, k, 1) for k in turns]
    orders = [
        [average(grey, 4)],
        [average(one, 4) for one in fine] + [average(modulus(grey, 1, k, 2), 2) for k in turns],
        [average(modulus(one, 1, k, 2), 2) for one in fine for k in turns],
    ]
    rows = [np.array(order).ravel() for order in orders]
    whole = np.concatenate([(row - row.mean()) / math.sqrt(row.var() + 1e-5) for row in rows])
    return torch.from_numpy(whole / np.linalg.norm(whole)).float()


def test_scattering_is_the_slow_one_and_never_leaves_the_unit_sphere() -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    made = Scattering(4)(images)
    torch.testing.assert_close(made, torch.stack([slow_scattering(one, 4) for one in images]), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(2))
    assert Scattering(4)(torch.full((1, 1, 12, 12), 0.3)).norm() < 1e-3
    assert not Scattering(4).state_dict()


def test_a_given_function_is_cut_after_any_stage() -> None:
    model = Given(lambda shape, classes: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, classes)))
    network = model.build(SHAPE, 10)
    front, head = model.cut(network, "0")
    assert head(front(torch.rand(2, *SHAPE))).shape == (2, 10)
    with pytest.raises(PartError, match="can't be cut"):
        model.cut(network, "1")
    with pytest.raises(PartError, match="can't be cut"):
        model.cut(network)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("no_such_package.module:f", "not in an installed package"),
        ("torch.nn", "not in an installed package"),
        ("torch.nn:NoSuchThing", "can't be imported"),
        ("torch:__version__", "is not a function"),
    ],
)
def test_imported_function_must_be_installed(function: str, said: str) -> None:
    with pytest.raises(PartError, match=said):
        parts.build("models", {"name": "imported", "function": function}).build(SHAPE, 10)


def test_a_function_that_returns_no_module_is_refused() -> None:
    with pytest.raises(PartError, match="not a torch module"):
        as_stages(3, "f")
    assert parameters(as_stages(torch.nn.Linear(2, 3), "f")) == 9


def test_offset_is_added_behind_the_cut() -> None:
    torch.manual_seed(0)
    plain = SmartHomeCnn(normalisation="none").build(SHAPE, 10)
    shifted = SmartHomeCnn(normalisation="none", offset=2.0).build(SHAPE, 10)
    shifted.load_state_dict(plain.state_dict())
    inputs = torch.rand(3, *SHAPE)
    (front, head), (_, shifted_head) = SmartHomeCnn().cut(plain), SmartHomeCnn(offset=2.0).cut(shifted)
    assert torch.equal(shifted_head(front(inputs)), head(front(inputs) + 2.0))
