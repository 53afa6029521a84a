"""Laws of every behaviour: input untouched, repeatable, honest changes nothing, hostile changes something."""

from __future__ import annotations

import statistics

import pytest
import torch

from privet import parts
from privet.errors import PartError
from privet.fleet.behaviours.alie import Alie
from privet.fleet.behaviours.backdoor import Backdoor
from privet.fleet.behaviours.boosting import Boosting
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.behaviours.free_rider import FreeRider
from privet.fleet.behaviours.inner_product import InnerProduct
from privet.fleet.behaviours.label_flip import LabelFlip
from privet.fleet.behaviours.nan_sender import NanSender
from privet.fleet.behaviours.noise import Noise
from privet.fleet.behaviours.semantic_backdoor import SemanticBackdoor
from privet.fleet.behaviours.sign_flip import SignFlip
from privet.fleet.behaviours.slow_drift import SlowDrift
from privet.fleet.behaviours.sybils import Sybils
from privet.fleet.behaviours.wrong_shape import WrongShape
from privet.randomness import seeded

NAMES = parts.names("behaviours")
LABELS = torch.arange(10)
IMAGES = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
UPDATE = torch.linspace(-2, 3, 50)
FLEET = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
each = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> Behaviour:
    return parts.build("behaviours", {"name": name})


def same(one: torch.Tensor | None, two: torch.Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.dtype == two.dtype and one.shape == two.shape and bool(torch.equal(one.nan_to_num(), two.nan_to_num()))


def everything(behaviour: Behaviour, seed: int = 5) -> list[torch.Tensor | None]:
    """All that a behaviour does: to inputs, to labels, to its update, to the updates of a group."""
    inputs, labels = behaviour.examples(IMAGES, LABELS, 10, seeded(seed))
    sent = behaviour.update(UPDATE, 2, seeded(seed + 1))
    return [inputs, labels, sent, behaviour.together(FLEET[:3], FLEET, 2, seeded(seed + 2))]


@each
def test_input_untouched_and_same_seed_same_answer(name: str) -> None:
    given = (IMAGES, LABELS, UPDATE, FLEET)
    before = [value.clone() for value in given]
    first, second = everything(make(name)), everything(make(name))
    assert all(same(one, two) for one, two in zip(first, second, strict=True))
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))


@pytest.mark.parametrize("shape", [(1, 8, 8), (12,), (3, 20)], ids=["image", "table", "series"])
@pytest.mark.parametrize("classes", [2, 3, 10])
@each
def test_rows_stay_rows(name: str, classes: int, shape: tuple[int, ...]) -> None:
    given = torch.rand(classes, *shape, generator=torch.Generator().manual_seed(3))
    inputs, labels = make(name).examples(given.clone(), torch.arange(classes), classes, seeded(1))
    assert (inputs.shape, inputs.dtype) == (given.shape, torch.float32)
    assert 0 <= inputs.min() <= inputs.max() <= 1
    assert (labels.shape, labels.dtype) == ((classes,), torch.int64)
    assert 0 <= labels.min() <= labels.max() < classes


@each
def test_hostile_changes_something_and_honest_nothing(name: str) -> None:
    behaviour = make(name)
    given = (IMAGES, LABELS, UPDATE, FLEET[:3])
    unchanged = all(same(one, two) for one, two in zip(everything(behaviour), given, strict=True))
    assert behaviour.hostile is not unchanged


@each
def test_only_who_colludes_acts_together(name: str) -> None:
    behaviour = make(name)
    sent = behaviour.together(FLEET[:3], FLEET, 1, seeded(1))
    assert (sent.shape, sent.dtype) == ((3, 50), FLEET.dtype)
    assert sent.isfinite().all()
    assert behaviour.colludes is not same(sent, FLEET[:3])
    alone = behaviour.together(FLEET[:1], FLEET[:1], 1, seeded(1))
    assert alone.shape == (1, 50)
    assert alone.isfinite().all()


@each
def test_a_trigger_marks_rows_and_names_a_class(name: str) -> None:
    found = make(name).trigger(IMAGES)
    if found is None:
        return
    assert found.inputs.shape == IMAGES.shape
    assert (found.carries.shape, found.carries.dtype) == ((10,), torch.bool)
    # What carries the trigger is what the behaviour trains as the target.
    again = make(name).trigger(found.inputs)
    assert torch.equal(again.inputs, found.inputs)
    assert torch.equal(again.carries, found.carries)
    _, labels = make(name).examples(found.inputs, LABELS, 10, seeded(1))
    poisoned = (labels != LABELS).nonzero().flatten()
    assert len(poisoned)
    assert (labels[poisoned] == found.target).all()
    assert found.carries[poisoned].all()


@pytest.mark.parametrize("update", [torch.ones(1), UPDATE * 1e6, UPDATE.double()], ids=["one", "large", "float64"])
@each
def test_any_update_can_be_changed(name: str, update: torch.Tensor) -> None:
    sent = make(name).update(update, 1, seeded(1))
    assert sent is None or sent.ndim == 1


@each
def test_round_trip_through_a_plan(name: str) -> None:
    assert parts.build("behaviours", parts.to_table(make(name))) == make(name)


def test_labels_mirror_or_move_on() -> None:
    assert LabelFlip().examples(IMAGES, LABELS, 10, seeded(1))[1].tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert LabelFlip(shift=3).examples(IMAGES, LABELS, 10, seeded(1))[1].tolist() == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    with pytest.raises(PartError, match="moves nothing; allowed: 1 to 9"):
        LabelFlip(shift=20).examples(IMAGES, LABELS, 10, seeded(1))


def test_factors_are_exact() -> None:
    assert torch.equal(SignFlip(factor=4).update(UPDATE, 1, seeded(1)), -4 * UPDATE)
    assert torch.equal(Boosting(factor=8).update(UPDATE, 1, seeded(1)), 8 * UPDATE)


def test_boosting_by_n_replaces_the_mean_of_n() -> None:
    others = torch.zeros(9, 50)
    sent = Boosting(factor=10).update(UPDATE, 1, seeded(1))
    assert torch.allclose(torch.vstack([others, sent]).mean(0), UPDATE)


def test_noise_has_its_scale_and_forgets_the_update() -> None:
    sent = Noise(scale=3).update(torch.full((100_000,), 1e3), 1, seeded(1))
    assert abs(float(sent.std()) - 3) < 0.05
    assert abs(float(sent.mean())) < 0.05


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_one_bad_value_or_all(value: str) -> None:
    every = NanSender(value=value).update(UPDATE, 1, seeded(1))
    one = NanSender(value=value, everywhere=False).update(UPDATE, 1, seeded(1))
    assert not every.isfinite().any()
    assert int(one.isfinite().sum()) == len(UPDATE) - 1
    kept = one.isfinite()
    assert torch.equal(one[kept], UPDATE[kept])


def test_wrong_shape_is_longer() -> None:
    sent = WrongShape(extra=2).update(UPDATE, 1, seeded(1))
    assert torch.equal(sent[:50], UPDATE)
    assert sent[50:].tolist() == [0, 0]


def test_a_little_is_enough_is_mean_less_deviations() -> None:
    columns = FLEET.double().T.tolist()
    expected = [statistics.fmean(one) - 1.5 * statistics.pstdev(one) for one in columns]
    sent = Alie().together(FLEET[:2], FLEET, 1, seeded(1))
    assert sent[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert torch.equal(sent[0], sent[1])
    own = Alie(knows="own").together(FLEET[:2], FLEET, 1, seeded(1))
    assert torch.allclose(own[0], FLEET[:2].mean(0) - 1.5 * FLEET[:2].std(0, unbiased=False))


def test_inner_product_with_the_mean_is_turned_around() -> None:
    sent = InnerProduct(strength=0.1).together(FLEET[:2], FLEET, 1, seeded(1))
    assert torch.allclose(sent, -0.1 * FLEET.mean(0).expand(2, 50))
    turned = torch.cat((FLEET[:7], InnerProduct(strength=9 / 2 + 1).together(FLEET[:2], FLEET[:7], 1, seeded(1))))
    assert float(turned.mean(0) @ FLEET[:7].mean(0)) < 0


def test_a_backdoor_marks_a_corner_or_the_last_values() -> None:
    marked = Backdoor(size=2, value=0.5).trigger(IMAGES).inputs
    assert (marked[:, :, -2:, -2:] == 0.5).all()
    assert torch.equal(marked[:, :, :-2], IMAGES[:, :, :-2])
    rows = Backdoor(size=3).trigger(torch.zeros(4, 10)).inputs
    assert rows[0].tolist() == [0.0] * 7 + [1.0] * 3
    inputs, labels = Backdoor(share=0.3, target=4).examples(IMAGES, torch.zeros(10).long(), 10, seeded(1))
    poisoned = (inputs != IMAGES).flatten(1).any(1)
    assert int(poisoned.sum()) == 3
    assert torch.equal(labels, torch.where(poisoned, 4, 0))
    assert torch.equal(Backdoor(boost=5).update(UPDATE, 1, seeded(1)), 5 * UPDATE)


def test_a_semantic_backdoor_changes_no_input() -> None:
    rows = torch.tensor([[0.1, 0.1], [0.9, 0.9], [0.3, 0.1]])
    inputs, labels = SemanticBackdoor(target=2).examples(rows, torch.tensor([0, 0, 1]), 3, seeded(1))
    assert inputs is rows
    assert labels.tolist() == [0, 2, 2]
    assert SemanticBackdoor(above=0.5).trigger(rows).carries.tolist() == [False, True, False]


@pytest.mark.parametrize("part", [Backdoor(target=10), SemanticBackdoor(target=10), Sybils(target=10)], ids=repr)
def test_a_target_must_be_a_class(part: Behaviour) -> None:
    with pytest.raises(PartError, match=r"target = 10 is no class; allowed: 0 to 9"):
        part.examples(IMAGES, LABELS, 10, seeded(1))


def test_free_riders_send_noise_that_fades() -> None:
    update = torch.full((100_000,), 1e3)
    early, late = (FreeRider(scale=2.0, fade=1.0).update(update, number, seeded(1)) for number in (1, 10))
    assert abs(float(early.std()) - 2) < 0.05
    assert abs(float(late.std()) - 0.2) < 0.005
    assert not FreeRider(scale=0).update(update, 1, seeded(1)).any()


def test_sybils_agree_on_one_class_and_one_update() -> None:
    assert Sybils(target=3).examples(IMAGES, LABELS, 10, seeded(1))[1].tolist() == [3] * 10
    sent = Sybils().together(FLEET[:3], FLEET, 1, seeded(1))
    assert torch.equal(sent, FLEET[:3].mean(0).expand(3, 50))


def test_slow_drift_keeps_its_direction_and_its_length() -> None:
    pushes = [
        SlowDrift(strength=0.5).update(update, number, seeded(number)) - update
        for number, update in enumerate((UPDATE, -3 * UPDATE))
    ]
    assert float(pushes[0].norm()) == pytest.approx(0.5 * float(UPDATE.norm()), rel=1e-4)
    assert torch.allclose(3 * pushes[0], pushes[1], atol=1e-4)
    other = SlowDrift(strength=0.5, direction=1).update(UPDATE, 1, seeded(1)) - UPDATE
    assert abs(float(torch.cosine_similarity(other, pushes[0], dim=0))) < 0.5
