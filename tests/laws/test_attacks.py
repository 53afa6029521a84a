"""Laws of every attack: it wins where it can, reads the floor where it cannot, repeats itself, and touches nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from privet import parts
from privet.attacks.contract import Reconstruction, Scores
from privet.attacks.feature_inversion import FeatureInversion
from privet.attacks.linear_inverse import Pairs, class_means, gaussian_posterior, ridge
from privet.attacks.loss_threshold import LossThreshold
from privet.attacks.rmia import Rmia
from privet.engines.view import View
from privet.errors import InputError, PartError
from privet.evidence.audit import Finding, judge_membership, judge_reconstruction
from privet.parts import build, find
from privet.randomness import Source, seeded

# `test_gradient_attacks.py` holds the laws of the others.
NAMES = [name for name in parts.names("attacks") if find("attacks", name).target in ("features", "members")]
LOOKS_UP = ("contrastive", "known-release", "repeats")  # they recognise; their guess is a record of their own
CLASSES = 4
SEEN, OWN = 120, 400


pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int, seed: int, skewed: bool = False) -> tuple[Tensor, Tensor]:
    """Returns images (count, 1, 12, 12): the template of a class, and six patterns that vary by record.

    Normal patterns look the same from all sides, so that nobody can tell how they were turned; skewed ones don't.
    """
    template = torch.rand(CLASSES, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    patterns = torch.randn(6, 12, 12, generator=torch.Generator().manual_seed(2))
    mine = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=mine)
    weights = torch.rand(count, 6, generator=mine).log().neg() - 1 if skewed else torch.randn(count, 6, generator=mine)
    moved = 0.15 * torch.einsum("nk,kxy->nxy", weights, patterns)
    return (template[labels] + moved[:, None]).clamp(0, 1), labels


def inversion_view(
    noise: float, signal: float = 1.0, releases: int = 1, key: bool = False
) -> tuple[View, Tensor, Tensor]:
    """Returns a view of features = a fixed random linear map of the inputs (a key: an orthogonal one), plus noise,
    and the truth."""
    (truth, labels), (inputs, own_labels) = images(4 * SEEN if key else SEEN, 3, skewed=key), images(OWN, 4, skewed=key)
    mixing = signal * torch.randn(144, 144 if key else 200, generator=torch.Generator().manual_seed(5)) / 12
    width = mixing.shape[1]
    if key and signal:
        mixing = torch.linalg.qr(mixing).Q

    def features(rows: Tensor, seed: int) -> Tensor:
        drawn = seeded(seed).laplace((len(rows), releases, width))
        return (rows.flatten(1) @ mixing)[:, None] + noise * drawn

    view = View(
        party="edge-server",
        seen={"features": features(truth, 6), "labels": labels},
        knows={"inputs": inputs, "labels": own_labels, "features": features(inputs, 7)},
        release=lambda rows: rows.flatten(1) @ mixing,
        shape=(1, 12, 12),
        classes=CLASSES,
    )
    return view, truth, labels


def memorised(inputs: Tensor, labels: Tensor, rng: Source):
    """Returns a model that knows its training rows by heart and is unsure of all others."""

    def query(rows: Tensor) -> Tensor:
        distance, nearest = torch.cdist(rows.flatten(1).double(), inputs.flatten(1).double()).min(1)
        known = torch.nn.functional.one_hot(labels[nearest], CLASSES).float() * 6
        return torch.where((distance < 1e-3)[:, None], known, rows.flatten(1)[:, :CLASSES])

    return query


def indifferent(inputs: Tensor, labels: Tensor, rng: Source):
    """Returns a model that depends on no training row."""
    return lambda rows: 3 * rows.flatten(1)[:, :CLASSES]


def membership_view(train) -> tuple[View, Tensor]:
    """Returns a view of a model that ``train`` made from half of the candidates, and who they are."""
    inputs, labels = images(300, 8)
    own, own_labels = images(300, 9)
    members = torch.arange(300) % 2 == 0
    view = View(
        party="coordinator",
        seen={"inputs": inputs, "labels": labels},
        knows={"inputs": own, "labels": own_labels},
        query=train(inputs[members], labels[members], seeded(0)),
        train=train,
        shape=(1, 12, 12),
        classes=CLASSES,
    )
    return view, members


def judged(name: str, winnable: bool) -> Finding:
    """Returns what an attack achieves on a view that it can win, or on one that it cannot."""
    attack = build("attacks", {"name": name})
    if attack.target == "features":
        key = name == "blind-key"
        view, truth, labels = inversion_view(0.0, key=key) if winnable else inversion_view(1.0, signal=0.0, key=key)
        return judge_reconstruction(name, view, attack(view, seeded(0)), truth, labels)
    view, members = membership_view(memorised if winnable else indifferent)
    return judge_membership(name, view, attack(view, seeded(0)), members)


def a_view(name: str) -> View:
    """Returns a view that holds what an attack needs."""
    if find("attacks", name).target == "features":
        return inversion_view(noise=0.3, key=name == "blind-key")[0]
    return membership_view(memorised)[0]


def answer(name: str, view: View, seed: int = 0) -> Tensor:
    found = build("attacks", {"name": name})(view, seeded(seed))
    return found.inputs if isinstance(found, Reconstruction) else found.scores


@pytest.mark.parametrize("name", NAMES)
def test_wins_where_it_can(name):
    metrics = judged(name, winnable=True).metrics
    if "auc" in metrics:
        assert metrics["auc"] > 0.95
    else:
        assert name in LOOKS_UP or metrics["ssim"] > 0.9
        assert metrics["reidentified"] > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_reads_the_floor_where_there_is_nothing_to_find(name):
    found = judged(name, winnable=False)
    if "auc" in found.metrics:
        assert found.metrics["auc_low"] <= 0.5 <= found.metrics["auc_high"]
        assert found.metrics["tpr_at_1_percent_fpr"] < 0.06
    else:
        assert found.metrics["ssim"] < max(found.floor["ssim_class_mean"], found.floor["ssim_mean"]) + 0.05
        assert found.metrics["reidentified"] < 0.08


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer_whatever_the_global_generator(name):
    view = a_view(name)
    torch.manual_seed(1)
    first = answer(name, view)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = answer(name, view)
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # the attack left the global generator alone


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_view_as_it_was_and_answers_for_every_row(name):
    view = a_view(name)
    before = {side: {k: v.clone() for k, v in getattr(view, side).items()} for side in ("seen", "knows")}
    found = answer(name, view)
    rows = next(iter(view.seen.values()))
    assert len(found) == len(rows)
    assert torch.isfinite(found).all()
    for side, table in before.items():
        assert table.keys() == getattr(view, side).keys()
        assert all(torch.equal(value, getattr(view, side)[key]) for key, value in table.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_view_that_lacks_what_it_needs_is_refused(name):
    attack, view = build("attacks", {"name": name}), a_view(name)
    needed = next(key for key in ("features", "inputs") if key in view.seen)
    empty = {key: value[:0] for key, value in view.seen.items()}
    spoilt = view.seen | {needed: torch.full_like(view.seen[needed], torch.nan)}
    short = view.seen | {needed: view.seen[needed][:-1]}
    for seen in ({}, empty, spoilt, short):
        with pytest.raises(InputError):
            attack(dataclasses.replace(view, seen=seen), seeded(0))
    wrong = view.seen | {"labels": view.seen["labels"] + CLASSES}
    with pytest.raises(InputError, match="no class"):
        attack(dataclasses.replace(view, seen=wrong), seeded(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_new_attack_says_its_target_and_grade(name):
    cls = find("attacks", name)
    assert cls.target in ("features", "members")
    assert cls.grade in ("derived", "measured", "experimental")


def test_membership_needs_a_model_and_rmia_also_references_and_strangers():
    view, _ = membership_view(memorised)
    for attack, changes in (
        (LossThreshold(), {"query": None}),
        (Rmia(), {"query": None}),
        (Rmia(), {"train": None}),
        (Rmia(), {"knows": {}}),
        (LossThreshold(), {"query": lambda rows: torch.full((len(rows), CLASSES), torch.nan)}),
    ):
        with pytest.raises(InputError):
            attack(dataclasses.replace(view, **changes), seeded(0))
    with pytest.raises(PartError):
        Rmia(references=3)


def test_loss_threshold_is_minus_the_cross_entropy_even_when_the_model_is_certain():
    view, _ = membership_view(lambda *_: lambda rows: 1e4 * rows.flatten(1)[:, :CLASSES])
    logits = view.query(view.seen["inputs"]).double()
    loss = torch.nn.functional.cross_entropy(logits, view.seen["labels"], reduction="none")
    found = LossThreshold()(view, seeded(0)).scores
    assert found.isfinite().all()
    assert found.min() < -1000
    torch.testing.assert_close(found, -loss)


def test_rmia_equals_its_slow_twin():
    view, _ = membership_view(memorised)
    trained = []

    def train(inputs, labels, rng):
        trained.append(memorised(inputs, labels, rng))
        return trained[-1]

    gamma = 1.5
    found = Rmia(references=4, gamma=gamma)(dataclasses.replace(view, train=train), seeded(0)).scores
    assert len(trained) == 4

    def probability(model, rows, labels):
        return model(rows).double().softmax(1)[torch.arange(len(rows)), labels]

    def ratio(side):
        rows, labels = side["inputs"], side["labels"]
        usual = torch.stack([probability(model, rows, labels) for model in trained]).mean(0)
        return probability(view.query, rows, labels) / usual

    own, mine = ratio(view.knows), ratio(view.seen)
    slow = torch.tensor([sum(float(x / z) >= gamma for z in own) / len(own) for x in mine], dtype=torch.float64)
    torch.testing.assert_close(found, slow)


def test_rmia_finds_members_that_a_loss_threshold_cannot_for_some_rows_are_easy():
    def train(inputs, labels, rng):
        def query(rows):
            flat = rows.flatten(1)
            known = torch.cdist(flat.double(), inputs.flatten(1).double()).min(1).values < 1e-3
            ease = 8 * flat[:, :1] - 4 + known[:, None].float()  # how easy a row is counts more than membership
            return torch.cat((ease, torch.zeros(len(rows), 1)), 1)

        return query

    view, members = membership_view(train)
    flat = {side: getattr(view, side) | {"labels": torch.zeros_like(getattr(view, side)["labels"])}
            for side in ("seen", "knows")}  # fmt: skip
    view = dataclasses.replace(view, **flat)
    loss = judge_membership("loss-threshold", view, LossThreshold()(view, seeded(0)), members).metrics["auc"]
    rmia = judge_membership("rmia", view, Rmia()(view, seeded(0)), members).metrics["auc"]
    assert loss < 0.65
    assert rmia > loss + 0.2


def test_more_releases_of_one_record_leak_more():
    once, often = (inversion_view(noise=2.0, releases=r) for r in (1, 12))
    attack = FeatureInversion(epochs=8, width=128)
    first, second = (
        judge_reconstruction("feature-inversion", view, attack(view, seeded(0)), truth, labels).metrics["ssim"]
        for view, truth, labels in (once, often)
    )
    assert second > first + 0.1


def test_one_release_may_come_with_or_without_its_dimension():
    view, _, _ = inversion_view(noise=0.3)
    flat = dataclasses.replace(
        view,
        seen=view.seen | {"features": view.seen["features"][:, 0]},
        knows=view.knows | {"features": view.knows["features"][:, 0]},
    )
    attack = FeatureInversion(epochs=1, width=8)
    assert torch.equal(attack(view, seeded(0)).inputs, attack(flat, seeded(0)).inputs)


@pytest.mark.parametrize("labelled", [True, False])
def test_vectors_are_inverted_in_their_own_units(labelled):
    mine = torch.Generator().manual_seed(0)
    units = torch.tensor([1000.0, 1.0, 0.01, 1.0, 0.0])
    rows = torch.randn(420, 5, generator=mine) * units + 7
    labels = (rows[:, 1] > 7).long()
    features = torch.tanh((rows - 7) / units.clamp_min(1e-3) @ torch.randn(5, 40, generator=mine) * 0.3)
    view = View(
        party="edge-server",
        seen={"features": features[:120]} | ({"labels": labels[:120]} if labelled else {}),
        knows={"features": features[120:], "inputs": rows[120:]} | ({"labels": labels[120:]} if labelled else {}),
        shape=(5,),
        classes=2,
    )
    found = judge_reconstruction(
        "feature-inversion", view, FeatureInversion()(view, seeded(0)), rows[:120], labels[:120]
    )
    assert found.metrics["error"] < 0.35
    assert found.metrics["correlation"] > 0.9
    assert found.floor["error_mean"] > 0.8
    assert ("error_class_mean" in found.floor) is labelled


def test_inversion_refuses_too_few_pairs_other_releases_and_other_shapes():
    view, _, _ = inversion_view(noise=0.3)
    few = {key: value[:20] for key, value in view.knows.items()}
    other = view.knows | {"features": view.knows["features"].expand(-1, 2, -1)}
    for changes in ({"knows": few}, {"knows": other}, {"shape": (1, 6, 24)}, {"shape": ()}):
        with pytest.raises(InputError):
            FeatureInversion()(dataclasses.replace(view, **changes), seeded(0))


def pairs(rows: int, width: int) -> Pairs:
    mine = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 6, generator=mine, dtype=torch.float64)
    labels = torch.arange(rows) % 3
    mixing = torch.randn(6, width, generator=mine, dtype=torch.float64)
    noise = torch.randn(rows, width, generator=mine, dtype=torch.float64)
    return Pairs(inputs + labels[:, None], labels, inputs @ mixing + 0.5 * noise, 3)


@pytest.mark.parametrize("width", [10, 90])
def test_ridge_is_the_normal_equations(width):
    given = pairs(40, width)
    means = class_means(given.inputs, given.labels, 3), class_means(given.features, given.labels, 3)
    x, z = given.inputs - means[0][given.labels], given.features - means[1][given.labels]
    strength = 0.1 * z.square().sum() / min(width, 40)
    weights = torch.linalg.solve(z.T @ z + strength * torch.eye(width, dtype=torch.float64), z.T @ x)
    seen, labels = given.features[:7], given.labels[:7]
    slow = means[0][labels] + (seen - means[1][labels]) @ weights
    torch.testing.assert_close(ridge(given, (0.1,))[0.1](seen, labels), slow)


def test_gaussian_posterior_nears_the_posterior_under_the_true_model():
    given = pairs(20000, 12)
    mine = torch.Generator().manual_seed(0)
    torch.randn(20000, 6, generator=mine, dtype=torch.float64)
    mixing = torch.randn(6, 12, generator=mine, dtype=torch.float64)
    precision = mixing @ mixing.T / 0.25 + torch.eye(6, dtype=torch.float64)
    best = given.features[:50] @ mixing.T / 0.25 @ torch.linalg.inv(precision) + given.labels[:50, None]
    found = gaussian_posterior(given, (6,))[6](given.features[:50], given.labels[:50])
    torch.testing.assert_close(found, best, atol=0.05, rtol=0)


def test_class_means_fall_back_on_the_mean_of_all():
    means = class_means(torch.tensor([[1.0], [3.0], [8.0]]), torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[2.0], [4.0], [8.0]]


def test_scores_and_reconstructions_are_told_apart():
    assert isinstance(LossThreshold()(membership_view(memorised)[0], seeded(0)), Scores)
