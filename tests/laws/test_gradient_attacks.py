"""Laws of every attack on updates and models: it wins where it can, fails where it must, repeats itself.

``test_attacks.py`` holds the laws of attacks on features and on membership.
"""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from privet import parts
from privet.attacks.contract import Reconstruction, Scores
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import auc
from privet.evidence.similarity import ssim
from privet.models.mlp import Mlp
from privet.parts import build, find
from privet.randomness import seeded
from privet.tensors import flatten

TARGETS = ("updates", "model", "property", "attribute")
NAMES = [name for name in parts.names("attacks") if find("attacks", name).target in TARGETS]
SIDE, CLASSES = 12, 4

QUICK = {
    "inverting-gradients": {"starts": 2, "steps": 200},
    "idlg": {"starts": 1, "iterations": 60},
    "gan-reconstruction": {"steps": 150, "width": 64},
    "deep-inversion": {"starts": 4, "steps": 150},
    "property-inference": {"groups": 120, "label": 2},
}
"""Fields with which an attack still wins here, and takes a second."""


pytestmark = pytest.mark.usefixtures("one_thread")


def templates() -> Tensor:
    """Returns the pattern of each class: one quarter of the image is bright, softly."""
    soft = torch.rand(CLASSES, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    corners = torch.zeros(CLASSES, 1, SIDE, SIDE)
    for label in range(CLASSES):
        top, left = divmod(label, 2)
        corners[label, 0, top * 6 : top * 6 + 6, left * 6 : left * 6 + 6] = 1
    return 0.5 * corners + 0.4 * nn.functional.interpolate(soft, (SIDE, SIDE), mode="bilinear")


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns smooth images of four classes; each record differs from its class's pattern in its own smooth way."""
    mine = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=mine)
    moved = nn.functional.interpolate(torch.randn(count, 1, 4, 4, generator=mine), (SIDE, SIDE), mode="bilinear")
    return (templates()[labels] + 0.15 * moved).clamp(0, 1), labels


@functools.cache
def network(kind: str, trained: bool = False) -> nn.Sequential:
    """Returns a multilayer perceptron: ``relu`` or ``tanh`` behind its hidden layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Mlp(hidden=(64,)).build((1, SIDE, SIDE), CLASSES)
        if kind == "tanh":
            made = nn.Sequential(nn.Flatten(), made.linear1, nn.Tanh(), made.logits)
    if trained:
        inputs, labels = images(600, 11)
        adam = torch.optim.Adam(made.parameters(), 0.01)
        for _ in range(60):
            adam.zero_grad()
            nn.functional.cross_entropy(made(inputs), labels).backward()
            adam.step()
    return made


def gradient(made: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Returns what a device that takes one step on its rows gives away, laid out as an update."""
    own = copy.deepcopy(made)
    own.zero_grad()
    nn.functional.cross_entropy(own(inputs), labels).backward()
    grads = {name: value.grad for name, value in own.named_parameters()}
    return flatten({name: grads.get(name, torch.full_like(value, 7.0)) for name, value in own.state_dict().items()})


def update_view(made: nn.Module, counts: list[int], noise: float = 0.0) -> tuple[View, Tensor, Tensor]:
    """Returns a view of devices' gradients, noised by so many times their root mean square, and the truth."""
    inputs, labels = images(sum(counts), 3)
    groups = zip(inputs.split(counts), labels.split(counts), strict=True)
    seen = torch.stack([gradient(made, *group) for group in groups])
    seen = seen + noise * seen.square().mean(1, keepdim=True).sqrt() * seeded(5).normal(tuple(seen.shape))
    own, own_labels = images(300, 4)
    view = View(
        party="coordinator",
        seen={"gradients": seen, "counts": torch.tensor(counts)},
        knows={"inputs": own, "labels": own_labels},
        network=lambda: copy.deepcopy(made),
        shape=(1, SIDE, SIDE),
        classes=CLASSES,
    )
    return view, inputs, labels


def table(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns rows of five columns; the label is 1 where the last, which is 0, 1 or 2, and the first say so."""
    mine = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 5, generator=mine)
    rows[:, 4] = torch.randint(3, (count,), generator=mine).float()
    return rows, (rows[:, 4] + 0.2 * rows[:, 0] > 1).long()


def attribute_view(noise: bool = False) -> tuple[View, Tensor]:
    """Returns a view of rows whose last column is hidden, and what it was; with noise the model knows nothing."""
    rows, labels = table(300, 6)
    hidden = rows[:, 4].long()
    own, _ = table(300, 7)
    blind = rows.clone()
    blind[:, 4] = 0

    def query(inputs: Tensor) -> Tensor:
        signal = 0 * inputs[:, 0] if noise else 8 * (inputs[:, 4] + 0.2 * inputs[:, 0] - 1)
        return torch.stack((-signal, signal), 1)

    view = View(
        party="whoever has the global model",
        seen={"inputs": blind, "labels": labels},
        knows={"inputs": own, "columns": torch.tensor([4]), "candidates": torch.tensor([[0.0], [1.0], [2.0]])},
        query=query,
        shape=(5,),
        classes=2,
    )
    return view, hidden


def a_view(name: str, noise: float = 0.0) -> View:
    """Returns a view that holds what an attack needs."""
    target = find("attacks", name).target
    if target == "attribute":
        return attribute_view(noise > 0)[0]
    if target == "model":
        view = update_view(network("relu", trained=not noise), [1])[0]
        return dataclasses.replace(view, seen={})
    if target == "property":
        return update_view(network("relu"), [6] * 60, noise)[0]
    return update_view(network("tanh" if name == "idlg" else "relu"), [1, 1, 2], noise)[0]


def attack(name: str):
    return build("attacks", {"name": name} | QUICK.get(name, {}))


def answer(name: str, view: View, seed: int = 0) -> Tensor:
    found = attack(name)(view, seeded(seed))
    return found.inputs if isinstance(found, Reconstruction) else found.scores


def likeness(guess: Tensor, truth: Tensor, counts: list[int]) -> Tensor:
    """Returns the SSIM of each record with the guess that is matched with it within its device."""
    found = []
    for mine, theirs in zip(guess.split(counts), truth.split(counts), strict=True):
        every = torch.stack([ssim(mine, record.expand_as(mine)) for record in theirs])
        found += every.numpy()[linear_sum_assignment(-every.numpy())].tolist()
    return torch.tensor(found)


@pytest.mark.parametrize("name", [n for n in NAMES if find("attacks", n).target == "updates"])
def test_a_record_is_rebuilt_from_its_gradient_and_noise_stops_that(name):
    made = network("tanh" if name == "idlg" else "relu")
    view, truth, labels = update_view(made, [1, 1, 1])
    found = attack(name)(view, seeded(0))
    assert found.labels.tolist() == labels.tolist()
    assert likeness(found.inputs, truth, [1] * 3).min() > 0.85
    noised, _, _ = update_view(made, [1, 1, 1], noise=30)
    floor = float(ssim(templates()[labels], truth).mean())  # who knows the labels guesses their patterns
    assert likeness(answer(name, noised), truth, [1] * 3).mean() < floor


@pytest.mark.parametrize("name", [n for n in NAMES if find("attacks", n).target == "model"])
def test_a_trained_model_gives_its_classes_away_and_a_fresh_one_does_not(name):
    found = attack(name)(a_view(name), seeded(0))
    assert found.labels.tolist() == list(range(CLASSES))

    def recognised(guess: Tensor) -> int:
        centred, means = (x.flatten(1) - templates().mean(0).flatten() for x in (guess, templates()))
        return int((torch.cosine_similarity(centred[:, None], means, dim=2).argmax(1) == found.labels).sum())

    assert recognised(found.inputs) == CLASSES
    assert recognised(answer(name, a_view(name, noise=1))) < CLASSES


def test_property_inference_finds_the_property_and_noise_stops_that():
    _, _, labels = update_view(network("relu"), [6] * 60)
    truth = (labels.view(60, 6) == 2).any(1)
    assert auc(answer("property-inference", a_view("property-inference")), truth)[0] > 0.95
    assert auc(answer("property-inference", a_view("property-inference", noise=300)), truth)[0] < 0.7


def test_attribute_inference_finds_the_hidden_column_and_a_model_that_knows_nothing_gives_nothing_away():
    view, hidden = attribute_view()
    floor = float(hidden.bincount().max()) / len(hidden)
    right = float((answer("attribute-inference", view).argmax(1) == hidden).double().mean())
    assert right > floor + 0.25
    blind = answer("attribute-inference", attribute_view(noise=True)[0]).argmax(1)
    assert blind.unique().numel() == 1  # always the commonest


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer_whatever_the_global_generator_and_the_view_stays_as_it_was(name):
    view = a_view(name)
    before = {side: {k: v.clone() for k, v in getattr(view, side).items()} for side in ("seen", "knows")}
    kept = {k: v.clone() for k, v in view.network().state_dict().items()} if view.network else {}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = answer(name, view)
    assert torch.equal(state, torch.get_rng_state())  # the attack left the global generator alone
    torch.manual_seed(2)
    assert torch.equal(first, answer(name, view))
    assert torch.isfinite(first).all()
    for side, values in before.items():
        assert values.keys() == getattr(view, side).keys()
        assert all(torch.equal(value, getattr(view, side)[key]) for key, value in values.items())
    assert all(torch.equal(value, view.network().state_dict()[key]) for key, value in kept.items())


@pytest.mark.parametrize("name", NAMES)
def test_answers_have_the_shape_that_the_contract_says(name):
    view = a_view(name)
    found = attack(name)(view, seeded(0))
    target = find("attacks", name).target
    if target in ("updates", "model"):
        assert isinstance(found, Reconstruction)
        count = CLASSES if target == "model" else int(view.seen["counts"].sum())
        assert found.inputs.shape == (count, *view.shape)
        assert found.inputs.dtype == torch.float32
        assert found.labels.shape == (count,)
        assert found.inputs.min() >= 0
        assert found.inputs.max() <= 1
    else:
        assert isinstance(found, Scores)
        assert found.scores.shape == ((60,) if target == "property" else (300, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_view_that_lacks_what_it_needs_is_refused(name):
    view = a_view(name)
    spoilt = network("relu")
    spoilt = copy.deepcopy(spoilt)
    spoilt.linear1.weight.data[0, 0] = torch.nan
    target = find("attacks", name).target
    if target in ("updates", "property"):
        gradients = view.seen["gradients"]
        changes = [
            {"network": None},
            {"network": lambda: spoilt},
            {"seen": {}},
            {"seen": view.seen | {"gradients": torch.full_like(gradients, torch.nan)}},
            {"seen": view.seen | {"gradients": gradients[:, :-1]}},
            {"seen": view.seen | {"gradients": gradients[:-1]}},
            {"seen": view.seen | {"counts": view.seen["counts"] * 0}},
            {"classes": 0},
        ]
        if target == "updates":  # nobody can tell a million records apart in their mean
            changes.append({"seen": view.seen | {"counts": view.seen["counts"] + 10**6}})
    elif target == "model":
        changes = [{"network": None}, {"network": lambda: spoilt}, {"classes": 0}]
    else:
        changes = [
            {"query": None},
            {"seen": {}},
            {"knows": {}},
            {"knows": view.knows | {"columns": torch.tensor([5])}},
            {"knows": view.knows | {"candidates": torch.zeros(3, 2)}},
            {"seen": view.seen | {"labels": view.seen["labels"] + 2}},
        ]
    for change in changes:
        with pytest.raises(InputError):
            attack(name)(dataclasses.replace(view, **change), seeded(0))


def test_what_only_some_attacks_need_is_asked_for():
    view = a_view("property-inference")
    for change in ({"knows": {}}, {"knows": view.knows | {"labels": view.knows["labels"] * 0 + 1}}):
        with pytest.raises(InputError):
            attack("property-inference")(dataclasses.replace(view, **change), seeded(0))
    view = a_view("gan-reconstruction")
    for change in ({"knows": {}}, {"knows": view.knows | {"labels": view.knows["labels"] + 1}}):
        with pytest.raises(InputError):
            attack("gan-reconstruction")(dataclasses.replace(view, **change), seeded(0))
