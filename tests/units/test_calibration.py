"""Calibration both ways: against closed forms, dp_accounting's own search, and itself turned round."""

from __future__ import annotations

import doctest
import json
import math

import pytest
from dp_accounting import dp_event as events
from dp_accounting import mechanism_calibration
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from privet.accounting import calibration
from privet.accounting.accountants import epsilon
from privet.accounting.calibration import event_of, noise_multiplier_for
from privet.apps.cli.main import main
from privet.errors import InputError

RATE, STEPS = 64 / 6000, 7500


def analytic_noise(eps: float, delta: float) -> float:
    """Balle and Wang (ICML 2018), theorem 8, solved for sigma; sensitivity 1."""

    def excess(noise: float) -> float:
        return float(
            math.exp(log_ndtr(0.5 / noise - eps * noise)) - math.exp(eps + log_ndtr(-0.5 / noise - eps * noise)) - delta
        )

    return float(brentq(excess, 1e-2, 1e3, xtol=1e-12))


class TestNoise:
    @pytest.mark.parametrize("wanted", [0.1, 1.0, 8.0])
    def test_gaussian_against_the_analytic_mechanism(self, wanted: float) -> None:
        found = noise_multiplier_for(events.GaussianDpEvent, wanted, 1e-5)
        exact = analytic_noise(wanted, 1e-5)
        assert exact <= found.noise_multiplier <= exact * 1.002
        assert (found.accountant, found.epsilon <= wanted) == ("pld", True)

    def test_a_sampled_gaussian_against_the_search_of_dp_accounting(self) -> None:
        def made(noise: float) -> events.DpEvent:
            return events.SelfComposedDpEvent(event_of("gaussian", noise, 0.05), 50)

        bracket = mechanism_calibration.ExplicitBracketInterval(0.5, 4.0)
        theirs = mechanism_calibration.calibrate_dp_mechanism(
            lambda: PLDAccountant(value_discretization_interval=1e-3), made, 2.0, 1e-5, bracket, tol=5e-3
        )
        ours = noise_multiplier_for(lambda noise: event_of("gaussian", noise, 0.05), 2.0, 1e-5, 50)
        assert ours.noise_multiplier == pytest.approx(theirs, rel=1e-2)

    def test_a_schedule_of_private_training(self) -> None:
        found = noise_multiplier_for(lambda noise: event_of("gaussian", noise, RATE), 1.0, 1e-5, STEPS)
        assert found.noise_multiplier == pytest.approx(3.55, rel=0.01)

    @pytest.mark.parametrize("mechanism", ["laplace", "geometric"])
    def test_pure_noise_is_the_number_of_releases_over_epsilon(self, mechanism: calibration.Noise) -> None:
        found = noise_multiplier_for(lambda noise: event_of(mechanism, noise), 0.25, 0.0, 4)
        assert 16 <= found.noise_multiplier <= 16 * 1.001
        assert found.accountant == "pure"

    @settings(max_examples=8, derandomize=True)
    @given(
        mechanism=st.sampled_from(["laplace", "geometric", "discrete-gaussian"]),
        wanted=st.floats(0.05, 20),
        count=st.integers(1, 50),
    )
    def test_the_way_back(self, mechanism: calibration.Noise, wanted: float, count: int) -> None:
        found = noise_multiplier_for(lambda noise: event_of(mechanism, noise), wanted, 1e-5, count)
        assert epsilon(event_of(mechanism, found.noise_multiplier), 1e-5, count=count)[0] == found.epsilon <= wanted
        assert epsilon(event_of(mechanism, found.noise_multiplier * 0.998), 1e-5, count=count)[0] > wanted

    def test_discrete_gaussian_needs_a_little_more_than_continuous(self) -> None:
        discrete = noise_multiplier_for(lambda noise: event_of("discrete-gaussian", noise), 1.0, 1e-5, 100)
        continuous = noise_multiplier_for(lambda noise: event_of("gaussian", noise), 1.0, 1e-5, 100)
        assert 1 <= discrete.noise_multiplier / continuous.noise_multiplier < 1.2

    def test_an_epsilon_that_any_noise_keeps(self) -> None:
        assert noise_multiplier_for(lambda noise: events.NoOpDpEvent(), 1.0, 0.0).noise_multiplier <= 1


class TestRefusals:
    @pytest.mark.parametrize("wanted", [0.0, -1.0, math.nan, math.inf])
    def test_epsilon(self, wanted: float) -> None:
        with pytest.raises(InputError, match="epsilon"):
            noise_multiplier_for(events.LaplaceDpEvent, wanted, 1e-5)

    def test_gaussian_noise_is_never_purely_private(self) -> None:
        with pytest.raises(InputError, match="raise delta"):
            noise_multiplier_for(events.GaussianDpEvent, 1.0, 0.0)

    @pytest.mark.parametrize(
        ("mechanism", "noise", "rate"),
        [("noise", 1, 1), ("laplace", 0, 1), ("laplace", math.inf, 1), ("laplace", 1, 0)],
    )
    def test_events(self, mechanism: calibration.Noise, noise: float, rate: float) -> None:
        with pytest.raises(InputError):
            event_of(mechanism, noise, rate)


class TestCommand:
    def call(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["privacy", "calibrate", *arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    def test_both_ways(self, capsys: pytest.CaptureFixture[str]) -> None:
        common = (
            "--mechanism",
            "laplace",
            "--delta",
            "1e-5",
            "--sampling-rate",
            "0.0106667",
            "--steps",
            "7500",
            "--json",
        )
        status, out, _ = self.call(capsys, *common, "--epsilon", "1")
        noise = json.loads(out)
        assert status == 0
        assert noise.keys() >= {"noise_multiplier", "accountant", "unit", "relation", "delta", "steps", "sampling_rate"}
        assert (noise["unit"], noise["relation"]) == ("record", "add-or-remove-one")
        status, out, _ = self.call(capsys, *common, "--noise-multiplier", str(noise["noise_multiplier"]))
        assert status == 0
        assert json.loads(out)["epsilon"] == noise["epsilon"]

    def test_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, out, _ = self.call(capsys, "--mechanism", "geometric", "--noise-multiplier", "2", "--delta", "0")
        assert (status, "epsilon 0.5 per record (add-or-remove-one)" in out) == (0, True)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "one is needed"),
            (("--epsilon", "1", "--noise-multiplier", "1"), "not both"),
            (("--epsilon", "-1"), "epsilon is -1"),
            (("--noise-multiplier", "0"), "noise multiplier is 0"),
            (("--epsilon", "1", "--delta", "2"), "delta is 2"),
            (("--epsilon", "1", "--sampling-rate", "1.5"), "sampling rate is 1.5"),
            (("--epsilon", "1", "--steps", "0"), "steps"),
            (("--epsilon", "1", "--sampling-rate", "0.1", "--relation", "replace-one"), "add-or-remove-one"),
            (("--epsilon", "word"), "not a valid float"),
        ],
    )
    def test_refusals_are_one_line(
        self, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
    ) -> None:
        status, out, err = self.call(capsys, "--mechanism", "gaussian", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert says in err


def test_its_examples_run() -> None:
    assert doctest.testmod(calibration).failed == 0
