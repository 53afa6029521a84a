"""Shadow models: many trained at once are those trained one by one; LiRA's figures on a model that overfits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from privet.attacks.confidence import log_confidence, log_odds
from privet.attacks.lira import Lira
from privet.attacks.loss_threshold import LossThreshold
from privet.attacks.shadow import halves, stream, train_shadows
from privet.attacks.stacked_mlp import Schedule, shuffled, stackable, train_stacked
from privet.engines.view import View
from privet.errors import InputError
from privet.evidence.audit import judge_membership
from privet.fleet.datasets.mnist_10k import Mnist10k
from privet.models.mlp import Mlp
from privet.randomness import seeded

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    mine = torch.Generator().manual_seed(0)
    return torch.randn(count, 2, 3, generator=mine), torch.randint(4, (count,), generator=mine)


def one_by_one(network, inputs, labels, kept, schedule, rng):
    """The slow twin: torch's own gradients and optimiser, one model after the other, on the same batches."""
    networks = []
    epochs = [shuffled(kept, schedule.batch_size, rng) for _ in range(schedule.rounds * schedule.epochs)]
    for model in range(len(kept)):
        copy = Mlp(hidden=(5, 7)).build((2, 3), 4)
        copy.load_state_dict(network.state_dict())
        for number, batches in enumerate(epochs):
            if number % schedule.epochs == 0:
                sgd = torch.optim.SGD(copy.parameters(), schedule.learning_rate, schedule.momentum)
            for places, weights in batches:
                used = weights[model] > 0
                sgd.zero_grad()
                mine = places[model][used]
                nn.functional.cross_entropy(copy(inputs[mine]), labels[mine]).backward()
                sgd.step()
        networks.append(copy)
    return lambda asked: torch.stack([copy(asked) for copy in networks])


@pytest.mark.parametrize("batch_size", [4, 7, 100])
def test_stacked_training_equals_its_slow_twin_whatever_each_model_keeps(batch_size):
    inputs, labels = rows(25)
    kept = (
        torch.rand(5, 25, generator=torch.Generator().manual_seed(2)) < torch.tensor([1.0, 0.8, 0.6, 0.6, 0.4])[:, None]
    )
    network = Mlp(hidden=(5, 7)).build((2, 3), 4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    how = Schedule(rounds=2, epochs=2, batch_size=batch_size, learning_rate=0.2, momentum=0.9)
    fast = train_stacked(network, inputs, labels, kept, how, seeded(3))(inputs)
    slow = one_by_one(network, inputs, labels, kept, how, seeded(3))(inputs)
    assert fast.shape == (5, 25, 4)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert (fast - network(inputs)).abs().max() > 0.1  # it did train
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_epoch_holds_each_kept_row_once_and_no_batch_is_empty():
    kept = torch.rand(6, 40, generator=torch.Generator().manual_seed(1)) < 0.5
    batches = shuffled(kept, 8, seeded(0))
    for model, mine in enumerate(kept):
        met = torch.cat([places[model][weights[model] > 0] for places, weights in batches])
        assert sorted(met.tolist()) == mine.nonzero().flatten().tolist()
        assert met.tolist() != sorted(met.tolist())
        for places, weights in batches:
            assert places.shape[1] <= 8
            torch.testing.assert_close(weights[model].sum(), torch.tensor(1.0))


def test_only_linear_layers_with_relu_between_them_can_be_stacked():
    assert stackable(Mlp(hidden=(3, 4)).build((5,), 2))
    assert stackable(nn.Sequential(nn.Linear(3, 2)))
    for network in (
        nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()),
        nn.Sequential(nn.Linear(3, 2, bias=False)),
        nn.Sequential(nn.Conv2d(1, 1, 3)),
        nn.Sequential(),
        nn.Linear(3, 2),
    ):
        assert not stackable(network)
    inputs, labels = rows(6)
    how = Schedule(1, 1, 2, 0.1)
    with pytest.raises(InputError, match="linear layers"):
        train_stacked(nn.Sequential(nn.Tanh()), inputs, labels, torch.ones(1, 6, dtype=torch.bool), how, seeded(0))
    with pytest.raises(InputError, match="none empty"):
        train_stacked(Mlp().build((2, 3), 4), inputs, labels, torch.zeros(2, 6, dtype=torch.bool), how, seeded(0))


def test_halves_are_complementary_pairs():
    kept = halves(6, 11, seeded(0))
    assert torch.equal(kept[::2], ~kept[1::2])
    assert kept[::2].sum(1).tolist() == [5, 5, 5]
    assert not torch.equal(kept[0], kept[2])


def test_shadows_are_trained_in_one_go_or_one_by_one_on_the_same_rows_and_streams():
    inputs, labels = rows(10)
    met = []

    def train(mine, its, rng):
        met.append((mine, its, float(rng.uniform((1,))[0])))
        return lambda asked: asked.flatten(1)[:, :4] * len(met)

    view = View("x", {}, train=train)
    kept = halves(4, 10, seeded(0))
    found = train_shadows(view, inputs, labels, kept, seeded(1))
    assert found.ask(inputs).shape == (4, 10, 4)
    for number, (mine, its, drawn) in enumerate(met):
        assert torch.equal(mine, inputs[kept[number]])
        assert torch.equal(its, labels[kept[number]])
        assert drawn == float(stream(seeded(1), number).uniform((1,))[0])
    many = dataclasses.replace(view, train_many=lambda *given: lambda asked: asked)
    assert train_shadows(many, inputs, labels, kept, seeded(1)).ask(inputs) is inputs
    with pytest.raises(InputError, match="no way to train"):
        train_shadows(View("x", {}), inputs, labels, kept, seeded(1))


def test_log_odds_are_the_logit_of_the_probability_and_do_not_round_off():
    inputs, labels = rows(9)
    query = lambda asked: asked.flatten(1)[:, :4]  # noqa: E731
    p = log_confidence(query, inputs, labels).exp()
    torch.testing.assert_close(log_odds(query, inputs, labels), (p / (1 - p)).log())
    many = lambda asked: torch.stack([query(asked), 2 * query(asked)])  # noqa: E731
    torch.testing.assert_close(log_odds(many, inputs, labels)[0], log_odds(query, inputs, labels))
    sure = lambda asked: torch.tensor([[500.0, 0.0, 0.0]]).expand(len(asked), -1)  # noqa: E731
    assert float(log_odds(sure, inputs[:1], torch.tensor([0]))) == pytest.approx(500 - torch.log(torch.tensor(2.0)))
    with pytest.raises(InputError, match="one class only"):
        log_odds(lambda asked: torch.ones(len(asked), 1), inputs[:1], torch.tensor([0]))


def test_lira_equals_its_slow_twin():
    inputs, labels = rows(12)
    own, own_labels = rows(30)
    own = own[12:]
    drawn = torch.randn(8, 12 + len(own), 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kept = []

    def many(pool, its, selected, rng):
        kept.append(selected)
        return lambda asked: drawn[:, : len(asked)] if len(asked) == 12 else drawn

    view = View(
        "x",
        {"inputs": inputs, "labels": labels},
        {"inputs": own, "labels": own_labels[12:]},
        query=lambda asked: asked.flatten(1)[:, :4],
        train_many=many,
        classes=4,
    )

    def odds(logits, label):
        p = logits.double().softmax(0)[label]
        return float((p / (1 - p)).log())

    mine = [odds(row, label) for row, label in zip(view.query(inputs), labels, strict=True)]
    for variant in ("online", "offline"):
        found = Lira(references=8, variant=variant)(view, seeded(0)).scores
        sides = {}
        for inside in (True, False):
            groups = [
                [
                    odds(drawn[m, i], labels[i])
                    for m in range(8)
                    if variant == "offline" or bool(kept[-1][m, i]) == inside
                ]
                for i in range(12)
            ]
            means = [sum(group) / len(group) for group in groups]
            spreads = [
                sum((x - mean) ** 2 for x in group) / (len(group) - 1)
                for group, mean in zip(groups, means, strict=True)
            ]
            sides[inside] = means, sum(spreads) / 12
        slow = []
        for i in range(12):
            if variant == "offline":
                slow.append((mine[i] - sides[True][0][i]) / sides[True][1] ** 0.5)
            else:
                normal = {side: torch.distributions.Normal(means[i], var**0.5) for side, (means, var) in sides.items()}
                here = torch.tensor(mine[i])
                slow.append(float(normal[True].log_prob(here) - normal[False].log_prob(here)))
        torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_with_32_references_lira_reaches_070_on_a_model_that_overfits():
    data = Mnist10k().load()
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    order = seeded(0).permutation(len(labels))
    candidates, own = order[:1000], order[1000:1200]
    members = torch.arange(1000) < 500
    network = Mlp(hidden=(128,)).build((1, 28, 28), 10)
    how = Schedule(rounds=1, epochs=30, batch_size=50, learning_rate=0.05, momentum=0.9)

    def many(pool, its, kept, rng):
        return train_stacked(network, pool, its, kept, how, rng)

    target = many(inputs[candidates], labels[candidates], members[None], seeded(1))
    view = View(
        "anyone",
        {"inputs": inputs[candidates], "labels": labels[candidates]},
        {"inputs": inputs[own], "labels": labels[own]},
        query=lambda asked: target(asked)[0],
        train_many=many,
        classes=10,
    )
    found = judge_membership("lira", view, Lira()(view, seeded(2)), members).metrics
    loss = judge_membership("loss", view, LossThreshold()(view, seeded(2)), members).metrics
    assert found["auc"] >= 0.70
    assert found["auc_low"] > loss["auc_high"]
    assert found["tpr_at_1_percent_fpr"] > 0.05
