"""Discrete noise and choices: their laws by chi-square, their exact arithmetic, their costs by two routes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from decimal import Decimal, getcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from dp_accounting import dp_event as events
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from scipy import stats
from torch import Tensor

from privet.accounting import Sensitivity
from privet.accounting.accountants import Accountant, epsilon
from privet.errors import PartError
from privet.mechanisms import integer_noise
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.discrete_gaussian import DiscreteGaussian
from privet.mechanisms.exponential import Exponential
from privet.mechanisms.geometric import Geometric
from privet.mechanisms.integer_noise import discrete_gaussian, discrete_laplace, rounded, to_grid
from privet.mechanisms.randomised_response import RandomisedResponse
from privet.randomness import seeded, system

N = 60_000
ADDED = Sensitivity("record", "add-or-remove-one", dimension=4)


def laplace_masses(scale: float, far: int) -> np.ndarray:
    masses = np.exp(-np.abs(np.arange(-far, far + 1)) / scale)
    return masses / masses.sum()


def gaussian_masses(sigma: float, far: int) -> np.ndarray:
    masses = np.exp(-(np.arange(-far, far + 1.0) ** 2) / (2 * sigma**2))
    return masses / masses.sum()


def fits(sample: Tensor, masses: np.ndarray) -> bool:
    """Whether a chi-square test lets a law on -far..far pass; it fails a right one once in a million runs."""
    far = len(masses) // 2
    counts = np.bincount(np.clip(sample.numpy().ravel(), -far, far) + far, minlength=len(masses))
    expected = masses * sample.numel()
    wide = expected >= 5
    counts, expected = (np.append(one[wide], one[~wide].sum()) for one in (counts, expected))
    if expected[-1] < 1:
        counts, expected = counts[:-1], expected[:-1]
    return bool(stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-6)


def exact_delta(masses: np.ndarray, shift: int, eps: float) -> float:
    """The hockey-stick divergence of a law from itself shifted, summed point by point."""
    left, right = np.pad(masses, (shift, 0)), np.pad(masses, (0, shift))
    return float(np.maximum(left - math.exp(eps) * right, 0).sum())


class TestSamplers:
    @pytest.mark.parametrize("rng", [seeded(3), system()], ids=["seeded", "system"])
    @pytest.mark.parametrize("scale", [0.3, 1.0, 4.7])
    def test_discrete_laplace(self, rng: Any, scale: float) -> None:
        assert fits(discrete_laplace(rng, scale, (N // 4, 4)), laplace_masses(scale, 40))

    @pytest.mark.parametrize("rng", [seeded(3), system()], ids=["seeded", "system"])
    @pytest.mark.parametrize("sigma", [0.3, 1.0, 5.5])
    def test_discrete_gaussian(self, rng: Any, sigma: float) -> None:
        assert fits(discrete_gaussian(rng, sigma, (N // 4, 4)), gaussian_masses(sigma, 40))

    def test_a_wrong_law_fails_the_test(self) -> None:
        assert not fits(discrete_laplace(seeded(3), 1.0, (N,)), laplace_masses(1.05, 40))
        assert not fits(discrete_gaussian(seeded(3), 2.0, (N,)), gaussian_masses(2.1, 40))

    def test_a_fine_grid_looks_continuous(self) -> None:
        noise = discrete_gaussian(seeded(4), 2.0**20, (N,)).double() / 2**20
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6
        assert stats.kstest(discrete_laplace(seeded(4), 2.0**20, (N,)).double() / 2**20, "laplace").pvalue > 1e-6

    def test_no_values(self) -> None:
        assert discrete_gaussian(seeded(1), 1.0, (0, 3)).shape == (0, 3)

    def test_floats_decide_as_exact_arithmetic_does(self) -> None:
        quick, slow = seeded(9), seeded(9)
        unit = quick.uniform((500,)).numpy()
        ideal = np.floor(-2.5 * np.log(unit))
        exact = [integer_noise._exact_floor(slow, 2.5, float(one)) for one in unit]
        assert exact == ideal.astype(int).tolist()
        for size, one in zip(range(40), unit, strict=False):
            chance = math.exp(-((size % 7 - 6.25 / 3) ** 2) / 12.5)
            assert integer_noise._exactly_below(slow, float(one), size % 7, 2.5, 3) == (one <= chance)

    def test_the_edge_of_a_decision_is_split_by_more_bits(self) -> None:
        chance = math.exp(-((2 - Fraction(1, 2)) ** 2) / 2)
        unit = math.ceil(chance * 2**53) / 2**53  # the step of uniforms in which the chance lies
        rng = seeded(2)
        below = sum(integer_noise._exactly_below(rng, unit, 2, 1.0, 2) for _ in range(2000)) / 2000
        getcontext().prec = 60
        part = (Decimal("-1.125").exp() * 2**53) % 1
        assert below == pytest.approx(float(part), abs=0.05)

    def test_the_smallest_uniform_is_far_out_but_finite(self) -> None:
        drawn = {integer_noise._exact_floor(seeded(seed), 1.0, 2.0**-53) for seed in range(20)}
        assert min(drawn) >= 36
        assert max(drawn) < 120

    def test_power_zero_is_always_taken(self) -> None:
        assert integer_noise._exactly_below(seeded(1), 1.0, 2, 2.0, 2)

    def test_uniforms_that_leave_a_doubt_take_the_exact_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = seeded(1)
        monkeypatch.setattr(rng, "uniform", lambda shape: torch.full(shape, 2.0**-53, dtype=torch.float64))
        assert integer_noise._geometric(rng, 3.0, 2).min() >= 110
        monkeypatch.setattr(rng, "uniform", lambda shape: torch.full(shape, math.exp(-1.125), dtype=torch.float64))
        assert len(integer_noise._accepts(rng, np.array([2, 2]), 1.0, 2)) == 2


class TestRounding:
    def test_the_nearest_step(self) -> None:
        value = torch.tensor([0.24, 0.26, -0.76, math.nan, math.inf, -1e30])
        assert to_grid(value, 0.5).tolist() == [0, 1, -2, 0, 2**52, -(2**52)]

    @pytest.mark.parametrize("granularity", [0.1, 0.0, 2.0**-41, math.nan])
    def test_a_granularity_is_a_power_of_two(self, granularity: float) -> None:
        with pytest.raises(PartError, match="granularity"):
            Geometric(1.0, granularity)

    def test_growth(self) -> None:
        grown = rounded(Sensitivity("record", dimension=4).bounded(l1=2.0, l2=1.5, linf=0.75), 0.5)
        assert (grown.l1, grown.linf) == (4.0, 1.0)
        assert grown.l2 == pytest.approx(min(1.5 + 1.0, 2.0))

    def test_worst_cases_reach_it(self) -> None:
        grown = rounded(Sensitivity("record", dimension=1).bounded(l1=1.0), 1.0)
        moved = to_grid(torch.tensor([1.5]), 1.0) - to_grid(torch.tensor([0.5]), 1.0)  # to even: 2 and 0
        assert grown.linf == 2.0 == moved.item()

    def test_what_leaves_lies_on_the_grid(self) -> None:
        for mechanism in (Geometric(2.0, 0.25), DiscreteGaussian(2.0, 0.25)):
            out = mechanism(torch.randn(50, 4), seeded(1)) * 4
            assert torch.equal(out, out.round())

    def test_noise_is_added_to_the_value(self) -> None:
        value = torch.full((200, 100), 5.0)
        assert (Geometric(3.0)(value, seeded(1)) - 5).abs().mean().item() == pytest.approx(3.0, rel=0.02)
        assert (DiscreteGaussian(3.0)(value, seeded(1)) - 5).std().item() == pytest.approx(3.0, rel=0.02)


class TestGeometricCost:
    def test_the_event(self) -> None:
        # l1 clip of 2, grid of 1: at most 2 + 4 steps in all and 3 in one value
        chain = Chain((Clip(2.0, "l1"), Geometric(6.0, 1.0)))
        assert chain.event(ADDED) == events.SelfComposedDpEvent(events.DiscreteLaplaceDpEvent(1 / 6, 3), 2)
        assert epsilon(chain.event(ADDED), 0) == (pytest.approx(1.0), "pure")

    def test_what_is_left_of_the_steps_goes_to_one_value_more(self) -> None:
        one = Sensitivity("record", "add-or-remove-one", dimension=3)
        event = Chain((Clip(2.0, "l1"), Geometric(5.0, 1.0))).event(one)  # 2 + 3 steps, at most 3 in one value
        each = events.DiscreteLaplaceDpEvent
        assert event == events.ComposedDpEvent([each(0.2, 3), each(0.2, 2)])
        assert epsilon(event, 0)[0] == pytest.approx(1.0)
        assert epsilon(events.PoissonSampledDpEvent(0.1, event), 0)[0] == pytest.approx(math.log1p(0.1 * math.expm1(1)))
        assert math.isfinite(Accountant("rdp").compose(events.PoissonSampledDpEvent(0.1, event)).epsilon(1e-5))

    def test_a_fine_grid_costs_what_continuous_noise_costs(self) -> None:
        fine = epsilon(Chain((Clip(2.0, "linf"), Geometric(6.0, 2.0**-20))).event(ADDED), 0)[0]
        assert fine == pytest.approx(4 * 2 / 6, rel=1e-5)

    @pytest.mark.parametrize("shift", [1, 3])
    @pytest.mark.parametrize("delta", [1e-2, 1e-4])
    def test_delta_by_summing_every_outcome(self, shift: int, delta: float) -> None:
        figure = Accountant("pld").compose(events.DiscreteLaplaceDpEvent(0.7, shift)).epsilon(delta)
        masses = laplace_masses(1 / 0.7, 80)
        assert exact_delta(masses, shift, figure) <= delta * (1 + 1e-9)
        assert figure == 0 or exact_delta(masses, shift, figure - 2e-3) > delta

    def test_no_split_of_the_steps_costs_more_than_the_event(self) -> None:
        """Two steps in one value cost at least one step in each of two, at every epsilon."""
        masses = laplace_masses(2.0, 60)
        x = np.arange(-62, 63)
        for eps in np.linspace(0, 1, 9):
            one = np.exp(-np.abs(x) / 2), np.exp(-np.abs(x - 1) / 2)
            left, right = (np.outer(side, side) / np.exp(-np.abs(x) / 2).sum() ** 2 for side in one)
            split = np.maximum(left - math.exp(eps) * right, 0).sum()
            assert split <= exact_delta(masses, 2, eps) + 1e-9


class TestDiscreteGaussianCost:
    def test_the_event(self) -> None:
        chain = Chain((Clip(3.0), DiscreteGaussian(10.0, 1.0)))
        assert chain.event(ADDED) == events.ZCDpEvent(pytest.approx(0.5 * (5 / 10) ** 2))

    @pytest.mark.parametrize("sigma", [0.3, 1.0, 8.0])
    def test_the_cost_is_above_the_exact_delta(self, sigma: float) -> None:
        figure, name = epsilon(events.ZCDpEvent(0.5 / sigma**2), 1e-5)
        assert name == "rdp"
        assert exact_delta(gaussian_masses(sigma, 100), 1, figure) <= 1e-5
        assert figure <= 1.35 * epsilon(events.GaussianDpEvent(sigma), 1e-5)[0]

    def test_a_gaussian_event_would_claim_too_much(self) -> None:
        total_variation = exact_delta(gaussian_masses(0.3, 100), 1, 0.0)
        continuous = 2 * stats.norm.cdf(0.5 / 0.3) - 1
        assert total_variation > 0.99 > 0.91 > continuous


class TestRandomisedResponse:
    RECORD = Sensitivity("record", dimension=10)

    @pytest.mark.parametrize("rng", [seeded(5), system()], ids=["seeded", "system"])
    def test_how_often_the_truth_is_told(self, rng: Any) -> None:
        labels = torch.nn.functional.one_hot(torch.full((N,), 3), 10).float()
        counts = RandomisedResponse(2.0)(labels, rng).sum(0).numpy()
        truth = math.exp(2) / (math.exp(2) + 9)
        expected = np.full(10, N * (1 - truth) / 9)
        expected[3] = N * truth
        assert stats.chisquare(counts, expected).pvalue > 1e-6

    @pytest.mark.parametrize("loss", [0.5, 2.0, 6.0])
    def test_the_event_costs_the_epsilon(self, loss: float) -> None:
        event = RandomisedResponse(loss).event(self.RECORD)
        assert isinstance(event, events.RandomizedResponseDpEvent)
        assert epsilon(event, 0) == (pytest.approx(loss, abs=1e-9), "pure")
        assert epsilon(event, 0)[0] <= loss * (1 + 1e-12)  # the probability is rounded towards privacy
        kept = 1 - event.noise_parameter * 0.9
        delta = kept - math.exp(loss / 2) * event.noise_parameter / 10
        assert epsilon(event, delta)[0] == pytest.approx(loss / 2, abs=2e-3)

    def test_many_labels_compose(self) -> None:
        device = dataclasses.replace(self.RECORD, unit="device", vectors=100)
        event = RandomisedResponse(0.1).event(device)
        figure, name = epsilon(event, 1e-5)
        # One by one: dp_accounting 0.6 forgets the count of a self-composed randomised response.
        one_by_one = events.ComposedDpEvent([event.event] * 100)
        theirs = PLDAccountant(NeighboringRelation.REPLACE_ONE).compose(one_by_one).get_epsilon(1e-5)
        assert (name, figure) == ("pld", pytest.approx(theirs, rel=1e-3))
        assert figure <= Accountant("rdp").compose(event).epsilon(1e-5) <= 1.2 * figure

    def test_who_is_not_protected(self) -> None:
        nothing = events.NonPrivateDpEvent()
        mechanism = RandomisedResponse(1.0)
        assert mechanism.event(dataclasses.replace(self.RECORD, relation="add-or-remove-one")) == nothing
        assert mechanism.event(dataclasses.replace(self.RECORD, vectors=math.inf)) == nothing
        assert mechanism.event(dataclasses.replace(self.RECORD, dimension=math.inf)) == nothing
        assert mechanism.event(dataclasses.replace(self.RECORD, unit="coordinate")) == mechanism.event(self.RECORD)

    def test_any_vector_is_one_category(self) -> None:
        out = RandomisedResponse(20.0)(torch.tensor([[0.1, 7.0, -3.0], [math.nan, 0.0, 1.0]]), seeded(1))
        assert out.sum(-1).tolist() == [1, 1]
        assert out[0].tolist() == [0, 1, 0]

    def test_one_category_costs_nothing(self) -> None:
        assert epsilon(RandomisedResponse(1.0).event(Sensitivity("record", dimension=1)), 0)[0] == 0


class TestExponential:
    def test_the_law(self) -> None:
        scores = torch.tensor([0.0, 1.0, 3.0]).expand(N, 3)
        counts = Exponential(2.0)(scores, seeded(6)).sum(0).numpy()
        weights = np.exp(np.array([0, 1, 3]) / 2)
        assert stats.chisquare(counts, N * weights / weights.sum()).pvalue > 1e-6

    def test_its_epsilon_holds_for_every_pair_and_is_reached(self) -> None:
        bounded = Sensitivity("record", dimension=3).bounded(linf=1.0)
        figure = epsilon(Exponential(4.0).event(bounded), 0)[0]
        assert figure == pytest.approx(2 * 1.0 / 4.0)
        worst = 0.0
        for change in itertools.product((-1.0, 0.0, 1.0), repeat=3):
            for base in (np.zeros(3), np.array([0.0, -60, 0])):
                before, after = (np.exp((base + move) / 4) for move in (np.zeros(3), np.array(change)))
                ratio = np.log(before / before.sum()) - np.log(after / after.sum())
                worst = max(worst, float(np.abs(ratio).max()))
        assert 0.999 * figure <= worst <= figure

    def test_vectors_are_choices(self) -> None:
        device = Sensitivity("device", dimension=3, vectors=5).bounded(linf=1.0)
        assert epsilon(Exponential(4.0).event(device), 0)[0] == pytest.approx(5 * 0.5)
        unknown = dataclasses.replace(device, vectors=math.inf)
        assert Exponential(4.0).event(unknown) == events.NonPrivateDpEvent()

    def test_scores_that_are_no_numbers(self) -> None:
        out = Exponential(0.01)(torch.tensor([[math.nan, 5.0, 1.0], [math.inf, 1.0, -math.inf]]), seeded(1))
        assert out.tolist() == [[0, 1, 0], [1, 0, 0]]
