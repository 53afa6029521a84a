"""What attacks on updates and models are made of, and that they work on tables and series, not only on images."""

from __future__ import annotations

import copy
import csv
import gzip
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from privet.attacks.attribute_inference import AttributeInference
from privet.attacks.deep_inversion import DeepInversion
from privet.attacks.gradients import Differentiator, LabelCounter, flat, unpack
from privet.attacks.idlg import Idlg
from privet.attacks.inverting_gradients import InvertingGradients
from privet.attacks.linear_layer_inversion import LinearLayerInversion
from privet.attacks.property_inference import PropertyInference
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import auc
from privet.models.lenet import Lenet
from privet.models.mlp import Mlp
from privet.randomness import seeded
from privet.tensors import flatten

pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(make, *shape: int, classes: int = 10) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make.build(shape, classes)


def gradient(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    own = copy.deepcopy(network)
    nn.functional.cross_entropy(own(inputs), labels).backward()
    grads = dict(own.named_parameters())
    return flatten({k: grads[k].grad if k in grads else torch.ones_like(v) for k, v in own.state_dict().items()})


def view_of(network: nn.Module, inputs: Tensor, labels: Tensor, rows: int, own: tuple[Tensor, ...] = ()) -> View:
    groups = zip(inputs.split(rows), labels.split(rows), strict=True)
    seen = torch.stack([gradient(network, *group) for group in groups])
    return View(
        party="coordinator",
        seen={"gradients": seen, "counts": torch.full((len(seen),), rows)},
        knows=dict(zip(("inputs", "labels"), own, strict=False)),
        network=lambda: copy.deepcopy(network),
        shape=tuple(inputs.shape[1:]),
        classes=int(labels.max()) + 1 if len(own) < 2 else int(max(labels.max(), own[1].max())) + 1,
    )


def agreed(found: list[Tensor], truth: Tensor) -> float:
    """Returns the share of labels that are right, groups of equal size, whatever their order in a group."""
    groups = zip(found, truth.split(len(found[0])), strict=True)
    return sum(int(torch.minimum(a.bincount(minlength=9), b.bincount(minlength=9)).sum()) for a, b in groups) / len(
        truth
    )


def drawn(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def distances(guess: Tensor, truth: Tensor) -> Tensor:
    """Returns how far each record is from the nearest guess, over its own length."""
    return torch.cdist(truth.flatten(1), guess.flatten(1)).amin(1) / truth.flatten(1).norm(dim=1)


def with_batch_norm() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("kind", ["lenet", "batch norm", "no vmap"])
def test_many_gradients_at_once_equal_autograd_one_by_one_and_unpack_undoes_the_layout(kind):
    network = fresh(Lenet(), 1, 12, 12, classes=3) if kind == "lenet" else with_batch_norm()
    inputs = drawn(6, 1, 12, 12) if kind == "lenet" else drawn(6, 3, 3)
    labels = torch.arange(6) % 3
    differentiate = Differentiator(network)
    differentiate._together = kind != "no vmap"
    found = differentiate(inputs.unflatten(0, (3, 2)), labels.unflatten(0, (3, 2)))
    slow = torch.stack([gradient(network, *g) for g in zip(inputs.split(2), labels.split(2), strict=True)])
    wanted = unpack(slow, network)
    assert wanted.keys() == {name for name, _ in network.named_parameters()}
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    assert flat(found).shape == (3, sum(p.numel() for p in network.parameters()))


def test_a_layer_that_torch_func_cannot_differentiate_is_done_row_by_row():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return 2 * value

        @staticmethod
        def backward(ctx, slope):
            return 2 * slope

    class Layer(nn.Module):
        def forward(self, value):
            return Doubled.apply(value)

    plain = with_batch_norm()
    odd = nn.Sequential(plain[0], Layer(), *list(plain)[1:])
    rows, labels = drawn(2, 1, 9), torch.tensor([[0], [1]])
    torch.testing.assert_close(Differentiator(odd).vector(rows, labels), Differentiator(plain).vector(2 * rows, labels))


@pytest.mark.parametrize("bias", [True, False])
def test_labels_of_one_row_are_exact_and_of_many_are_counted(bias):
    network = fresh(Mlp(hidden=(32,)), 20, classes=5)
    if not bias:
        network.logits = nn.Linear(32, 5, bias=False)
    inputs, labels = drawn(96, 20), torch.randint(5, (96,), generator=torch.Generator().manual_seed(2))
    for rows, least in ((1, 1.0), (8, 1.0 if bias else 0.8), (32, 0.95 if bias else 0.7)):
        view = view_of(network, inputs, labels, rows)
        counter = LabelCounter(network, view, drawn(50, 20, seed=9))
        found = counter(unpack(view.seen["gradients"], network), view.seen["counts"].tolist())
        assert agreed(found, labels) >= least


def test_labels_are_counted_under_a_trained_model_with_the_attackers_own_rows():
    network = fresh(Mlp(hidden=(32,)), 20, classes=5)
    centres = drawn(5, 20, seed=3)
    labels = torch.randint(5, (600,), generator=torch.Generator().manual_seed(2))
    inputs = centres[labels] + 0.3 * torch.randn(600, 20, generator=torch.Generator().manual_seed(4))
    adam = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(15):
        adam.zero_grad()
        nn.functional.cross_entropy(network(inputs[:300]), labels[:300]).backward()
        adam.step()
    view = view_of(network, inputs[500:580], labels[500:580], 8, (inputs[300:500], labels[300:500]))
    counter = LabelCounter(network, view, inputs[:2])
    found = counter(unpack(view.seen["gradients"], network), view.seen["counts"].tolist())
    assert agreed(found, labels[500:580]) > 0.9
    assert agreed([torch.arange(8) % 5] * 10, labels[500:580]) < 0.8  # the floor: as many of each


def test_idlg_reads_every_label_of_a_lenet():
    network, inputs, labels = fresh(Lenet(), 1, 28, 28), drawn(10, 1, 28, 28), torch.arange(10)
    found = Idlg(starts=1, iterations=1)(view_of(network, inputs, labels, 1), seeded(0))
    assert found.labels.tolist() == list(range(10))


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_linear_layer_gives_rows_of_any_shape_away_exactly(rows):
    network = fresh(Mlp(hidden=(96,)), 4, 30, classes=6)
    inputs = torch.randn(15, 4, 30, generator=torch.Generator().manual_seed(5)) * 3
    found = LinearLayerInversion()(view_of(network, inputs, torch.arange(15) % 6, rows), seeded(0))
    assert distances(found.inputs, inputs).max() < 1e-3


def test_a_unit_that_one_record_alone_activates_gives_it_away_whatever_comes_behind():
    network = nn.Sequential(nn.Linear(4, 8), nn.Hardtanh(0, 100), nn.Linear(8, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.cat((torch.eye(4), torch.eye(4))))
        network[0].bias.fill_(-0.5)
        network[2].weight.copy_(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    inputs = torch.eye(4) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] + 0.1
    found = LinearLayerInversion(tries=0)(view_of(network, inputs, torch.tensor([0, 1, 0, 1]), 4), seeded(0))
    assert distances(found.inputs, inputs).max() < 1e-5


def test_what_cannot_be_read_exactly_is_filled_with_what_all_units_say():
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    inputs, labels = drawn(4, 6), torch.tensor([0, 1, 0, 1])
    view = view_of(network, inputs, labels, 4)
    found = LinearLayerInversion()(view, seeded(0)).inputs
    parts = unpack(view.seen["gradients"], network)
    weights, bias = parts["0.weight"][0].double(), parts["0.bias"][0].double()
    twin = sum(b * w for b, w in zip(bias, weights, strict=True)) / sum(b * b for b in bias)
    torch.testing.assert_close(found, twin.float().expand(4, 6))


def test_a_first_layer_that_is_not_linear_is_refused():
    inputs = drawn(1, 1, 12, 12)
    view = view_of(fresh(Lenet(), 1, 12, 12, classes=2), inputs, torch.tensor([1]), 1)
    with pytest.raises(InputError, match="use inverting-gradients"):
        LinearLayerInversion()(view, seeded(0))
    hollow = View("x", view.seen, network=lambda: nn.Sequential(nn.Flatten()), shape=(1, 12, 12), classes=2)
    with pytest.raises(InputError):
        LinearLayerInversion()(hollow, seeded(0))


def test_inverting_gradients_rebuilds_images_behind_a_lenet():
    """The figure of CI: smooth images, LeNet with tanh, fresh."""
    from privet.evidence.similarity import ssim

    inputs = nn.functional.interpolate(drawn(2, 1, 5, 5), (20, 20), mode="bilinear")
    view = view_of(fresh(Lenet(activation="tanh"), 1, 20, 20), inputs, torch.tensor([3, 9]), 1)
    found = InvertingGradients(starts=2, steps=300)(view, seeded(0))
    assert found.labels.tolist() == [3, 9]
    assert ssim(found.inputs, inputs).min() > 0.85


def test_deep_inversion_follows_the_statistics_that_a_model_kept():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    network[0].running_mean.copy_(torch.tensor([5.0, -3.0, 1.0]))
    network[0].running_var.copy_(torch.tensor([0.1, 0.2, 0.3]))
    view = View("x", {}, network=lambda: copy.deepcopy(network), shape=(3,), classes=2)
    attack = {"starts": 16, "steps": 400, "learning_rate": 0.1, "square": 0.0}
    found = DeepInversion(**attack, statistics=10.0)(view, seeded(0)).inputs
    blind = DeepInversion(**attack, statistics=0.0)(view, seeded(0)).inputs
    wanted = network[0].running_mean
    assert (found.mean(0) - wanted).norm() < 1.5
    assert (blind.mean(0) - wanted).norm() > 3


def series(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns 40 values of a wave; the label says which of two speeds; its phase and height are the record's own."""
    mine = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=mine)
    phase, height = torch.rand(count, 2, generator=mine).T
    time = torch.arange(40) / 40
    wave = (1 + height[:, None]) * torch.sin(6.28 * ((2 + 3 * labels[:, None]) * time + phase[:, None]))
    return wave + 0.05 * torch.randn(count, 40, generator=mine), labels


@pytest.mark.parametrize("attack", [InvertingGradients(starts=2, steps=300), LinearLayerInversion()])
def test_time_series_are_rebuilt_in_their_own_units(attack):
    (inputs, labels), own = series(2, 1), series(100, 2)
    inputs, own = 50 + 20 * inputs, (50 + 20 * own[0], own[1])
    network = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.randn(32, 40, generator=torch.Generator().manual_seed(0)) / 400)
        network[0].bias.copy_(-network[0].weight.sum(1) * 50)
        network[2].weight.copy_(torch.randn(2, 32, generator=torch.Generator().manual_seed(1)) / 6)
    found = attack(view_of(network, inputs, labels, 1, own), seeded(0))
    error = (found.inputs - inputs).norm(dim=1) / (inputs - own[0].mean(0)).norm(dim=1)
    assert error.max() < 0.3
    assert found.labels.tolist() == labels.tolist()


def test_property_inference_takes_a_property_that_is_no_label():
    inputs, labels = series(1400, 3)
    tall = torch.rand(1400, generator=torch.Generator().manual_seed(6)) < 0.2  # a sensor that reads too high
    inputs = inputs + 1.5 * tall[:, None]
    network = fresh(Mlp(hidden=(48,)), 40, classes=2)
    view = view_of(network, inputs[:400], labels[:400], 4, (inputs[400:], labels[400:]))
    view.knows["property"] = tall[400:]
    truth = tall[:400].view(-1, 4).any(1)
    assert auc(PropertyInference(groups=200)(view, seeded(0)).scores, truth)[0] > 0.75


def test_attribute_inference_equals_its_slow_twin_and_asks_of_several_columns_together():
    inputs = drawn(7, 5)
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    labels, candidates = torch.arange(7) % 3, torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    own = torch.cat((drawn(30, 3), candidates[torch.arange(30) % 3 % 2]), 1)
    view = View(
        party="x",
        seen={"inputs": inputs, "labels": labels},
        knows={"inputs": own, "columns": torch.tensor([3, 4]), "candidates": candidates},
        query=lambda rows: rows @ weights,
        shape=(5,),
        classes=3,
    )
    common = torch.tensor([21, 11, 1]) / 33
    for row in range(7):
        for at, candidate in enumerate(candidates):
            tried = inputs[row].clone()
            tried[3:] = candidate
            sure = (tried @ weights).double().softmax(0)[labels[row]].log()
            found = AttributeInference()(view, seeded(0)).scores[row, at]
            assert float(found) == pytest.approx(float(sure + common[at].log()), abs=1e-6)
            assert float(AttributeInference(prior=False)(view, seeded(0)).scores[row, at]) == pytest.approx(float(sure))


def real_table(name: str, file: str, target: str) -> tuple[Tensor, Tensor, list[str]]:
    """Returns the numeric columns in [0, 1], the labels and the columns' names of a table in PRIVET_DATA."""
    path = Path(os.environ.get("PRIVET_DATA", "absent")) / name / file
    if not path.is_file():
        pytest.skip(f"PRIVET_DATA holds no {name}/{file}")
    with gzip.open(path, "rt") as opened:
        header, *lines = list(csv.reader(opened, skipinitialspace=True))
    lines = [line for line in lines if len(line) == len(header)][:2000]
    at = header.index(target)
    numeric = [i for i, cell in enumerate(lines[0]) if i and i != at and cell.lstrip("-").replace(".", "").isdigit()]
    values = torch.tensor([[float(line[i]) for i in numeric] for line in lines])
    values = (values - values.amin(0)) / (values.amax(0) - values.amin(0)).clamp_min(1e-9)
    kinds = sorted({line[at] for line in lines})
    return values, torch.tensor([kinds.index(line[at]) for line in lines]), [header[i] for i in numeric]


@pytest.mark.parametrize(
    ("name", "file", "target"),
    [("adult", "adult.data.gz", "Salary"), ("ai4i2020", "ai4i2020.csv.gz", "Machine failure")],
)
def test_rows_of_real_tables_are_rebuilt_from_gradients(name, file, target):
    inputs, labels, _ = real_table(name, file, target)
    network = fresh(Mlp(hidden=(64,)), inputs.shape[1], classes=2)
    view = view_of(network, inputs[:6], labels[:6], 1, (inputs[500:], labels[500:]))
    floor = distances(inputs[500:].mean(0, keepdim=True), inputs[:6]).mean()
    exact = LinearLayerInversion()(view, seeded(0))
    assert distances(exact.inputs, inputs[:6]).max() < 1e-3
    assert exact.labels.tolist() == labels[:6].tolist()
    sought = InvertingGradients(starts=2, steps=300)(view, seeded(0))
    assert (sought.inputs - inputs[:6]).norm(dim=1).mean() / inputs[:6].norm(dim=1).mean() < floor / 2


def test_attribute_of_a_real_table_is_guessed_better_than_the_commonest():
    inputs, _, names = real_table("ai4i2020", "ai4i2020.csv.gz", "Type")
    hot = (inputs[:, names.index("Air temperature [K]")] > 0.5).long()  # what a model of it gives away of an input
    network = fresh(Mlp(hidden=(32,)), inputs.shape[1], classes=2)
    adam = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(200):
        adam.zero_grad()
        nn.functional.cross_entropy(network(inputs[:1000]), hot[:1000]).backward()
        adam.step()
    column = names.index("Air temperature [K]")
    blind = inputs[:1000].clone()
    blind[:, column] = 0
    view = View(
        party="x",
        seen={"inputs": blind, "labels": hot[:1000]},
        knows={"inputs": inputs[1000:], "columns": torch.tensor([column]), "candidates": torch.tensor([[0.2], [0.8]])},
        query=lambda rows: network(rows).detach(),
        shape=tuple(inputs.shape[1:]),
        classes=2,
    )
    right = (AttributeInference()(view, seeded(0)).scores.argmax(1) == hot[:1000]).double().mean()
    assert right > max(hot[:1000].double().mean(), 1 - hot[:1000].double().mean()) + 0.05
