"""Noise over rounds: against its matrices, its sensitivity by brute force, and after an interruption."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from dp_accounting.dp_event import GaussianDpEvent, NonPrivateDpEvent, SingleEpochTreeAggregationDpEvent
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from scipy.special import binom

from privet.accounting import Sensitivity
from privet.accounting.accountants import Accountant, epsilon
from privet.aggregation.mean import Mean
from privet.errors import InputError
from privet.mechanisms.banded_gaussian import BandedGaussian, square_root
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.correlated import CorrelatedGaussian
from privet.mechanisms.gaussian import Gaussian
from privet.mechanisms.tree_gaussian import TreeGaussian
from privet.randomness import keyed, seeded, system
from privet.training.cohort import Cohort
from privet.training.contract import Promise
from privet.training.protocols.fedavg import Fedavg

EACH = pytest.mark.parametrize(
    "noise", [BandedGaussian(2.0, bands=4), BandedGaussian(2.0, 64), TreeGaussian(2.0)], ids=repr
)


def factor_matrix(noise: CorrelatedGaussian, rounds: int) -> np.ndarray:
    """Returns C, written out from the definitions; the tree's rows are the blocks that end a round."""
    matrix = np.zeros((rounds, rounds))
    for row, column in itertools.product(range(rounds), repeat=2):
        if isinstance(noise, BandedGaussian):
            lag = row - column
            matrix[row, column] = binom(2 * lag, lag) / 4**lag if 0 <= lag < noise.bands else 0
        else:
            size = (row + 1) & -(row + 1)
            matrix[row, column] = row + 1 - size <= column <= row
    return matrix


def noise_over(noise: CorrelatedGaussian, rounds: int, values: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Returns the noise that a run gets, and the fresh draws that it was made of, (rounds, values)."""
    apply, zero = noise.stream(seeded(3)), torch.zeros(values)
    got = np.stack([apply(zero, round).double().numpy() for round in range(1, rounds + 1)])
    fresh = np.stack([seeded(3).child(round).normal((values,)).double().numpy() for round in range(1, rounds + 1)])
    return got, fresh


@EACH
@pytest.mark.parametrize("rounds", [1, 7, 16, 33])
def test_a_run_gets_the_inverse_of_the_factor_times_fresh_noise(noise: CorrelatedGaussian, rounds: int) -> None:
    got, fresh = noise_over(noise, rounds)
    np.testing.assert_allclose(factor_matrix(noise, rounds) @ got, 2.0 * fresh, atol=1e-4)


@EACH
@pytest.mark.parametrize("rounds", [1, 2, 7, 12])
@pytest.mark.parametrize("separation", [1, 2, 3, 5, 12])
def test_no_pattern_of_turns_moves_the_factor_more_than_claimed(
    noise: CorrelatedGaussian, rounds: int, separation: int
) -> None:
    matrix, worst = factor_matrix(noise, rounds), 0.0
    for turns in itertools.product((0, 1), repeat=rounds):
        places = np.flatnonzero(turns)
        if len(places) < 2 or np.diff(places).min() >= separation:
            worst = max(worst, float(np.linalg.norm(matrix @ np.array(turns))))
    claimed = noise.factor(rounds, separation)
    assert worst <= claimed + 1e-9
    if isinstance(noise, BandedGaussian) or separation >= rounds:
        assert worst == pytest.approx(claimed)


def test_the_tree_costs_what_dp_accounting_says_of_trees() -> None:
    device = Sensitivity("device", "replace-one", dimension=3).bounded(l2=1.0)
    for rounds in (1, 7, 8, 100, 1000):
        tree = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
        tree.compose(SingleEpochTreeAggregationDpEvent(2.0, rounds))
        event = TreeGaussian(2.0).run_event(device, rounds, rounds)
        assert event == GaussianDpEvent(2.0 / math.sqrt(rounds.bit_length()))
        renyi = Accountant("rdp").compose(event).epsilon(1e-5)
        assert renyi == pytest.approx(tree.get_epsilon(1e-5), rel=0.02)
        assert epsilon(event, 1e-5)[0] <= renyi


def test_sums_of_rounds_are_nearer_the_truth_at_the_same_cost() -> None:
    rounds = 256
    sums = np.tril(np.ones((rounds, rounds)))

    def error(noise: CorrelatedGaussian) -> float:
        spread = np.linalg.norm(sums @ np.linalg.inv(factor_matrix(noise, rounds))) / math.sqrt(rounds)
        return spread * noise.factor(rounds, rounds)

    independent = np.linalg.norm(sums) / math.sqrt(rounds)
    banded, tree = error(BandedGaussian(1.0, rounds)), error(TreeGaussian(1.0))
    assert banded < 0.6 * tree < tree < independent
    assert error(BandedGaussian(1.0, 16)) < 0.5 * independent


@EACH
class TestStream:
    def test_a_resumed_run_goes_on_with_the_same_noise(self, noise: CorrelatedGaussian) -> None:
        run, zero = keyed(bytes(32), "coordinator"), torch.zeros(5)
        whole = noise.stream(run)
        expected = [whole(zero, round) for round in range(1, 10)]
        resumed = noise.stream(keyed(bytes(32), "coordinator"))
        for round in (6, 7, 9):  # and a void round in between
            assert torch.equal(resumed(zero, round), expected[round - 1])

    def test_no_round_is_given_twice_and_no_past_is_made_up(self, noise: CorrelatedGaussian) -> None:
        stream = noise.stream(seeded(1))
        stream(torch.zeros(2), 2)
        with pytest.raises(InputError, match="given before"):
            stream(torch.zeros(2), 2)
        with pytest.raises(InputError, match="can't be drawn again"):
            noise.stream(system())(torch.zeros(2), 3)
        noise.stream(system())(torch.zeros(2), 1)

    def test_nothing_bounded_means_no_guarantee(self, noise: CorrelatedGaussian) -> None:
        assert noise.run_event(Sensitivity("device"), 10, 2) == NonPrivateDpEvent()

    def test_the_guarantee_of_a_run_is_one_release_of_the_factor(self, noise: CorrelatedGaussian) -> None:
        mean = Mean(expected=4)
        promise = Promise(
            Chain((Clip(1.0),)), Chain((noise,)), 10, 1e-5, "add-or-remove-one", 1, mean.bound,
            cohort=Cohort(separation=8), absent_is_zero=True,
        )  # fmt: skip
        stated = Fedavg(rounds=24).guarantees(promise)[-1]
        multiplier = 2.0 / (0.25 * noise.factor(24, 8))
        assert stated.epsilon == pytest.approx(epsilon(GaussianDpEvent(multiplier), 1e-5)[0])
        assert (stated.unit, stated.releases) == ("device", 3)

    def test_sampling_by_chance_is_not_claimed_to_amplify_it(self, noise: CorrelatedGaussian) -> None:
        stated = []
        for rate in (0.1, 1.0):
            promise = Promise(
                Chain((Clip(1.0),)), Chain((noise,)), 10, 1e-5, "add-or-remove-one", 1, Mean(expected=4).bound,
                cohort=Cohort(rate=rate), absent_is_zero=True,
            )  # fmt: skip
            stated.append(Fedavg(rounds=5).guarantees(promise)[-1].epsilon)
        assert stated[0] == stated[1]


def test_the_coefficients_are_those_of_the_square_root() -> None:
    assert square_root(6).tolist() == pytest.approx([binom(2 * k, k) / 4**k for k in range(6)])
    np.testing.assert_allclose(np.convolve(square_root(50), square_root(50))[:50], 1.0)


def test_independent_noise_pays_for_each_turn() -> None:
    device = Sensitivity("device", "replace-one", dimension=3).bounded(l2=1.0)
    event = Gaussian(3.0).run_event(device, 10, 4)
    assert epsilon(event, 1e-5)[0] == pytest.approx(epsilon(GaussianDpEvent(3.0), 1e-5, count=3)[0])
