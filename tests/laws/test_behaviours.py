"""Laws of every behaviour: input untouched, repeatable, honest changes nothing, hostile changes something."""

from __future__ import annotations

import pytest
import torch

from privet import parts
from privet.errors import PartError
from privet.fleet.behaviours.boosting import Boosting
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.behaviours.label_flip import LabelFlip
from privet.fleet.behaviours.nan_sender import NanSender
from privet.fleet.behaviours.noise import Noise
from privet.fleet.behaviours.sign_flip import SignFlip
from privet.fleet.behaviours.wrong_shape import WrongShape
from privet.randomness import seeded

NAMES = parts.names("behaviours")
LABELS = torch.arange(10)
UPDATE = torch.linspace(-2, 3, 50)


def make(name: str) -> Behaviour:
    return parts.build("behaviours", {"name": name})


def same(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.dtype == two.dtype and one.shape == two.shape and bool(torch.equal(one.nan_to_num(), two.nan_to_num()))


@pytest.mark.parametrize("name", NAMES)
def test_input_untouched_and_same_seed_same_answer(name: str) -> None:
    labels, update = LABELS.clone(), UPDATE.clone()
    first, second = ((make(name).labels(labels, 10, seeded(5)), make(name).update(update, seeded(6))) for _ in range(2))
    assert same(first[0], second[0])
    assert same(first[1], second[1])
    assert torch.equal(labels, LABELS)
    assert torch.equal(update, UPDATE)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", NAMES)
def test_labels_stay_labels(name: str, classes: int) -> None:
    labels = make(name).labels(torch.arange(classes), classes, seeded(1))
    assert labels.dtype == torch.int64
    assert labels.shape == (classes,)
    assert 0 <= labels.min() <= labels.max() < classes


@pytest.mark.parametrize("name", NAMES)
def test_hostile_changes_something_and_honest_nothing(name: str) -> None:
    behaviour = make(name)
    unchanged = same(behaviour.labels(LABELS, 10, seeded(1)), LABELS) and same(
        behaviour.update(UPDATE, seeded(1)), UPDATE
    )
    assert behaviour.hostile is not unchanged


@pytest.mark.parametrize("update", [torch.ones(1), UPDATE * 1e6, UPDATE.double()], ids=["one", "large", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_any_update_can_be_changed(name: str, update: torch.Tensor) -> None:
    sent = make(name).update(update, seeded(1))
    assert sent is None or sent.ndim == 1


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_through_a_plan(name: str) -> None:
    assert parts.build("behaviours", parts.to_table(make(name))) == make(name)


def test_labels_mirror_or_move_on() -> None:
    assert LabelFlip().labels(LABELS, 10, seeded(1)).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert LabelFlip(shift=3).labels(LABELS, 10, seeded(1)).tolist() == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    with pytest.raises(PartError, match="moves nothing; allowed: 1 to 9"):
        LabelFlip(shift=20).labels(LABELS, 10, seeded(1))


def test_factors_are_exact() -> None:
    assert torch.equal(SignFlip(factor=4).update(UPDATE, seeded(1)), -4 * UPDATE)
    assert torch.equal(Boosting(factor=8).update(UPDATE, seeded(1)), 8 * UPDATE)


def test_boosting_by_n_replaces_the_mean_of_n() -> None:
    others = torch.zeros(9, 50)
    sent = Boosting(factor=10).update(UPDATE, seeded(1))
    assert torch.allclose(torch.vstack([others, sent]).mean(0), UPDATE)


def test_noise_has_its_scale_and_forgets_the_update() -> None:
    sent = Noise(scale=3).update(torch.full((100_000,), 1e3), seeded(1))
    assert abs(float(sent.std()) - 3) < 0.05
    assert abs(float(sent.mean())) < 0.05


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_one_bad_value_or_all(value: str) -> None:
    every = NanSender(value=value).update(UPDATE, seeded(1))
    one = NanSender(value=value, everywhere=False).update(UPDATE, seeded(1))
    assert not every.isfinite().any()
    assert int(one.isfinite().sum()) == len(UPDATE) - 1
    kept = one.isfinite()
    assert torch.equal(one[kept], UPDATE[kept])


def test_wrong_shape_is_longer() -> None:
    sent = WrongShape(extra=2).update(UPDATE, seeded(1))
    assert torch.equal(sent[:50], UPDATE)
    assert sent[50:].tolist() == [0, 0]
