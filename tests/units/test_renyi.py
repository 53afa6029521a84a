"""Renyi divergences: vectors against dp_accounting's loops, closed forms against sums over all outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event as events
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.accounting import renyi
from privet.accounting.accountants import Accountant, epsilon
from privet.accounting.renyi import ORDERS, divergences

Gaussian, Laplace, Sampled = events.GaussianDpEvent, events.LaplaceDpEvent, events.PoissonSampledDpEvent
WHOLE = [n for n, order in enumerate(ORDERS) if order in (2, 3, 8, 32)]


def by_dp_accounting(leaves: list[tuple[events.DpEvent, int]]) -> np.ndarray:
    accountant = RdpAccountant(orders=ORDERS)
    for leaf, count in leaves:
        accountant.compose(leaf, count)
    return np.asarray(accountant._rdp)


def by_summing(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    ratio = np.log(left) - np.log(right)
    return np.array(
        [np.log((right * np.exp(order * ratio)).sum()) / (order - 1) for order in ORDERS[41:] if order <= 40]
    )


def between(one: events.DpEvent) -> np.ndarray:
    found = divergences([(one, 1)])
    assert found is not None
    return found[41 : 41 + sum(order <= 40 for order in ORDERS[41:])]


def test_orders_that_do_not_converge_are_not_the_users_worry(caplog: pytest.LogCaptureFixture) -> None:
    renyi._one_sampled_gaussian.cache_clear()
    found = divergences([(Sampled(0.08, Gaussian(1.0)), 1)])
    assert found is not None
    assert np.isinf(found).any()
    assert not caplog.records


class TestVectors:
    @settings(max_examples=20, derandomize=True)
    @given(noises=st.lists(st.floats(0.2, 100), min_size=1, max_size=6), count=st.integers(1, 9))
    def test_gaussian_and_laplace(self, noises: list[float], count: int) -> None:
        leaves = [(kind(noise), count) for noise in noises for kind in (Gaussian, Laplace)]
        assert divergences(leaves) == pytest.approx(by_dp_accounting(leaves), rel=1e-9)

    def test_few_sampled_gaussians(self) -> None:
        leaves = [(Sampled(0.01, Gaussian(noise)), 3) for noise in (0.8, 2.0)]
        assert divergences(leaves) == pytest.approx(by_dp_accounting(leaves), rel=1e-9)

    def test_many_sampled_gaussians_at_whole_orders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        leaves = [(Sampled(rate, Gaussian(noise)), 3) for noise in (0.8, 2.0) for rate in (0.01, 0.3)]
        monkeypatch.setattr(renyi, "_FEW", 1)
        found = divergences(leaves)
        assert found is not None
        assert found[WHOLE] == pytest.approx(by_dp_accounting(leaves)[WHOLE], rel=1e-9)
        assert math.isinf(found[0])

    def test_composed_inside_a_sample(self) -> None:
        leaves = [(Sampled(0.01, events.ComposedDpEvent([Gaussian(2.0), Gaussian(3.0)])), 2)]
        assert divergences(leaves) == pytest.approx(by_dp_accounting(leaves), rel=1e-9)
        assert math.isfinite(epsilon(leaves[0][0], 1e-5)[0])

    def test_what_nobody_knows(self) -> None:
        assert divergences([(events.UnsupportedDpEvent(), 1)]) is None
        assert divergences([(Sampled(0.5, events.UnsupportedDpEvent()), 1)]) is None


class TestClosedForms:
    @pytest.mark.parametrize("shift", [1, 2, 5])
    @pytest.mark.parametrize("loss", [0.05, 0.5, 2.0])
    def test_discrete_laplace(self, loss: float, shift: int) -> None:
        x = np.arange(-1500, 1500)
        left, right = (np.exp(-loss * np.abs(x - at)) for at in (0, shift))
        exact = by_summing(left / left.sum(), right / right.sum()) if loss < 0.4 else None
        found = between(events.DiscreteLaplaceDpEvent(loss, shift))
        if exact is None:  # the tails underflow: sum fewer
            keep = np.abs(x) < 300 / loss
            exact = by_summing(left[keep] / left.sum(), right[keep] / right.sum())
        assert found == pytest.approx(exact, rel=1e-6)

    @pytest.mark.parametrize("buckets", [2, 3, 10])
    def test_randomised_response(self, buckets: int) -> None:
        left = np.full(buckets, 0.4 / buckets)
        left[0] += 0.6
        found = between(events.RandomizedResponseDpEvent(0.4, buckets))
        assert found == pytest.approx(by_summing(left, np.roll(left, 1)), rel=1e-9)
        assert between(events.RandomizedResponseDpEvent(0.4, 1)).max() == 0

    def test_zero_concentrated(self) -> None:
        assert divergences([(events.ZCDpEvent(0.5, 0.1), 2)]) == pytest.approx(0.2 + ORDERS)


class TestSamplingOfAnything:
    @pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
    def test_the_general_bound_is_above_what_gaussian_noise_costs(self, rate: float) -> None:
        general = divergences([(Sampled(rate, events.ZCDpEvent(0.125)), 1)])  # what sigma 2 costs
        exact = by_dp_accounting([(Sampled(rate, Gaussian(2.0)), 1)])
        assert general is not None
        assert (general[WHOLE] >= exact[WHOLE] * (1 - 1e-12)).all()
        assert general[WHOLE[0]] <= 1.2 * exact[WHOLE[0]]

    def test_it_is_above_what_distributions_say_of_laplace_noise(self) -> None:
        event = Sampled(0.05, Laplace(2.0))
        assert Accountant("rdp").compose(event, 300).epsilon(1e-5) >= Accountant("pld").compose(event, 300).epsilon(
            1e-5
        )

    def test_a_sample_of_all_is_no_sample(self) -> None:
        assert divergences([(Sampled(1.0, Laplace(2.0)), 1)]) == pytest.approx(divergences([(Laplace(2.0), 1)]))


class TestManyDistinctEvents:
    NOISES = np.random.default_rng(0).uniform(20, 60, 60)

    @pytest.mark.parametrize("kind", [Gaussian, Laplace])
    @pytest.mark.parametrize("rate", [1.0, 0.2])
    def test_rounding_noise_down_costs_a_little_more(self, kind: type, rate: float) -> None:
        one = [kind(float(noise)) for noise in self.NOISES]
        sampled = events.ComposedDpEvent(one if rate == 1 else [Sampled(rate, each) for each in one])
        accountant = Accountant("pld").compose(sampled, 10)
        figure = accountant.epsilon(1e-5)
        least = Accountant("pld").compose(Sampled(rate, kind(60.0)), 600).epsilon(1e-5)
        most = Accountant("pld").compose(Sampled(rate, kind(20.0)), 600).epsilon(1e-5)
        assert least < figure < most
        if kind is Gaussian and rate == 1:
            together = Gaussian(float((10 * (self.NOISES**-2.0).sum()) ** -0.5))
            assert figure == pytest.approx(Accountant("pld").compose(together).epsilon(1e-5), rel=1e-4)

    def test_too_many_kinds_are_left_to_others(self) -> None:
        kinds = events.ComposedDpEvent([Sampled(rate, Laplace(9.0)) for rate in np.linspace(0.1, 0.5, 60)])
        assert Accountant("pld").compose(kinds).epsilon(1e-5) == math.inf
        assert epsilon(kinds, 1e-5)[1] in ("rdp", "pure")
