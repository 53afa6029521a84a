"""Laws of every aggregator, shipped or added, and slow twins of the fast ones."""

from __future__ import annotations

import math
import statistics
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privet import parts
from privet.accounting import Relation, Sensitivity
from privet.aggregation.contract import Aggregator
from privet.aggregation.coordinate_median import CoordinateMedian
from privet.aggregation.distances import squared_distances
from privet.aggregation.krum import Krum
from privet.aggregation.mean import Mean
from privet.aggregation.multi_krum import MultiKrum
from privet.aggregation.trimmed_mean import TrimmedMean
from privet.errors import InputError, PartError, RefusedError
from privet.mechanisms.clip import Clip

AGGREGATORS: list[Aggregator] = [parts.find("aggregators", name)() for name in parts.names("aggregators")]
AGGREGATORS += [Mean(equal_weights=True), MultiKrum(selected=3), Krum(byzantine=0), TrimmedMean(trim=0)]
ROBUST = [Krum(2), MultiKrum(2), MultiKrum(2, selected=5), CoordinateMedian(), TrimmedMean(2)]
each = pytest.mark.parametrize("rule", AGGREGATORS, ids=repr)


def random_updates(seed: int, n: int = 9, d: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.rand(n, generator=generator) + 0.1


@each
class TestEveryAggregator:
    def test_the_order_of_devices_does_not_matter(self, rule: Aggregator) -> None:
        updates, weights = random_updates(1)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
        straight, mixed = rule.combine(updates, weights), rule.combine(updates[order], weights[order])
        torch.testing.assert_close(mixed.update, straight.update, rtol=1e-12, atol=1e-12)
        assert torch.equal(mixed.selected, straight.selected[order])
        assert (mixed.scores is None) == (straight.scores is None)
        if straight.scores is not None:
            torch.testing.assert_close(mixed.scores, straight.scores[order], rtol=1e-12, atol=1e-12)

    def test_identical_updates_return_themselves(self, rule: Aggregator) -> None:
        one = torch.tensor([1e6, -1.0, 0.1, 1e-6])
        out = rule(one.repeat(9, 1), torch.arange(1.0, 10.0))
        torch.testing.assert_close(out, one.double(), rtol=1e-12, atol=0)

    def test_only_ratios_of_weights_count(self, rule: Aggregator) -> None:
        updates, weights = random_updates(3)
        torch.testing.assert_close(rule(updates, 1000 * weights), rule(updates, weights), rtol=1e-6, atol=1e-7)

    def test_a_shift_of_all_shifts_the_result(self, rule: Aggregator) -> None:
        updates, weights = random_updates(4)
        moved = rule(updates.double() + 100, weights)
        torch.testing.assert_close(moved, rule(updates, weights) + 100, rtol=1e-9, atol=1e-9)

    def test_the_result_has_shape_and_float64(self, rule: Aggregator) -> None:
        combined = rule.combine(*random_updates(5))
        assert (combined.update.shape, combined.update.dtype) == ((7,), torch.float64)
        assert (combined.selected.shape, combined.selected.dtype) == ((9,), torch.bool)
        assert combined.selected.any()

    def test_the_input_is_untouched(self, rule: Aggregator) -> None:
        for dtype in (torch.float32, torch.float64):
            updates, weights = random_updates(6)
            updates = updates.to(dtype)
            before = updates.clone(), weights.clone()
            rule(updates, weights).add_(1)
            assert torch.equal(updates, before[0])
            assert torch.equal(weights, before[1])

    def test_too_few_updates_are_refused(self, rule: Aggregator) -> None:
        fewest = rule.minimum()
        updates, weights = random_updates(7, n=fewest)
        assert rule(updates, weights).isfinite().all()
        with pytest.raises(RefusedError, match=f"got {fewest - 1} update.*{fewest} or more"):
            rule(updates[1:], weights[1:])

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_refused_by_row(self, rule: Aggregator, broken: float) -> None:
        updates, weights = random_updates(8)
        updates[4, 2] = broken
        with pytest.raises(InputError, match=r"updates \[4\]"):
            rule(updates, weights)

    def test_huge_but_finite_updates_are_taken(self, rule: Aggregator) -> None:
        updates, weights = random_updates(8)
        updates[4] = 3e38
        assert rule(updates, weights).isfinite().all()

    @pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
    def test_bad_weights_are_refused(self, rule: Aggregator, bad: float) -> None:
        updates, weights = random_updates(9)
        weights[0] = bad
        with pytest.raises(InputError, match="weights"):
            rule(updates, weights)

    def test_wrong_shapes_are_refused(self, rule: Aggregator) -> None:
        updates, weights = random_updates(9)
        for wrong in ((updates[0], weights), (updates, weights[:-1]), (updates, weights[:, None])):
            with pytest.raises(InputError, match="shape"):
                rule(*wrong)

    def test_the_device_sends_its_update_as_it_is(self, rule: Aggregator) -> None:
        update = torch.randn(5)
        assert rule.prepare(update, 1) is update

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32), norm=st.sampled_from(["l1", "l2", "linf"]))
    def test_the_claimed_bound_holds(self, rule: Aggregator, seed: int, norm: Any) -> None:
        clip = Clip(1.0, norm)
        updates, weights = random_updates(seed, d=3)
        updates, weights = clip(updates * 3, None), weights * 10 ** (2 * weights)  # type: ignore[arg-type]
        for relation in get_args(Relation):
            claimed = rule.bound(clip.bound(Sensitivity("device", relation, dimension=3)), 9)
            other, others = updates.clone(), weights.clone()
            other[0], others[0] = -updates[0], 50.0
            if relation == "add-or-remove-one":
                other, others = updates[1:], weights[1:]
            change = rule(updates, weights) - rule(other, others)
            assert change.abs().sum().item() <= claimed.l1 + 1e-9
            assert change.norm().item() <= claimed.l2 + 1e-9
            assert change.abs().max().item() <= claimed.linf + 1e-9

    def test_what_comes_out_changes_whoever_leaves(self, rule: Aggregator) -> None:
        device = Sensitivity("device", "add-or-remove-one", dimension=4, vectors=10)
        after = Clip(1.0).bound(rule.bound(device, 9))
        assert (after.l2, after.vectors) == (2.0, 1)


class TestMeanBound:
    DEVICE = Sensitivity("device", dimension=4).bounded(l2=2.0)

    def test_equal_weights_divide_by_the_number_of_updates(self) -> None:
        assert Mean(equal_weights=True).bound(self.DEVICE, 10).l2 == pytest.approx(0.2)

    def test_with_other_weights_a_share_may_be_everything(self) -> None:
        assert Mean().bound(self.DEVICE, 10).l2 == 2.0

    def test_a_device_that_leaves_moves_the_shares_of_the_others(self) -> None:
        added = Sensitivity("device", "add-or-remove-one", dimension=4).bounded(l2=1.0)
        assert Mean(equal_weights=True).bound(added, 10).l2 == pytest.approx(0.2)
        assert Mean().bound(added, 10).l2 == 2.0

    def test_a_record_that_leaves_changes_unequal_weights(self) -> None:
        added = Sensitivity("record", "add-or-remove-one", dimension=4).bounded(l2=1.0)
        assert Mean().bound(added, 10).l2 == math.inf
        assert Mean(equal_weights=True).bound(added, 10).l2 == pytest.approx(0.1)

    def test_a_coordinate_stays_a_coordinate(self) -> None:
        one = Sensitivity("coordinate", dimension=4).bounded(linf=1.0)
        assert Mean(equal_weights=True).bound(one, 10).l1 == pytest.approx(0.1)

    def test_rules_that_select_promise_nothing(self) -> None:
        for rule in ROBUST:
            assert rule.bound(self.DEVICE, 10).linf == math.inf


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
class TestRobustRules:
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32), size=st.sampled_from([1e3, 1e15, 1e30]))
    def test_huge_outliers_leave_the_result_among_the_honest(self, rule: Aggregator, seed: int, size: float) -> None:
        updates, weights = random_updates(seed)
        updates[3], updates[5] = size, -size
        honest = torch.cat((updates[:3], updates[4:5], updates[6:])).double()
        out = rule(updates, weights)
        assert ((out >= honest.amin(0) - 1e-9) & (out <= honest.amax(0) + 1e-9)).all()

    def test_one_huge_update_does_not_hide_another(self, rule: Aggregator) -> None:
        updates, weights = random_updates(1)
        updates[0], updates[1] = 1e18, 30.0
        assert rule(updates, weights).abs().max().item() < 4


class TestDistances:
    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32), offset=st.sampled_from([0.0, 1.0, 1e4]), scale=st.sampled_from([1e-6, 1.0, 1e6]))
    def test_they_are_those_of_the_definition(self, seed: int, offset: float, scale: float) -> None:
        updates = (random_updates(seed)[0].double() + offset) * scale
        slow = [
            [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in updates.tolist()] for x in updates.tolist()
        ]
        torch.testing.assert_close(squared_distances(updates), torch.tensor(slow).double(), rtol=1e-6, atol=0)

    def test_blocks_of_columns_do_not_change_them(self) -> None:
        updates = random_updates(2, n=5, d=20_000)[0]
        exact = torch.cdist(updates.double(), updates.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
        torch.testing.assert_close(squared_distances(updates), exact, rtol=1e-10, atol=0)

    def test_overflow_is_infinitely_far(self) -> None:
        updates = torch.tensor([[0.0], [1.0], [1e200]], dtype=torch.float64)
        assert squared_distances(updates).tolist() == [[0, 1, math.inf], [1, 0, math.inf], [math.inf, math.inf, 0]]

    def test_they_are_symmetric_and_zero_for_equals(self) -> None:
        updates = random_updates(3)[0].repeat(2, 1)
        distances = squared_distances(updates)
        assert torch.equal(distances, distances.T)
        assert distances[0, 9].item() < 1e-12


def slow_scores(updates: list[list[float]], byzantine: int) -> list[float]:
    scores = []
    for i, a in enumerate(updates):
        far = sorted(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for j, b in enumerate(updates) if j != i)
        scores.append(sum(far[: len(updates) - byzantine - 2]))
    return scores


class TestTwins:
    CASES = settings(max_examples=40, deadline=None, derandomize=True)
    SEEDS = st.integers(0, 2**32)

    @CASES
    @given(seed=SEEDS, byzantine=st.integers(0, 3))
    def test_krum(self, seed: int, byzantine: int) -> None:
        updates, weights = random_updates(seed)
        scores = slow_scores(updates.tolist(), byzantine)
        best = scores.index(min(scores))
        combined = Krum(byzantine).combine(updates, weights)
        assert combined.scores.tolist() == pytest.approx(scores)
        assert combined.selected.nonzero().tolist() == [[best]]
        assert torch.equal(combined.update, updates[best].double())

    @CASES
    @given(seed=SEEDS, byzantine=st.integers(0, 3), selected=st.sampled_from([None, 1, 4, 9]))
    def test_multi_krum(self, seed: int, byzantine: int, selected: int | None) -> None:
        updates, weights = random_updates(seed)
        scores = slow_scores(updates.tolist(), byzantine)
        best = sorted(sorted(range(9), key=scores.__getitem__)[: selected or 9 - byzantine])
        total = sum(weights[i].item() for i in best)
        mean = [sum(weights[i].item() / total * updates[i, j].item() for i in best) for j in range(7)]
        combined = MultiKrum(byzantine, selected).combine(updates, weights)
        assert combined.selected.nonzero().flatten().tolist() == best
        assert combined.update.tolist() == pytest.approx(mean)

    @CASES
    @given(seed=SEEDS, n=st.integers(1, 9))
    def test_coordinate_median(self, seed: int, n: int) -> None:
        updates, weights = random_updates(seed, n=n)
        twin = [statistics.median(column) for column in updates.T.tolist()]
        assert CoordinateMedian()(updates, weights).tolist() == pytest.approx(twin)

    @CASES
    @given(seed=SEEDS, n=st.integers(7, 9), trim=st.integers(0, 3))
    def test_trimmed_mean(self, seed: int, n: int, trim: int) -> None:
        updates, weights = random_updates(seed, n=n)
        twin = [statistics.mean(sorted(column)[trim : n - trim]) for column in updates.T.tolist()]
        assert TrimmedMean(trim)(updates, weights).tolist() == pytest.approx(twin)

    def test_blocks_of_columns_do_not_change_the_median(self) -> None:
        updates, weights = random_updates(1, n=5, d=20_000)
        assert torch.equal(CoordinateMedian()(updates, weights), updates.median(0).values.double())

    @CASES
    @given(seed=SEEDS)
    def test_mean(self, seed: int) -> None:
        updates, weights = random_updates(seed)
        shares = [weight / weights.double().sum().item() for weight in weights.tolist()]
        twin = [sum(share * row[j].item() for share, row in zip(shares, updates, strict=True)) for j in range(7)]
        assert Mean()(updates, weights).tolist() == pytest.approx(twin)
        assert Mean(equal_weights=True)(updates, weights).tolist() == pytest.approx(updates.mean(0).tolist(), rel=1e-4)


def test_ties_go_to_the_first() -> None:
    # Three corners of a square, each with one far neighbour, score alike; every sum here is exact.
    corners, far = [[1, 1], [-1, 1], [1, -1], [-1, -1]], [[8, 8], [-8, 8], [8, -8]]
    combined = MultiKrum(1, selected=2).combine(torch.tensor(corners + far).float(), torch.ones(7))
    assert combined.scores[:4].tolist() == [114.0, 114.0, 114.0, 146.0]
    assert combined.selected.tolist() == [True, True, False, False, False, False, False]


def test_fewest_updates_by_formula() -> None:
    assert [Krum(f).minimum() for f in (0, 1, 4)] == [3, 5, 11]
    assert [MultiKrum(1).minimum(), MultiKrum(1, 9).minimum()] == [5, 9]
    assert [TrimmedMean(2).minimum(), CoordinateMedian().minimum(), Mean().minimum()] == [5, 1, 1]


def test_fields_are_checked() -> None:
    for build in (lambda: Krum(-1), lambda: MultiKrum(1, 0), lambda: TrimmedMean(-1)):
        with pytest.raises(PartError, match="greater than or equal"):
            build()
