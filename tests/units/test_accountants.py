"""Epsilon by two routes: the accountants against closed forms and against each other."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys

import pytest
from dp_accounting import dp_event as events
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from privet.accounting import Sensitivity, accountants
from privet.accounting.accountants import Accountant, epsilon, guarantee
from privet.errors import InputError

Gaussian, Laplace, Sampled = events.GaussianDpEvent, events.LaplaceDpEvent, events.PoissonSampledDpEvent
COMPOSED = events.ComposedDpEvent([Laplace(2.0), events.SelfComposedDpEvent(Gaussian(3.0), 5)])


def analytic_gaussian(noise: float, delta: float) -> float:
    """Balle and Wang (ICML 2018), theorem 8, solved for epsilon; sensitivity 1."""

    def excess(eps: float) -> float:
        upper = math.exp(log_ndtr(0.5 / noise - eps * noise))
        return upper - math.exp(eps + log_ndtr(-0.5 / noise - eps * noise)) - delta

    return float(brentq(excess, 0, 10 / noise + 5 / noise**2, xtol=1e-12)) if excess(0) > 0 else 0.0


class TestGaussian:
    @pytest.mark.parametrize("noise", [0.1, 0.5, 1.0, 3.0, 20.0])
    @pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
    def test_the_analytic_gaussian_mechanism(self, noise: float, delta: float) -> None:
        exact = analytic_gaussian(noise, delta)
        figure, name = epsilon(Gaussian(noise), delta)
        assert name == "pld"
        assert exact * (1 - 1e-9) <= figure <= exact * (1 + 1e-3) + 1e-6

    @pytest.mark.parametrize("count", [10, 1000])
    def test_releases_compose_to_one_of_less_noise(self, count: int) -> None:
        exact = analytic_gaussian(30 / math.sqrt(count), 1e-5)
        assert exact <= epsilon(Gaussian(30.0), 1e-5, count=count)[0] <= exact * (1 + 1e-3)

    def test_renyi_is_an_upper_bound_and_close(self) -> None:
        exact = analytic_gaussian(1.0, 1e-5)
        assert exact <= Accountant("rdp").compose(Gaussian(1.0)).epsilon(1e-5) <= 1.1 * exact

    def test_no_pure_guarantee(self) -> None:
        assert epsilon(Gaussian(1.0), 0) == (math.inf, "none")


class TestLaplace:
    def test_one_release_is_purely_private(self) -> None:
        assert epsilon(Laplace(0.5), 0) == (2.0, "pure")
        assert epsilon(Laplace(0.5), 0, count=3920) == (7840.0, "pure")

    def test_one_release_at_a_delta(self) -> None:
        # delta(epsilon) = 1 - exp((epsilon - 1 / b) / 2) for 0 <= epsilon <= 1 / b
        exact = 2 + 2 * math.log1p(-1e-2)
        assert exact <= epsilon(Laplace(0.5), 1e-2)[0] <= exact + 1e-3

    @pytest.mark.parametrize(("claimed", "record_level"), [(1, 1657), (2, 4786), (10, 35_729)])
    def test_what_a_claim_per_coordinate_means_for_a_record(self, claimed: float, record_level: int) -> None:
        figure, name = epsilon(events.SelfComposedDpEvent(Laplace(1 / claimed), 3920), 1e-5)
        assert (round(figure), name) == (record_level, "pld")

    def test_eighty_releases_of_a_record(self) -> None:
        figure, name = epsilon(events.SelfComposedDpEvent(Laplace(0.5), 3920), 1e-5, count=80)
        assert name == "pld"
        assert 359_083 <= figure <= 359_100  # 359,084 with a grid 50 times finer

    def test_a_batch_of_records_is_left_to_the_renyi_accountant(self) -> None:
        figure, name = epsilon(Laplace(0.5), 1e-5, count=64 * 313_600)
        assert name == "rdp"
        assert 22_811_000 <= figure <= 22_815_000  # PLD with a fine grid: 22,811,299

    def test_the_smallest_noise_needed_for_a_record(self) -> None:
        assert epsilon(Laplace(1 / 0.025), 1e-5, count=3920)[0] == pytest.approx(7.38, abs=0.01)
        assert epsilon(Laplace(1 / 0.0028), 1e-5, count=313_600)[0] == pytest.approx(7.43, abs=0.01)


class TestSampling:
    EVENT = Sampled(64 / 6000, Gaussian(1.99))

    def test_a_schedule_of_private_training(self) -> None:
        theirs = PLDAccountant(value_discretization_interval=1e-4).compose(self.EVENT, 7500).get_epsilon(1e-5)
        ours, name = epsilon(self.EVENT, 1e-5, count=7500)
        assert name == "pld"
        assert ours == pytest.approx(theirs, rel=1e-3)
        assert ours == pytest.approx(2.0, abs=0.01)

    def test_sampled_laplace_is_amplified(self) -> None:
        event = Sampled(0.01, Laplace(0.5))
        assert epsilon(event, 0) == (pytest.approx(math.log(1 + 0.01 * math.expm1(2))), "pure")
        assert epsilon(event, 1e-5, count=1000)[0] == pytest.approx(2.685, abs=0.005)
        assert Accountant("pure").compose(Sampled(0.5, Laplace(1e-4))).epsilon(0) == pytest.approx(1e4, abs=1)

    def test_sampling_nobody_or_everybody(self) -> None:
        assert epsilon(Sampled(0, Laplace(0.5)), 0)[0] == 0
        assert epsilon(Sampled(1, Laplace(0.5)), 0)[0] == pytest.approx(2)
        assert epsilon(Sampled(0.5, Gaussian(1.0)), 0)[0] == math.inf

    def test_sampling_is_not_priced_for_replaced_records(self) -> None:
        with pytest.raises(InputError, match="add-or-remove-one"):
            guarantee("x", self.EVENT, Sensitivity("record"), 1e-5, 1)
        added = Sensitivity("record", "add-or-remove-one")
        assert guarantee("x", self.EVENT, added, 1e-5, 1).formal


class TestComposition:
    @settings(max_examples=10, derandomize=True)
    @given(noise=st.floats(0.1, 50), count=st.integers(1, 300), delta=st.sampled_from([1e-3, 1e-6]))
    def test_every_accountant_is_above_what_the_finest_says(self, noise: float, count: int, delta: float) -> None:
        best, _ = epsilon(Laplace(noise), delta, count=count)
        mean = count * (1 / noise + math.expm1(-1 / noise))
        assert best <= count / noise
        # One half of all outcomes lose more than the median; no bound can be much below the mean.
        assert best >= mean - 3 * math.sqrt(count) / noise
        for name in ("pld", "rdp", "pure"):
            assert Accountant(name).compose(Laplace(noise), count).epsilon(delta) >= best

    @pytest.mark.parametrize("name", ["pld", "rdp"])
    def test_the_order_and_nesting_of_events_do_not_matter(self, name: accountants.Name) -> None:
        one = Accountant(name).compose(COMPOSED, 2).epsilon(1e-5)
        other = Accountant(name).compose(Gaussian(3.0), 10).compose(Laplace(2.0), 2).epsilon(1e-5)
        assert one == pytest.approx(other, rel=1e-6)

    def test_two_kinds_of_noise_cost_less_than_their_sum(self) -> None:
        both, first = epsilon(COMPOSED, 1e-5)[0], epsilon(Laplace(2.0), 0)[0]
        second = epsilon(Gaussian(3.0), 1e-5, count=5)[0]
        assert max(first, second) < both < first + second

    def test_nothing_costs_nothing(self) -> None:
        for event in (events.NoOpDpEvent(), events.SelfComposedDpEvent(Laplace(1.0), 0), events.ComposedDpEvent([])):
            assert epsilon(event, 0) == (0.0, "pure")
        assert epsilon(Laplace(1.0), 1e-5, count=0)[0] == 0
        assert Accountant("pld").epsilon(1e-5) == 0

    @pytest.mark.parametrize(
        "nothing", [events.NonPrivateDpEvent(), Laplace(0), Gaussian(0), Sampled(0.1, Gaussian(0))]
    )
    def test_no_noise_is_no_guarantee(self, nothing: events.DpEvent) -> None:
        assert epsilon(events.ComposedDpEvent([Laplace(1.0), nothing]), 1e-5) == (math.inf, "none")

    def test_a_delta_that_rounding_would_drown_is_left_to_others(self) -> None:
        assert Accountant("pld").compose(Laplace(2.0), 1000).epsilon(1e-13) == math.inf
        assert Accountant("rdp").compose(Laplace(2.0), 1000).epsilon(0) == math.inf
        assert epsilon(Laplace(2.0), 1e-13, count=1000)[1] == "rdp"

    def test_a_large_delta_costs_nothing(self) -> None:
        assert epsilon(Laplace(100.0), 0.5)[0] == 0
        assert Accountant("rdp").compose(Laplace(100.0)).epsilon(0.5) == 0


class TestRefusals:
    @pytest.mark.parametrize("delta", [-0.1, 1.0, math.nan])
    def test_delta(self, delta: float) -> None:
        with pytest.raises(InputError, match="delta"):
            epsilon(Laplace(1.0), delta)

    @pytest.mark.parametrize("count", [-1, 0.5])
    def test_count(self, count: float) -> None:
        with pytest.raises(InputError, match="times"):
            epsilon(Laplace(1.0), 1e-5, count=count)  # type: ignore[arg-type]

    def test_events_that_an_accountant_does_not_know(self) -> None:
        odd = events.UnsupportedDpEvent()
        with pytest.raises(InputError, match="no accountant"):
            epsilon(odd, 1e-5)
        for name in ("pld", "rdp", "pure"):
            with pytest.raises(InputError, match=f"'{name}' can't price"):
                Accountant(name).compose(odd).epsilon(1e-5)

    def test_an_event_that_one_accountant_knows_is_enough(self) -> None:
        assert epsilon(events.ZCDpEvent(0.5), 1e-5)[1] == "rdp"
        with pytest.raises(InputError, match="'pure' can't"):
            Accountant("pure").compose(Sampled(0.5, events.ZCDpEvent(0.5))).epsilon(0)


def test_a_guarantee_never_lacks_its_unit() -> None:
    stated = guarantee("features", Laplace(0.5), Sensitivity("coordinate", dimension=3920), 0, 3)
    assert stated.to_json() == {
        "claim": "features", "unit": "coordinate", "relation": "replace-one", "epsilon": 6.0, "delta": 0,
        "releases": 3, "accountant": "pure",
    }  # fmt: skip
    none = guarantee("features", events.NonPrivateDpEvent(), Sensitivity("device"), 1e-5, 1)
    assert (none.formal, none.to_json()["epsilon"], none.accountant) == (False, None, "none")


def test_its_examples_run() -> None:
    assert doctest.testmod(accountants).failed == 0


def test_importing_the_words_does_not_import_the_accountants() -> None:
    code = "import sys, privet.accounting; sys.exit('dp_accounting' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
