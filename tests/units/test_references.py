"""Reference models of a run's plan, and what each party's view of a run holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from privet.attacks.shadow import halves, stream
from privet.errors import RunError
from privet.fleet import Data
from privet.parts import build
from privet.randomness import seeded
from privet.study.experiment import Experiment, prepare
from privet.study.kept import Kept
from privet.study.plan import Plan
from privet.study.references import trainer, trainer_of_many
from privet.study.viewpoints import ANYONE, PARTY, viewpoint
from privet.tensors import clone, flatten

PLAN = {
    "name": "x",
    "reproducible": True,
    "data": {"name": "digits"},
    "fleet": {"devices": 6, "examples_per_device": 4},
    "model": {"name": "mlp", "hidden": [6]},
    "training": {"name": "fedavg", "rounds": 2, "batch_size": 4, "momentum": 0.0, "learning_rate": 0.3},
    "views": {"keep": ["coordinator"]},
    "evidence": {"alone": False, "centralised": False},
}


pytestmark = pytest.mark.usefixtures("one_thread")


def rows(shape: tuple[int, ...] = (5,), count: int = 80) -> Data:
    mine = np.random.default_rng(0)
    labels = np.arange(count) % 3
    inputs = (mine.normal(size=(count, *shape)) + labels.reshape(-1, *[1] * len(shape))).astype(np.float32)
    return Data(inputs[:40], labels[:40], inputs[40:], labels[40:], 3, "rows")


def experiment(data: Data | None = None, **changes: object) -> Experiment:
    return prepare(Plan.from_table(PLAN | changes), data=data or rows())


def attack(name: str, **fields: object):
    return build("attacks", {"name": name} | fields)


@pytest.mark.parametrize("batched", [True, False])
def test_many_references_are_those_trained_one_by_one(batched):
    # Momentum and full batches leave shuffles without effect, so that the two trainings are one.
    how = {"name": "fedavg" if batched else "fedprox", "rounds": 3, "batch_size": 100, "learning_rate": 0.2}
    tried = experiment(training=how, engine={"workers": 0 if batched else 2})
    inputs, labels = tried.test
    kept = halves(4, len(labels), seeded(0))
    many = trainer_of_many(tried)(inputs, labels, kept, seeded(1))(inputs)
    assert many.shape == (4, 40, 3)
    one = trainer(tried)
    for number, mine in enumerate(kept):
        slow = one(inputs[mine], labels[mine], stream(seeded(1), number))(inputs)
        torch.testing.assert_close(many[number], slow, atol=1e-4, rtol=1e-4)
    assert (many[0] - many[1]).abs().max() > 0.01


def kept_of(tried: Experiment) -> Kept:
    """Returns what a run of one round keeps."""
    sent = clone(tried.task.network().state_dict())
    (done,) = tried.coordinator.rounds(sent, 1, 1, seeded(0), updates=9)
    return Kept(done.state, {}, done.updates, sent)


def test_an_update_of_one_step_is_seen_as_the_mean_gradient_at_the_model_that_was_sent():
    tried = experiment()
    kept = kept_of(tried)
    case = viewpoint(tried, attack("linear-layer-inversion"), kept)
    counts = case.view.seen["counts"].tolist()
    assert counts == [4] * 4  # six devices of four rows are more than are asked for
    assert len(case.truth) == sum(counts)
    network = case.view.network()
    at = 0
    for gradient, count in zip(case.view.seen["gradients"], counts, strict=True):
        network.zero_grad()
        mine = slice(at, at + count)
        torch.nn.functional.cross_entropy(network(case.truth[mine]), case.labels[mine]).backward()
        expected = flatten({name: value.grad for name, value in network.named_parameters()})
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)
        at += count


def test_momentum_and_several_steps_are_divided_out_where_the_gradient_is_constant():
    how = PLAN["training"] | {"momentum": 0.9, "local_epochs": 3, "learning_rate": 1e-4}
    tried = experiment(training=how)
    kept = kept_of(tried)
    case = viewpoint(tried, attack("idlg"), kept)
    first = viewpoint(experiment(), attack("linear-layer-inversion"), kept_of(experiment()))
    near = case.view.seen["gradients"]
    cosine = torch.cosine_similarity(near, first.view.seen["gradients"])
    assert cosine.min() > 0.99
    torch.testing.assert_close(near.norm(dim=1), first.view.seen["gradients"].norm(dim=1), rtol=0.05, atol=0)


def test_what_was_not_kept_or_holds_nothing_is_refused_with_what_to_do():
    tried = experiment()
    kept = kept_of(tried)
    unkept = experiment(views={"keep": []})
    few = experiment(fleet={"devices": 2})
    one_class = experiment(fleet={"devices": 6, "partition": {"name": "by-label", "alpha": 0.05}})
    model = Kept(kept.model)
    for name, where, what, words in (
        ("feature-inversion", tried, kept, "does not cut the model"),
        ("inverting-gradients", unkept, model, "add 'coordinator' to views.keep"),
        ("inverting-gradients", tried, model, "no honest device's update"),
        ("inverting-gradients", tried, dataclasses.replace(kept, sent={}), "did not keep the model"),
        ("inverting-gradients", few, kept_of(few), "from 20 rows or more"),
        ("attribute-inference", experiment(rows((2, 8))), model, "no columns"),
    ):
        with pytest.raises(RunError, match=words):
            viewpoint(where, attack(name), what)
    with pytest.raises(RunError, match="no device holds rows of class 9"):
        viewpoint(one_class, attack("property-inference", label=9), kept_of(one_class))


def test_members_are_rows_of_honest_devices_and_the_others_were_not_trained_on():
    tried = experiment()
    case = viewpoint(tried, attack("lira"), Kept(clone(tried.task.network().state_dict())))
    trained = {
        tuple(row.tolist()) for device in tried.devices for row in tried.task.inputs[torch.from_numpy(device.shard)]
    }
    for row, member in zip(case.view.seen["inputs"], case.truth, strict=True):
        assert (tuple(row.tolist()) in trained) == bool(member)
    own = {tuple(row.tolist()) for row in case.view.knows["inputs"]}
    assert not own & {tuple(row.tolist()) for row in case.view.seen["inputs"]}


def test_the_hidden_column_is_hidden_and_few_values_are_preferred_to_many():
    data = rows()
    for inputs, labels in ((data.train_inputs, data.train_labels), (data.test_inputs, data.test_labels)):
        inputs[:, 3] = labels > 0
    tried = experiment(data)
    model = Kept(clone(tried.task.network().state_dict()))
    case = viewpoint(tried, attack("attribute-inference"), model)
    assert case.view.knows["columns"].tolist() == [3]
    assert case.view.knows["candidates"].flatten().tolist() == [0, 1]
    assert case.view.seen["inputs"][:, 3].abs().max() == 0
    assert torch.equal(case.truth, (case.labels > 0).long())
    assert case.strangers is not None
    assert len(case.strangers.seen["inputs"]) == len(case.strangers_truth)
    quartered = viewpoint(experiment(), attack("attribute-inference"), model)
    assert len(quartered.view.knows["candidates"]) == 4
    assert set(quartered.truth.tolist()) <= {0, 1, 2, 3}


def test_the_attacker_of_a_model_lacks_half_of_the_classes():
    tried = experiment()
    case = viewpoint(tried, attack("deep-inversion"), Kept(clone(tried.task.network().state_dict())))
    assert case.view.knows["labels"].unique().tolist() == [0, 1]
    assert case.labels.unique().tolist() == [0, 1, 2]
    assert case.view.party == ANYONE == PARTY["model"]
