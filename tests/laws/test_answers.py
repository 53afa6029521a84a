"""Laws of every answer about a data set: repeatable, untouched records, and a loss that holds outcome by outcome."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from dp_accounting import dp_event as events
from scipy import stats

from privet.accounting import Relation
from privet.accounting.accountants import epsilon
from privet.accounting.pure import pure_event
from privet.errors import InputError
from privet.mechanisms.exponential import Exponential
from privet.randomness import seeded, system
from privet.release import Answer
from privet.release.median import Median
from privet.release.sample_and_aggregate import SampleAndAggregate
from privet.release.sparse_vector import SparseVector

ANSWERS = [Median(0.0, 10.0, 2.0, 10), SampleAndAggregate(0.0, 10.0, 2.0, 5, 10), SparseVector(5.0, 1.0)]
RECORDS = torch.tensor([0.0, 1, 1, 2, 3, 5, 8, 9, math.nan])
N = 20_000


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
class TestEveryAnswer:
    def test_the_same_seed_gives_the_same_answer(self, answer: Answer) -> None:
        assert answer(RECORDS, seeded(3)) == answer(RECORDS, seeded(3))

    def test_the_records_are_untouched(self, answer: Answer) -> None:
        before = RECORDS.clone()
        answer(RECORDS, seeded(3))
        assert torch.equal(RECORDS.nan_to_num(), before.nan_to_num())

    def test_system_noise_differs(self, answer: Answer) -> None:
        assert len({answer(RECORDS, system()) for _ in range(60)}) > 1

    def test_it_costs_a_pure_loss_under_both_relations(self, answer: Answer) -> None:
        for relation in get_args(Relation):
            figure, name = epsilon(answer.event(relation), 0)
            assert 0 < figure <= 1.0000001
            assert name == "pure"

    def test_no_outcome_is_likelier_by_more_than_that(self, answer: Answer) -> None:
        """Ratios of frequencies on two data sets that differ in one record, with room for chance."""
        for relation, other in (
            ("replace-one", torch.cat((RECORDS[1:], RECORDS[-2:-1]))),
            ("add-or-remove-one", RECORDS[:-2]),
        ):
            if isinstance(answer, SparseVector):
                other = RECORDS - 1
            loss = epsilon(answer.event(relation), 0)[0]  # type: ignore[arg-type]
            first, second = (
                {one: count for one, count in zip(*np.unique(drawn, return_counts=True), strict=True)}
                for drawn in (
                    [answer(each, rng) or -1 for rng in [seeded(5)] for _ in range(1500)] for each in (RECORDS, other)
                )
            )
            for one, count in first.items():
                if min(count, second.get(one, 0)) >= 60:
                    assert abs(math.log(count / second[one])) <= loss + 0.6


class TestMedian:
    def test_its_law(self) -> None:
        """By hand: of 0, 0, 4 the points 0..4 have 0, 0, 0, 0, 0 or more ranks too many on a side."""
        values, median = torch.tensor([0.0, 0, 4]), Median(0.0, 4.0, 0.5, 4)
        scores = np.array([0, -0.5, -0.5, -0.5, -0.5])
        rng = seeded(6)
        counts = np.bincount([int(median(values, rng)) for _ in range(4000)], minlength=5)
        weights = np.exp(scores / 0.5)
        assert stats.chisquare(counts, 4000 * weights / weights.sum()).pvalue > 1e-6

    def test_the_loss_is_that_of_the_ranks(self) -> None:
        assert Median(0.0, 1.0, 4.0).event("replace-one") == pure_event(0.5)
        assert Median(0.0, 1.0, 4.0).event("add-or-remove-one") == pure_event(0.25)

    def test_many_values_leave_no_doubt(self) -> None:
        values = torch.randn(20_001, generator=torch.Generator().manual_seed(1)) + 3
        assert Median(-100.0, 100.0, 4.0, 20_000)(values, seeded(1)) == pytest.approx(3, abs=0.05)

    def test_an_empty_range(self) -> None:
        with pytest.raises(InputError, match="low below high"):
            Median(1.0, 1.0, 1.0)(RECORDS, seeded(1))


class TestSampleAndAggregate:
    def test_it_is_close_to_the_statistic(self) -> None:
        values = torch.randn(20_000, generator=torch.Generator().manual_seed(1)) + 3
        assert SampleAndAggregate(-10.0, 10.0, 2.0, 100)(values, seeded(1)) == pytest.approx(3, abs=0.1)
        spread = SampleAndAggregate(0.0, 10.0, 2.0, 100)(values, seeded(1), lambda share: share.std().item())
        assert spread == pytest.approx(1, abs=0.15)

    def test_empty_blocks_count_as_low(self) -> None:
        assert 0 <= SampleAndAggregate(0.0, 1.0, 2.0, 50)(torch.ones(3), seeded(1)) <= 1


class TestSparseVector:
    MECHANISM = SparseVector(1.0, 1.0, 1.0, 1.0)

    @staticmethod
    def law(answers: list[int], threshold: int, loss: float, steps: int) -> np.ndarray:
        """P(first above = k), and last P(none), summed over every value of the threshold's noise."""

        def masses(scale: float, x: np.ndarray) -> np.ndarray:
            r = math.exp(-1 / scale)
            return (1 - r) / (1 + r) * r ** np.abs(x)

        def reaches(scale: float, at: np.ndarray) -> np.ndarray:
            r = math.exp(-1 / scale)
            return np.where(at > 0, r ** np.maximum(at, 0) / (1 + r), 1 - r ** np.maximum(1 - at, 0) / (1 + r))

        noise = np.arange(-400, 401)
        weight, out, below = masses(2 * steps / loss, noise), [], np.ones(len(noise))
        for answer in answers:
            chance = reaches(4 * steps / loss, threshold + noise - answer)
            out.append((weight * below * chance).sum())
            below = below * (1 - chance)
        return np.array([*out, (weight * below).sum()])

    def test_its_law(self) -> None:
        rng, answers = seeded(8), torch.tensor([0.0, 3.0, -2.0])
        drawn = [self.MECHANISM(answers, rng) for _ in range(6000)]
        counts = np.bincount([3 if one is None else one for one in drawn], minlength=4)
        law = self.law([0, 3, -2], 1, 1.0, 2)
        assert law.sum() == pytest.approx(1, abs=1e-9)
        assert stats.chisquare(counts, 6000 * law / law.sum()).pvalue > 1e-6

    @pytest.mark.parametrize("moves", [(2, 2, 2, 2), (-2, -2, -2, 2), (2, -2, 2, -2), (-2, -2, -2, -2)])
    def test_the_loss_holds_for_every_outcome_at_the_full_sensitivity(self, moves: tuple[int, ...]) -> None:
        base = [0, -3, -1, 6]
        one, other = (self.law(each, 1, 1.0, 2) for each in (base, [a + b for a, b in zip(base, moves, strict=True)]))
        assert np.abs(np.log(one / other)).max() <= 1.0

    def test_clear_cases(self) -> None:
        assert SparseVector(100.0, 10.0)(torch.tensor([0.0, 0, 300, 0]), seeded(1)) == 2
        assert SparseVector(1e6, 1.0)(torch.zeros(4), seeded(1)) is None


def test_pure_events() -> None:
    assert pure_event(0) == events.NoOpDpEvent()
    assert epsilon(pure_event(700), 0)[0] == pytest.approx(700)
    for loss in (-1.0, 701.0, math.nan):
        with pytest.raises(InputError, match="pure loss"):
            pure_event(loss)
    from privet.accounting import Sensitivity

    assert Exponential(1e-3).event(Sensitivity("record").bounded(linf=1.0)) == events.NonPrivateDpEvent()
