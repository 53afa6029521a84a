"""Laws of every mechanism, shipped or added, and of the chain that derives a guarantee from their order."""

from __future__ import annotations

import dataclasses
import doctest
import itertools
import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from dp_accounting.dp_event import (
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    SelfComposedDpEvent,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privet import parts
from privet.accounting import Relation, Sensitivity, Unit
from privet.errors import InputError, PartError
from privet.mechanisms import chain
from privet.mechanisms.batch_normalisation import BatchNormalisation
from privet.mechanisms.bounded_normalisation import BoundedNormalisation
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.contract import Mechanism
from privet.mechanisms.gaussian import Gaussian
from privet.mechanisms.laplace import Laplace
from privet.mechanisms.randomised_response import RandomisedResponse
from privet.randomness import Source, seeded, system

ROWS = 4
"""Vectors in a message here, and the value given to every whole-number field (so also the batch size)."""


def variants(cls: type) -> list[Any]:
    """Builds a part in every mode: each choice of its choices, 1.5 and ROWS for what it requires."""
    hints, modes = get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if get_origin(hints[field.name]) is Literal:
            modes[field.name] = get_args(hints[field.name])
        elif field.default is dataclasses.MISSING:
            modes[field.name] = (ROWS if hints[field.name] is int else 1.5,)
    return [cls(**dict(zip(modes, chosen, strict=True))) for chosen in itertools.product(*modes.values())]


MECHANISMS = [part for name in parts.names("mechanisms") for part in variants(parts.find("mechanisms", name))]
BOUNDING = [part for part in MECHANISMS if not part.adds_noise]
NOISE = [part for part in MECHANISMS if part.adds_noise]
CASES = [(unit, relation) for unit in get_args(Unit) for relation in get_args(Relation)]


def random_message(seed: int, dimension: int, scale: float) -> Tensor:
    """Returns ROWS vectors with a few zeros, constants and long values among them."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(ROWS, dimension, generator=generator)
    odd = torch.randint(6, value.shape, generator=generator)
    return torch.where(odd == 0, 0, torch.where(odd == 1, 100 * value, value)) * scale


def neighbour_of(value: Tensor, other: Tensor, unit: str, relation: str, owned: int) -> tuple[Tensor, Tensor]:
    """Returns a neighbouring message, and which rows of ``value`` its rows are."""
    if unit == "coordinate":
        changed = value.clone()
        changed[0, 0] = other[0, 0]
        return changed, torch.arange(ROWS)
    if relation == "replace-one":
        return torch.cat((other[:owned], value[owned:])), torch.arange(ROWS)
    return value[owned:], torch.arange(owned, ROWS)


def change_of(mechanism: Mechanism, value: Tensor, neighbour: Tensor, rows: Tensor, sensitivity: Sensitivity) -> Tensor:
    """Returns how far the message moves; an absent vector counts as 0, a held coordinate not at all."""
    change = mechanism(value, seeded(1)).double()
    change[rows] -= mechanism(neighbour, seeded(1)).double()
    if sensitivity.unit == "coordinate" and not sensitivity.spread:
        return change[:1, :1]
    return change


def holds(change: Tensor, sensitivity: Sensitivity, slack: float) -> None:
    assert change.abs().sum().item() <= sensitivity.l1 + slack
    assert change.norm().item() <= sensitivity.l2 + slack
    assert change.abs().max().item() <= sensitivity.linf + slack


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=repr)
class TestEveryMechanism:
    def test_the_same_seed_gives_the_same_answer(self, mechanism: Mechanism) -> None:
        value = random_message(3, 5, 1.0)
        assert torch.equal(mechanism(value, seeded(7)), mechanism(value, seeded(7)))

    def test_the_input_is_untouched(self, mechanism: Mechanism) -> None:
        value = random_message(3, 5, 1.0)
        before = value.clone()
        mechanism(value, seeded(7))
        assert torch.equal(value, before)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("shape", [(4, 5), (2, 2, 3), (2, 1, 2, 1)])
    def test_shape_and_dtype_stay(self, mechanism: Mechanism, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        out = mechanism(torch.randn(shape, dtype=dtype), seeded(7))
        assert (out.shape, out.dtype) == (shape, dtype)

    def test_it_is_differentiable(self, mechanism: Mechanism) -> None:
        if mechanism.straight_through:
            value = torch.randn(4, 3).requires_grad_()
            mechanism(value, seeded(1)).backward(torch.arange(12.0).reshape(4, 3))
            assert torch.equal(value.grad, torch.arange(12.0).reshape(4, 3))
            return
        value = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        assert torch.autograd.gradcheck(lambda at: mechanism(at, seeded(1)), (value,))

    def test_a_zero_message_has_a_finite_gradient(self, mechanism: Mechanism) -> None:
        value = torch.zeros(4, 3, requires_grad=True)
        mechanism(value, seeded(1)).sum().backward()
        assert value.grad.isfinite().all()

    def test_a_table_makes_it_again(self, mechanism: Mechanism) -> None:
        assert parts.build("mechanisms", parts.to_table(mechanism)) == mechanism

    @pytest.mark.parametrize(("unit", "relation"), CASES)
    @settings(max_examples=12, derandomize=True)
    @given(
        seed=st.integers(0, 2**32),
        dimension=st.integers(1, 4),
        scale=st.sampled_from([1e-6, 1.0, 1e6]),
        owned=st.integers(1, 2),
        broken=st.sampled_from([None, math.nan, math.inf]),
    )
    def test_the_claimed_bound_holds_on_any_input(
        self, mechanism: Mechanism, unit: Unit, relation: Relation, seed: int, dimension: int, scale: float,
        owned: int, broken: float | None,
    ) -> None:  # fmt: skip
        value, other = random_message(seed, dimension, scale), random_message(seed + 1, dimension, 1 / scale)
        if broken is not None and not mechanism.adds_noise:
            other[0, 0] = broken
        owned = 1 if unit == "record" else owned
        neighbour, rows = neighbour_of(value, other, unit, relation, owned)
        sensitivity = mechanism.bound(Sensitivity(unit, relation, dimension=dimension, vectors=owned))
        # No slack: what comes out is rounded towards the inside of the bound.
        holds(change_of(mechanism, value, neighbour, rows, sensitivity), sensitivity, 1e-9)

    @pytest.mark.parametrize("unit", ["record", "device"])
    @settings(max_examples=12, derandomize=True)
    @given(seed=st.integers(0, 2**32), step=st.floats(1e-3, 10))
    def test_a_bound_from_before_is_carried_on_rightly(
        self, mechanism: Mechanism, unit: Unit, seed: int, step: float
    ) -> None:
        value = random_message(seed, 3, 1.0)
        neighbour = value.clone()
        neighbour[0] += step * random_message(seed + 1, 3, 1.0)[0]
        given_ = (value - neighbour).double()
        before = Sensitivity(unit, dimension=3).bounded(
            l1=given_.abs().sum().item(), l2=given_.norm().item(), linf=given_.abs().max().item()
        )
        after = mechanism.bound(before)
        slack = 1e-5 * float(mechanism(value, seeded(1)).abs().max() + value.abs().max() + 1)
        holds(change_of(mechanism, value, neighbour, torch.arange(ROWS), after), after, slack)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_rounding_never_breaks_the_bound_of_one_vector(self, mechanism: Mechanism, dtype: torch.dtype) -> None:
        sensitivity = mechanism.bound(Sensitivity("device", "add-or-remove-one", dimension=500, vectors=1))
        for scale in (1e-4, 1.0, 3e4):
            value = (torch.randn(ROWS, 500, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)
            out = mechanism(value, seeded(1)).double()
            assert out.norm(1, dim=1).max().item() <= sensitivity.l1
            assert out.norm(2, dim=1).max().item() <= sensitivity.l2
            assert out.abs().max().item() <= sensitivity.linf


@pytest.mark.parametrize("mechanism", NOISE, ids=repr)
class TestEveryNoise:
    def test_nothing_bounded_means_no_guarantee(self, mechanism: Mechanism) -> None:
        if isinstance(mechanism, RandomisedResponse):  # takes any vector as a category, so bounds itself
            return
        for unit, relation in CASES:
            assert mechanism.event(Sensitivity(unit, relation, dimension=3)) == NonPrivateDpEvent()

    def test_what_can_not_move_costs_nothing(self, mechanism: Mechanism) -> None:
        assert mechanism.event(Sensitivity("record").bounded(l1=0)) == NoOpDpEvent()

    def test_the_sensitivity_never_shrinks(self, mechanism: Mechanism) -> None:
        sensitivity = Sensitivity("record", dimension=3).bounded(l2=2.0)
        after = mechanism.bound(sensitivity)
        assert (after == sensitivity) == (not mechanism.straight_through)
        assert after.l1 >= sensitivity.l1
        assert after.l2 >= sensitivity.l2
        assert after.linf >= sensitivity.linf

    def test_system_noise_differs_every_time(self, mechanism: Mechanism) -> None:
        value = torch.zeros(200, 4)  # so many answers that even coins can't all fall alike twice
        assert not torch.equal(mechanism(value, system()), mechanism(value, system()))


def test_mechanisms_without_noise_guarantee_nothing() -> None:
    for mechanism in BOUNDING:
        assert mechanism.event(Sensitivity("record").bounded(l1=1.0)) == NonPrivateDpEvent()


def test_a_mechanism_promises_nothing_unless_it_says_so() -> None:
    class Silent(Mechanism):
        def __call__(self, value: Tensor, rng: Source) -> Tensor:
            return value

    bounded = Sensitivity("record").bounded(l1=1.0)
    assert Silent().bound(bounded) == Sensitivity("record")
    assert Silent().event(bounded) == NonPrivateDpEvent()
    assert (Silent().couples_records, Silent().adds_noise) == (False, False)


def test_which_mechanisms_couple_records() -> None:
    assert [part for part in MECHANISMS if part.couples_records] == [
        BatchNormalisation(ROWS),
        BoundedNormalisation(ROWS, "batch"),
    ]


class TestNoiseScale:
    VALUE = torch.full((500, 1000), 5.0)

    @pytest.mark.parametrize("rng", [seeded(11), system()], ids=["seeded", "system"])
    def test_laplace(self, rng: Any) -> None:
        noise = (Laplace(3.0)(self.VALUE, rng) - self.VALUE).double()
        assert noise.abs().mean().item() == pytest.approx(3.0, rel=0.02)
        assert noise.std().item() == pytest.approx(3.0 * math.sqrt(2), rel=0.02)
        assert noise.mean().item() == pytest.approx(0, abs=0.05)

    @pytest.mark.parametrize("rng", [seeded(11), system()], ids=["seeded", "system"])
    def test_gaussian(self, rng: Any) -> None:
        noise = (Gaussian(3.0)(self.VALUE, rng) - self.VALUE).double()
        assert noise.std().item() == pytest.approx(3.0, rel=0.02)
        assert (noise.abs() < 3.0).double().mean().item() == pytest.approx(0.6827, abs=0.01)
        assert noise.mean().item() == pytest.approx(0, abs=0.05)


class TestClip:
    @pytest.mark.parametrize(
        ("norm", "l1", "l2"),
        [("l1", 2 * 6.0, math.sqrt(2) * 6.0), ("l2", 2 * 5 * 6.0 / math.sqrt(5), math.sqrt(2) * 6.0),
         ("linf", 10 * 6.0, math.sqrt(10) * 6.0)],
    )  # fmt: skip
    def test_bounds_of_two_replaced_vectors_of_five_values(self, norm: Any, l1: float, l2: float) -> None:
        bound = Clip(3.0, norm).bound(Sensitivity("device", dimension=5, vectors=2))
        assert (bound.l1, bound.l2, bound.linf) == pytest.approx((l1, l2, 6.0))

    def test_one_coordinate_moves_its_whole_vector_unless_it_is_clamped(self) -> None:
        one = Sensitivity("coordinate", "add-or-remove-one", dimension=4)
        rescaled, clamped = Clip(1.0).bound(one), Clip(1.0, "linf").bound(one)
        assert (rescaled.l1, rescaled.l2, rescaled.spread) == (4.0, 2.0, True)
        assert (clamped.l1, clamped.l2, clamped.spread) == (2.0, 2.0, False)
        after = Clip(1.0, "linf").bound(rescaled)
        assert (after.l1, after.l2, after.linf) == (4.0, 2.0, 2.0)

    def test_an_unknown_number_of_vectors_leaves_only_the_largest_value_bounded(self) -> None:
        bound = Clip(1.0).bound(Sensitivity("device", dimension=4, vectors=math.inf))
        assert (bound.l1, bound.l2, bound.linf) == (math.inf, math.inf, 2.0)

    def test_clamping_keeps_bounds_from_before(self) -> None:
        bound = Chain((Clip(1.0, "l1"), Clip(0.25, "linf"))).bound(Sensitivity("record", dimension=100))
        assert (bound.l1, bound.linf) == (2.0, 0.5)
        assert bound.l2 == pytest.approx(1.0)

    def test_vectors_inside_pass_unchanged_and_others_land_on_the_limit(self) -> None:
        out = Clip(5.0)(torch.tensor([[3.0, -3.9], [30.0, 40.0]]), seeded(1))
        assert out[0].tolist() == pytest.approx([3.0, -3.9])
        assert out[1].tolist() == pytest.approx([3.0, 4.0])

    @pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
    def test_broken_rows_become_zero_rows_and_huge_rows_are_rescaled(self, norm: Any) -> None:
        value = torch.tensor([[math.nan, 1.0], [math.inf, -math.inf], [1e30, 1e30]], requires_grad=True)
        out = Clip(2.0, norm)(value, seeded(1))
        assert out[:2].tolist() == [[0, 0], [0, 0]]
        assert out[2].abs().min().item() > 0.9
        out.sum().backward()
        assert value.grad.isfinite().all()

    def test_fields_are_checked(self) -> None:
        for limit in (0.0, -1.0, math.inf):
            with pytest.raises(PartError, match=r"clip\.limit"):
                Clip(limit)


class TestNormalisations:
    BATCH = (BoundedNormalisation(64, "batch"), BatchNormalisation(64))
    ALL = (*BATCH, BoundedNormalisation(64))

    @pytest.mark.parametrize("mechanism", ALL, ids=repr)
    def test_one_coordinate_is_bounded_as_the_paper_says(self, mechanism: Mechanism) -> None:
        bound = mechanism.bound(Sensitivity("coordinate", dimension=3920))
        assert (bound.l1, bound.l2, bound.linf) == (2 * math.sqrt(63),) * 3

    @pytest.mark.parametrize("mechanism", BATCH, ids=repr)
    def test_one_record_moves_the_whole_batch(self, mechanism: Mechanism) -> None:
        for relation in get_args(Relation):
            bound = mechanism.bound(Sensitivity("record", relation, dimension=3920))
            assert bound.l1 == pytest.approx(64 * 3920 * 2 * math.sqrt(63))  # 3.98 million
            assert bound.linf == 2 * math.sqrt(63)
            # Every vector changes, so a later clip counts all 64, twice.
            assert Clip(1.0).bound(bound).l2 == pytest.approx(math.sqrt(64) * 2)

    def test_one_record_alone_moves_its_own_row(self) -> None:
        record = Sensitivity("record", dimension=3920)
        assert BoundedNormalisation(64).bound(record).l1 == pytest.approx(62_228, abs=1)
        added = dataclasses.replace(record, relation="add-or-remove-one")
        assert BoundedNormalisation(64).bound(added).l1 == pytest.approx(31_114, abs=1)

    @pytest.mark.parametrize("mechanism", ALL, ids=repr)
    def test_a_device_with_an_unknown_number_of_records_is_unbounded(self, mechanism: Mechanism) -> None:
        device = Sensitivity("device", dimension=3920, vectors=math.inf)
        assert mechanism.bound(device).l1 == math.inf
        assert Laplace(1.0).event(mechanism.bound(device)) == NonPrivateDpEvent()

    @pytest.mark.parametrize("mechanism", BATCH, ids=repr)
    @pytest.mark.parametrize("rows", [1, 65])
    def test_batches_without_a_range_or_above_the_bound_are_refused(self, mechanism: Mechanism, rows: int) -> None:
        with pytest.raises(InputError, match="2 to 64"):
            mechanism(torch.zeros(rows, 3), seeded(1))

    def test_minimum_and_maximum_reach_the_ends(self) -> None:
        value = torch.tensor([[0.0, 7.0], [1.0, 7.0], [4.0, 7.0]])
        over_batch = BoundedNormalisation(5, "batch")(value, seeded(1))
        assert over_batch.tolist() == [[-2.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]
        assert BoundedNormalisation(5)(value, seeded(1)).tolist() == [[-2.0, 2.0]] * 3

    def test_batch_normalisation_has_mean_0_and_variance_1(self) -> None:
        value = torch.randn(64, 9, generator=torch.Generator().manual_seed(1)) * 1e-6 + 3e-6
        out = BatchNormalisation(64)(value, seeded(1)).double()
        assert out.mean(0).abs().max().item() < 1e-5
        assert (out.square().mean(0) - 1).abs().max().item() < 1e-4

    def test_one_value_apart_reaches_the_bound_of_cauchy_and_schwarz(self) -> None:
        value = torch.zeros(64, 1)
        value[5] = 1e6
        assert BatchNormalisation(64)(value, seeded(1)).max().item() == pytest.approx(math.sqrt(63), rel=1e-5)

    def test_constants_become_0_in_spite_of_rounding(self) -> None:
        for mechanism in self.ALL:
            assert mechanism(torch.full((63, 63), 0.1), seeded(1)).abs().max().item() == 0

    def test_what_is_not_finite_becomes_0_and_leaves_the_rest_alone(self) -> None:
        value = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
        value[1, 2] = math.nan
        for mechanism in (BoundedNormalisation(4, "batch"), BatchNormalisation(4)):
            out = mechanism(value, seeded(1))
            assert out[:, 2].abs().max().item() == 0
            assert out[:, 0].abs().max().item() > 1
        assert BoundedNormalisation(4)(value, seeded(1))[1].abs().max().item() == 0


class TestChain:
    RECORD = Sensitivity("record", "add-or-remove-one", dimension=10)

    def test_the_order_decides(self) -> None:
        assert Chain((Clip(2.0), Gaussian(3.0))).event(self.RECORD) == GaussianDpEvent(1.5)
        assert Chain((Gaussian(3.0), Clip(2.0))).event(self.RECORD) == NonPrivateDpEvent()

    def test_replace_one_halves_the_noise_multiplier(self) -> None:
        replaced = dataclasses.replace(self.RECORD, relation="replace-one")
        assert Chain((Clip(2.0), Gaussian(3.0))).event(replaced) == GaussianDpEvent(0.75)

    def test_an_empty_chain_changes_nothing_and_promises_nothing(self) -> None:
        value = torch.randn(2, 3)
        assert torch.equal(Chain()(value, seeded(1)), value)
        assert Chain().bound(self.RECORD) == self.RECORD
        assert Chain().event(self.RECORD) == NonPrivateDpEvent()

    def test_what_follows_the_noise_is_post_processing(self) -> None:
        before = Chain((Clip(2.0), Gaussian(3.0)))
        assert Chain((*before.mechanisms, Clip(1.0), Gaussian(9.0))).event(self.RECORD) == before.event(self.RECORD)

    def test_it_applies_its_mechanisms_in_order(self) -> None:
        value, rng = torch.full((1, 2), 8.0), seeded(4)
        out = Chain((Clip(1.0, "linf"), Gaussian(1.0)))(value, seeded(4))
        assert torch.equal(out, Gaussian(1.0)(Clip(1.0, "linf")(value, rng), rng))

    def test_the_papers_chain(self) -> None:
        paper = Chain((BoundedNormalisation(64, "batch"), Laplace(math.sqrt(63))))
        coordinate = Sensitivity("coordinate", dimension=3920)
        assert paper.event(coordinate) == LaplaceDpEvent(0.5)  # the claimed epsilon of 2
        record = dataclasses.replace(coordinate, unit="record")
        assert paper.event(record) == SelfComposedDpEvent(LaplaceDpEvent(0.5), 64 * 3920)
        own_row = Chain((BoundedNormalisation(64), Laplace(math.sqrt(63)))).event(record)
        assert own_row == SelfComposedDpEvent(LaplaceDpEvent(0.5), 3920)

    def test_an_l1_clip_costs_one_value_of_the_whole_budget(self) -> None:
        assert Chain((Clip(2.0, "l1"), Laplace(8.0))).event(self.RECORD) == LaplaceDpEvent(4.0)

    def test_without_noise(self) -> None:
        assert Chain((Clip(2.0), Gaussian(3.0), Laplace(1.0))).without_noise() == Chain((Clip(2.0),))

    def test_its_examples_run(self) -> None:
        assert doctest.testmod(chain).failed == 0
