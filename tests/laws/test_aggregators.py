"""Laws of every aggregator, shipped or added, and slow twins of the fast ones."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privet import parts
from privet.accounting import Relation, Sensitivity
from privet.aggregation.bulyan import Bulyan, mean_around_median
from privet.aggregation.centred_clipping import CentredClipping
from privet.aggregation.contract import NOTHING_KNOWN, Aggregator, Circumstances
from privet.aggregation.coordinate_median import CoordinateMedian
from privet.aggregation.distances import distances_from, gram, squared_distances
from privet.aggregation.fltrust import Fltrust
from privet.aggregation.foolsgold import Foolsgold
from privet.aggregation.krum import Krum
from privet.aggregation.mean import Mean
from privet.aggregation.multi_krum import MultiKrum
from privet.aggregation.nnm import Nnm
from privet.aggregation.norm_bound import NormBound
from privet.aggregation.rfa import Rfa
from privet.aggregation.trimmed_mean import TrimmedMean
from privet.errors import InputError, PartError, RefusedError
from privet.mechanisms.clip import Clip
from privet.tensors import State, from_bytes, to_bytes

AGGREGATORS: list[Aggregator] = [parts.find("aggregators", name)() for name in parts.names("aggregators")]
AGGREGATORS += [Mean(equal_weights=True), MultiKrum(selected=3), Krum(byzantine=0), TrimmedMean(trim=0)]
FAR = [NormBound(limit=2e6), CentredClipping(radius=2e6)]  # limits that shorten nothing, so they anchor nothing
AGGREGATORS += [*FAR, Nnm(2, MultiKrum(2)), Bulyan(0)]
ROBUST = [Krum(2), MultiKrum(2), MultiKrum(2, selected=5), CoordinateMedian(), TrimmedMean(2)]
ROBUST += [Bulyan(1), Nnm(2, TrimmedMean(2)), Nnm(2, MultiKrum(2))]
each = pytest.mark.parametrize("rule", AGGREGATORS, ids=repr)
IDENTITIES = tuple(f"device-{number:03d}" for number in range(9))


def random_updates(seed: int, n: int = 9, d: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.rand(n, generator=generator) + 0.1


def known(n: int = 9, d: int = 7, memory: State | None = None) -> Circumstances:
    """What a rule may know in these tests: who sent what, and a trusted update of its own."""
    trusted = torch.randn(d, generator=torch.Generator().manual_seed(99))
    return Circumstances(IDENTITIES[:n], memory or {}, trusted)


@each
class TestEveryAggregator:
    def test_the_order_of_devices_does_not_matter(self, rule: Aggregator) -> None:
        updates, weights = random_updates(1)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
        shuffled = replace(known(), identities=tuple(IDENTITIES[row] for row in order.tolist()))
        straight = rule.combine(updates, weights, known())
        mixed = rule.combine(updates[order], weights[order], shuffled)
        torch.testing.assert_close(mixed.update, straight.update, rtol=1e-12, atol=1e-12)
        assert torch.equal(mixed.selected, straight.selected[order])
        assert (mixed.scores is None) == (straight.scores is None)
        if straight.scores is not None:
            torch.testing.assert_close(mixed.scores, straight.scores[order], rtol=1e-12, atol=1e-12)

    def test_identical_updates_return_themselves(self, rule: Aggregator) -> None:
        one = torch.tensor([1e6, -1.0, 0.1, 1e-6])
        out = rule(one.repeat(9, 1), torch.arange(1.0, 10.0), Circumstances(IDENTITIES, trusted=one))
        torch.testing.assert_close(out, one.double(), rtol=1e-12, atol=0)

    def test_only_ratios_of_weights_count(self, rule: Aggregator) -> None:
        updates, weights = random_updates(3)
        more = rule(updates, 1000 * weights, known())
        torch.testing.assert_close(more, rule(updates, weights, known()), rtol=1e-6, atol=1e-7)

    def test_a_shift_of_all_shifts_the_result_unless_it_is_anchored(self, rule: Aggregator) -> None:
        updates, weights = random_updates(4)
        moved = rule(updates.double() + 100, weights, known()) - 100
        alike = torch.allclose(moved, rule(updates.double(), weights, known()), rtol=1e-9, atol=1e-9)
        assert alike is (not rule.anchored or rule in FAR)

    def test_the_result_has_shape_and_float64(self, rule: Aggregator) -> None:
        combined = rule.combine(*random_updates(5), known())
        assert (combined.update.shape, combined.update.dtype) == ((7,), torch.float64)
        assert (combined.selected.shape, combined.selected.dtype) == ((9,), torch.bool)
        assert combined.selected.any()

    def test_the_input_is_untouched(self, rule: Aggregator) -> None:
        for dtype in (torch.float32, torch.float64):
            updates, weights = random_updates(6)
            updates = updates.to(dtype)
            before = updates.clone(), weights.clone()
            around = known(memory=rule.combine(updates, weights, known()).memory)
            memory, trusted = {name: value.clone() for name, value in around.memory.items()}, around.trusted.clone()
            combined = rule.combine(updates, weights, around)
            combined.update.add_(1)
            for value in combined.memory.values():
                value.add_(1)
            assert torch.equal(updates, before[0])
            assert torch.equal(weights, before[1])
            assert torch.equal(around.trusted, trusted)
            assert around.memory.keys() == memory.keys()
            assert all(torch.equal(around.memory[name], value) for name, value in memory.items())

    def test_memory_survives_a_file(self, rule: Aggregator) -> None:
        updates, weights = random_updates(11)
        memory = rule.combine(updates, weights, known()).memory
        read = from_bytes(to_bytes(memory)) if memory else {}
        straight = rule.combine(updates + 1, weights, known(memory=memory))
        again = rule.combine(updates + 1, weights, known(memory=read))
        assert torch.equal(straight.update, again.update)
        assert straight.memory.keys() == again.memory.keys()
        assert all(torch.equal(straight.memory[name], value) for name, value in again.memory.items())

    @settings(max_examples=25, derandomize=True)
    @given(
        seed=st.integers(0, 2**32),
        size=st.sampled_from([0.0, 3.0, 30.0, 1e3, 1e15, 1e30]),
        kind=st.sampled_from(["alike", "apart", "opposed"]),
        n=st.sampled_from([7, 9, 13]),
    )
    def test_as_many_as_it_stands_do_not_carry_it_away(
        self, rule: Aggregator, seed: int, size: float, kind: str, n: int
    ) -> None:
        n = max(n, rule.minimum())
        hostile = min(rule.stands(n), n - 1)
        updates, weights = random_updates(seed, n=n)
        pushed = size * random_updates(seed + 1, n=n)[0][:hostile]
        if kind == "alike" and hostile:
            pushed[:] = pushed[0].clone()
        updates[n - hostile :] = -pushed.abs() if kind == "opposed" else pushed
        around, honest = replace(known(), identities=()), updates[: n - hostile].double()
        out = rule(updates, weights, around)
        middle = torch.zeros(7) if rule.anchored else honest.mean(0)
        reach = (honest - middle).norm(dim=1).max()
        reach = torch.maximum(reach, around.trusted.norm().double()) if rule.anchored else reach
        if hostile:
            assert float((out - middle).norm()) <= 10 * float(reach)

    def test_too_few_updates_are_refused(self, rule: Aggregator) -> None:
        fewest = rule.minimum()
        updates, weights = random_updates(7, n=fewest)
        assert rule(updates, weights, known(fewest)).isfinite().all()
        with pytest.raises(RefusedError, match=f"got {fewest - 1} update.*{fewest} or more"):
            rule(updates[1:], weights[1:], known(fewest - 1))

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_refused_by_row(self, rule: Aggregator, broken: float) -> None:
        updates, weights = random_updates(8)
        updates[4, 2] = broken
        with pytest.raises(InputError, match=r"updates \[4\]"):
            rule(updates, weights)

    def test_huge_but_finite_updates_are_taken(self, rule: Aggregator) -> None:
        updates, weights = random_updates(8)
        updates[4] = 3e38
        assert rule(updates, weights, known()).isfinite().all()

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

    @settings(max_examples=40, derandomize=True)
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
            change = rule(updates, weights, known(d=3)) - rule(other, others, known(len(other), d=3))
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
    @settings(max_examples=20, derandomize=True)
    @given(seed=st.integers(0, 2**32), size=st.sampled_from([1e3, 1e15, 1e30]))
    def test_huge_outliers_leave_the_result_among_the_honest(self, rule: Aggregator, seed: int, size: float) -> None:
        updates, weights = random_updates(seed)
        updates[3], updates[5] = size, -size if rule.stands(9) > 1 else updates[5]
        honest = torch.cat((updates[:3], updates[4:5], updates[6:])).double()
        honest = honest if rule.stands(9) > 1 else torch.cat((honest, updates[5:6].double()))
        out = rule(updates, weights)
        assert ((out >= honest.amin(0) - 1e-9) & (out <= honest.amax(0) + 1e-9)).all()

    def test_one_huge_update_does_not_hide_another(self, rule: Aggregator) -> None:
        updates, weights = random_updates(1)
        updates[0], updates[1] = 1e18, 30.0
        if rule.stands(9) > 1:
            assert rule(updates, weights).abs().max().item() < 4


class TestDistances:
    @settings(max_examples=30, derandomize=True)
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
    CASES = settings(max_examples=40, derandomize=True)
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

    @CASES
    @given(seed=SEEDS, n=st.integers(7, 9), less=st.integers(0, 3))
    def test_mean_around_the_median(self, seed: int, n: int, less: int) -> None:
        updates, keep = random_updates(seed, n=n)[0].double(), n - 2 * less  # as in Bulyan, so that sides never tie
        twin = []
        for column in updates.T.tolist():
            middle = statistics.median(column)
            sides = sorted(column, key=lambda value, middle=middle: abs(value - middle))
            twin.append(statistics.fmean(sides[:keep]))
        assert mean_around_median(updates, keep).tolist() == pytest.approx(twin)

    @CASES
    @given(seed=SEEDS)
    def test_bulyan_takes_its_updates_by_repeated_krum(self, seed: int) -> None:
        updates, weights = random_updates(seed, n=11)
        rows, left = updates.tolist(), list(range(11))
        for _ in range(7):
            distances = {i: sorted(math.dist(rows[i], rows[j]) ** 2 for j in left if j != i) for i in left}
            left.remove(min(left, key=lambda i: (sum(distances[i][: max(1, len(left) - 4)]), sum(distances[i]))))
        combined = Bulyan(2).combine(updates, weights)
        assert (~combined.selected).nonzero().flatten().tolist() == left
        assert torch.equal(combined.update, mean_around_median(updates[combined.selected], 3))

    @CASES
    @given(seed=SEEDS)
    def test_rfa_finds_the_smallest_sum_of_distances(self, seed: int) -> None:
        updates, weights = random_updates(seed)
        found = Rfa(steps=1000)(updates, weights)
        best = (updates.double() - found).norm(dim=1).sum()
        steps = 1e-3 * torch.cat((torch.eye(7), -torch.eye(7))).double()
        around = torch.stack([(updates.double() - found - step).norm(dim=1).sum() for step in steps])
        assert (around > best - 1e-9).all()

    def test_rfa_of_numbers_is_their_median(self) -> None:
        updates = torch.tensor([[1.0], [2.0], [3.0], [50.0], [1e9]])
        assert Rfa()(updates, torch.ones(5)).item() == pytest.approx(3.0, abs=1e-4)

    @CASES
    @given(seed=SEEDS, radius=st.sampled_from([None, 0.5, 2.0]), steps=st.integers(1, 4))
    def test_centred_clipping(self, seed: int, radius: float | None, steps: int) -> None:
        updates, weights = random_updates(seed)
        centre = random_updates(seed + 1)[0][0].double()
        twin = centre.clone()
        for _ in range(steps):
            away = [row.double() - twin for row in updates]
            limit = radius or statistics.median(one.norm().item() for one in away)
            twin = twin + sum(one * min(1.0, limit / one.norm().item()) for one in away) / 9
        combined = CentredClipping(radius, steps).combine(updates, weights, known(memory={"centre": centre}))
        torch.testing.assert_close(combined.update, twin, rtol=1e-9, atol=1e-9)
        assert torch.equal(combined.memory["centre"], combined.update)

    @CASES
    @given(seed=SEEDS)
    def test_fltrust(self, seed: int) -> None:
        updates, weights = random_updates(seed)
        trusted = known().trusted.double()
        rows = list(updates.double())
        trust = [max(0.0, torch.cosine_similarity(row, trusted, dim=0).item()) for row in rows]
        length = trusted.norm()
        twin = sum(one * length / row.norm() * row for one, row in zip(trust, rows, strict=True)) / sum(trust)
        combined = Fltrust().combine(updates, weights, known())
        torch.testing.assert_close(combined.update, twin, rtol=1e-6, atol=1e-9)
        assert combined.selected.tolist() == [one > 0 for one in trust]

    @CASES
    @given(seed=SEEDS, limit=st.sampled_from([None, 1.0, 2.5]))
    def test_norm_bound(self, seed: int, limit: float | None) -> None:
        updates, weights = random_updates(seed)
        lengths = [row.double().norm().item() for row in updates]
        most = limit or statistics.median(lengths)
        twin = sum(row.double() * min(1.0, most / one) for row, one in zip(updates, lengths, strict=True)) / 9
        torch.testing.assert_close(NormBound(limit)(updates, weights), twin, rtol=1e-6, atol=1e-9)

    @CASES
    @given(seed=SEEDS, byzantine=st.integers(0, 4))
    def test_mixing_with_the_nearest(self, seed: int, byzantine: int) -> None:
        updates, weights = random_updates(seed)
        mixed = []
        for row in updates:
            near = sorted(updates, key=lambda other, row=row: float((other - row).double().norm()))[: 9 - byzantine]
            mixed.append(torch.stack(near).mean(0))
        twin = TrimmedMean(2)(torch.stack(mixed), weights)
        torch.testing.assert_close(Nnm(byzantine, TrimmedMean(2))(updates, weights), twin, rtol=1e-5, atol=1e-6)

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


class TestFoolsgold:
    def test_devices_that_send_the_same_are_left_out_over_rounds(self) -> None:
        memory: State = {}
        for number in range(3):
            updates, weights = random_updates(number, d=200)
            updates[6:] = updates[6].clone()
            combined = Foolsgold().combine(updates, weights, known(memory=memory))
            memory = combined.memory
        assert combined.selected.tolist() == [True] * 6 + [False] * 3
        assert combined.scores[6:].tolist() == [1.0, 1.0, 1.0]

    def test_histories_are_sums_by_identity(self) -> None:
        updates, weights = random_updates(1)
        first = Foolsgold().combine(updates, weights, known()).memory
        second = Foolsgold().combine(updates[:5], weights[:5], known(5, memory=first)).memory
        torch.testing.assert_close(second["history.device-000"], 2 * updates[0])
        assert torch.equal(second["history.device-008"], updates[8])

    def test_it_is_the_algorithm_of_the_paper(self) -> None:
        rows = [[1.0, 0.0, 0.1], [1.0, 0.2, 0.0], [0.0, 1.0, 0.0], [-0.5, 0.0, 1.0]]
        n = len(rows)
        unit = [[value / math.hypot(*row) for value in row] for row in rows]
        cosine = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in unit] for a in unit]
        most = [max(cosine[i][j] for j in range(n) if j != i) for i in range(n)]
        pardoned = [
            [cosine[i][j] * (most[i] / most[j] if most[j] > most[i] else 1) for j in range(n)] for i in range(n)
        ]
        weights = [min(1, max(0, 1 - max(pardoned[i][j] for j in range(n) if j != i))) for i in range(n)]
        weights = [min(0.99, one / max(weights)) for one in weights]
        twin = [min(1, max(0, math.log(one / (1 - one)) + 0.5 if one else 0)) for one in weights]
        scores = Foolsgold().combine(torch.tensor(rows), torch.ones(n)).scores
        assert (1 - scores).tolist() == pytest.approx(twin, abs=1e-6)


class TestFltrust:
    def test_without_a_trusted_update_it_refuses(self) -> None:
        with pytest.raises(RefusedError, match="no trusted update"):
            Fltrust().combine(*random_updates(1), NOTHING_KNOWN)

    def test_when_all_point_away_the_model_stays(self) -> None:
        trusted = torch.ones(7)
        combined = Fltrust().combine(-torch.rand(9, 7), torch.ones(9), Circumstances(trusted=trusted))
        assert combined.update.tolist() == [0.0] * 7
        assert not combined.selected.any()

    def test_it_says_how_many_rows_it_wants(self) -> None:
        assert [Fltrust(examples=30).trusts, Nnm(1, Fltrust(examples=40)).trusts, Mean().trusts] == [30, 40, 0]


def test_one_huge_update_carries_a_rule_away_that_stands_none() -> None:
    updates, weights = random_updates(1)
    updates[8] = 1e9
    assert Mean().stands(9) == 0
    assert Mean()(updates, weights).norm().item() > 1e8


def test_what_each_rule_stands() -> None:
    rules = (Krum(2), MultiKrum(2, 7), MultiKrum(2, 8), CoordinateMedian(), TrimmedMean(3), Bulyan(1), Rfa())
    assert [rule.stands(9) for rule in rules] == [2, 2, 0, 4, 3, 1, 2]
    rules = (CentredClipping(), CentredClipping(1.0), Fltrust(), Foolsgold(), NormBound(), NormBound(1.0), Nnm(2))
    assert [rule.stands(9) for rule in rules] == [4, 0, 9, 0, 4, 0, 1]


def test_a_norm_bound_bounds_the_sensitivity_of_a_device() -> None:
    device = Sensitivity("device", dimension=4)
    assert NormBound(0.5).bound(device, 10).l2 == pytest.approx(0.1)
    assert NormBound().bound(device, 10).l2 == math.inf


def test_distances_from_a_point_are_those_of_the_definition() -> None:
    updates, weights = random_updates(5)
    shares, centre = weights.double() / weights.sum(), torch.ones(7).double()
    point = centre + shares @ (updates.double() - centre)
    twin = (updates.double() - point).norm(dim=1)
    torch.testing.assert_close(distances_from(gram(updates, centre), shares), twin, rtol=1e-9, atol=1e-9)


def test_a_rule_inside_a_rule_is_a_nested_table() -> None:
    rule = parts.build("aggregators", {"name": "nnm", "byzantine": 2, "inner": {"name": "multi-krum", "byzantine": 2}})
    assert rule == Nnm(2, MultiKrum(2))
    assert parts.build("aggregators", parts.to_table(rule)) == rule
    for wrong in ("krum", {"name": "krum", "byzantine": -1}, {"name": "crumb"}, {}):
        with pytest.raises(PartError):
            parts.build("aggregators", {"name": "nnm", "inner": wrong})


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
