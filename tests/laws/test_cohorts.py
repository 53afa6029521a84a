"""Laws of cohorts: who is asked is what the guarantee says; a run whose sampler differs from its claim is found out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from scipy.stats import binom, chi2

from privet.accounting.accountants import epsilon
from privet.aggregation.mean import Mean
from privet.engines import Keep, Message, Reply, Work
from privet.errors import PlanError
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.randomness import Source, seeded, system
from privet.study.experiment import prepare
from privet.study.plan import Plan
from privet.training import Coordinator
from privet.training.cohort import Cohort
from privet.training.contract import Promise
from privet.training.protocols.fedavg import Fedavg

RATE, FLEET, ROUNDS = 0.25, 40, 400


def fleet(count: int = FLEET) -> list[Device]:
    phone = find_profile("phone")
    return [Device(f"device-{k:03}", phone, np.arange(1), Always(), Honest()) for k in range(count)]


class Echo:
    """An engine without training: every device answers with ones, and who was asked is written down."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        self.asked.append([device.identity for device in devices])
        for device in devices:
            reply = Reply(device.identity, message.round, {"update": torch.ones(2)}, base=message.base)
            yield reply


def who_was_asked(cohort: Cohort, rounds: int = ROUNDS, rng: Source | None = None) -> np.ndarray:
    """Returns rounds x devices, true where a device was asked by a real coordinator."""
    engine, devices = Echo(), fleet()
    mean = Mean(expected=RATE * FLEET)
    coordinator = Coordinator(engine, lambda *_: Reply("", 0), devices, mean, Chain(), cohort=cohort)
    for _ in coordinator.rounds({"w": torch.zeros(2)}, 1, rounds, seeded(0, "noise"), sampling=rng or seeded(1)):
        pass
    return np.array([[device.identity in asked for device in devices] for asked in engine.asked])


def differs_from_poisson(asked: np.ndarray, rate: float, level: float = 1e-6) -> str:
    """Returns what about the cohorts Poisson sampling at this rate would not do, or ""; wrong once in 1 / level."""
    rounds, devices = asked.shape
    total = int(asked.sum())
    if min(binom.cdf(total, asked.size, rate), binom.sf(total - 1, asked.size, rate)) < level:
        return "the rate"
    variance = rate * (1 - rate)
    each = ((asked.sum(0) - rounds * rate) ** 2).sum() / (rounds * variance)
    if not chi2.ppf(level, devices) < each < chi2.isf(level, devices):
        return "how often each device is asked"
    sizes = ((asked.sum(1) - devices * rate) ** 2).sum() / (devices * variance)
    if not chi2.ppf(level, rounds) < sizes < chi2.isf(level, rounds):
        return "how the size of the cohort varies"
    for lag in (1, 2, 3, 4):
        later = (asked[lag:] - rate) * (asked[:-lag] - rate)
        if abs(later.sum()) / (variance * math.sqrt(later.size)) > 5.5:
            return "whether rounds are independent"
    return ""


@dataclass(frozen=True)
class Wrong(Cohort):
    """A sampler that claims what it does not do."""

    draws: Callable[[Sequence[Device], int, Source], list[Device]] = lambda devices, round, rng: list(devices)

    def draw(self, devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
        return self.draws(devices, round, rng)


def fixed_size(devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
    return [devices[k] for k in sorted(rng.permutation(len(devices))[: int(RATE * FLEET)].tolist())]


def shuffled_passes(devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
    passes = int(1 / RATE)
    order = seeded(3, (round - 1) // passes).permutation(len(devices)).tolist()
    return [devices[k] for k in sorted(order[(round - 1) % passes :: passes])]


def too_many(devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
    return Cohort(rate=1.2 * RATE).draw(devices, round, rng)


def the_same_again(devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
    return Cohort(rate=RATE).draw(devices, round, seeded(4, round // 2))


def some_favourites(devices: Sequence[Device], round: int, rng: Source) -> list[Device]:
    half = len(devices) // 2
    more, less = (Cohort(rate=RATE * (1 + sign / 2)) for sign in (1, -1))
    return more.draw(devices[:half], round, rng.child(0)) + less.draw(devices[half:], round, rng.child(1))


@pytest.mark.parametrize("rng", [seeded(1), seeded(2), system()], ids=["seed 1", "seed 2", "system"])
def test_the_sampler_does_what_the_guarantee_claims(rng: Source) -> None:
    assert differs_from_poisson(who_was_asked(Cohort(RATE), rng=rng), RATE) == ""


@pytest.mark.parametrize("draws", [fixed_size, shuffled_passes, too_many, the_same_again, some_favourites])
def test_a_run_whose_sampler_differs_from_its_claim_is_found_out(draws: Callable[..., list[Device]]) -> None:
    assert differs_from_poisson(who_was_asked(Wrong(RATE, draws=draws)), RATE)


def test_the_cohort_does_not_depend_on_the_noise_and_repeats_with_its_seed() -> None:
    once = who_was_asked(Cohort(RATE), 20, seeded(7))
    assert (once == who_was_asked(Cohort(RATE), 20, seeded(7))).all()
    assert (once != who_was_asked(Cohort(RATE), 20, seeded(8))).any()


def test_devices_take_turns_and_nobody_moves_the_turn_of_another() -> None:
    cohort = Cohort(separation=5)
    asked = who_was_asked(cohort, 23)
    for column in asked.T:
        rounds = np.flatnonzero(column)
        assert len(rounds) in (4, 5)
        assert (np.diff(rounds) == 5).all()
    assert cohort.participations(23) == 5
    fewer = cohort.draw(fleet()[1:], 1, seeded(0))
    assert [device.identity for device in fewer] == [
        device.identity for device in cohort.draw(fleet(), 1, seeded(0)) if device.identity != "device-000"
    ]


class TestGuarantee:
    CLIP, NOISE = Chain((Clip(1.0),)), Chain((Gaussian(0.1),))

    def promise(self, cohort: Cohort, mean: Mean, relation: str = "add-or-remove-one") -> Promise:
        return Promise(
            self.CLIP, self.NOISE, 10, 1e-5, relation, 1, mean.bound, cohort=cohort, absent_is_zero=mean.absent_is_zero
        )

    def test_amplification_with_a_real_sampler_and_a_fixed_denominator(self) -> None:
        alone, central = Fedavg(rounds=50).guarantees(self.promise(Cohort(RATE), Mean(expected=10)))
        assert not alone.formal
        sampled = SelfComposedDpEvent(PoissonSampledDpEvent(RATE, GaussianDpEvent(1.0)), 50)
        assert central.epsilon == pytest.approx(epsilon(sampled, 1e-5)[0])
        assert (central.unit, central.relation, central.releases) == ("device", "add-or-remove-one", 50)
        assert "asked with probability 0.25" in central.claim

    @pytest.mark.parametrize(
        ("cohort", "mean", "relation"),
        [
            (Cohort(RATE), Mean(expected=10), "replace-one"),
            (Cohort(RATE), Mean(equal_weights=True), "add-or-remove-one"),
            (Cohort(), Mean(expected=10), "add-or-remove-one"),
        ],
    )
    def test_none_otherwise(self, cohort: Cohort, mean: Mean, relation: str) -> None:
        promise = self.promise(cohort, mean, relation)
        central = Fedavg(rounds=50).guarantees(promise)[-1]
        plain = self.NOISE.event(mean.bound(self.CLIP.bound(promise_unit(relation)), 1))
        assert central.epsilon == pytest.approx(epsilon(plain, 1e-5, count=50)[0])

    def test_a_device_that_takes_turns_pays_for_its_turns_only(self) -> None:
        turns = Fedavg(rounds=50).guarantees(self.promise(Cohort(separation=10), Mean(expected=4)))
        assert [entry.releases for entry in turns] == [5, 5]

    @pytest.mark.parametrize("present", list(itertools.product((True, False), repeat=2)))
    def test_one_device_moves_the_mean_by_its_clip_over_the_expected_cohort(self, present: tuple[bool, bool]) -> None:
        # Data dependent: the mean of replies would move by up to 2 / 1 here, ten times as much.
        updates = torch.eye(2)[list(present)] if any(present) else torch.zeros(0, 2)
        running, mean = Mean(expected=10).running(), Mean(expected=10)
        assert running is not None
        for update in updates:
            running.add(update, 7.0)
        with_one = running.combined().update if any(present) else torch.zeros(2)
        other = updates[1:].sum(0).double() / 10
        claimed = mean.bound(self.CLIP.bound(promise_unit("add-or-remove-one")), 1).l2
        assert claimed == pytest.approx(0.1)
        assert (with_one - other).norm().item() <= claimed + 1e-12


def promise_unit(relation: str):
    from privet.accounting import Sensitivity

    return Sensitivity("device", relation, dimension=10, vectors=1)  # type: ignore[arg-type]


def test_an_empty_cohort_is_a_round_like_any_other() -> None:
    engine = Echo()
    server = Chain((Gaussian(1.0),))
    coordinator = Coordinator(
        engine, lambda *_: Reply("", 0), fleet(3), Mean(expected=1), server, cohort=Cohort(rate=1e-12)
    )
    done = next(coordinator.rounds({"w": torch.zeros(2)}, 1, 1, seeded(0)))
    assert (engine.asked, done.void, done.asked) == ([[]], "", 0)
    assert done.state["w"].abs().min() > 0


def test_a_resumed_round_has_the_noise_and_the_cohort_of_its_number() -> None:
    server, states = Chain((Gaussian(1.0),)), []
    for first in (1, 2):
        engine = Echo()
        coordinator = Coordinator(
            engine, lambda *_: Reply("", 0), fleet(), Mean(expected=1), server, cohort=Cohort(0.5)
        )
        rounds = coordinator.rounds({"w": torch.zeros(2)}, first, 2, seeded(0), sampling=seeded(1))
        before = {"w": torch.zeros(2)}
        for done in rounds:
            states.append((engine.asked[-1], done.state["w"] - before["w"]))
            before = done.state
    assert states[1][0] == states[2][0]
    assert torch.allclose(states[1][1], states[2][1], atol=1e-5)
    assert states[0][0] != states[1][0]


PLAN = {
    "name": "tiny",
    "data": {"name": "mnist-10k"},
    "fleet": {"devices": 20},
    "model": {"name": "mlp"},
    "training": {"name": "fedavg", "rounds": 4},
    "privacy": {"relation": "add-or-remove-one"},
    "mechanisms": {"on_device": [{"name": "clip", "limit": 1.0}], "on_server": [{"name": "gaussian", "sigma": 0.1}]},
    "aggregation": {"name": "mean", "expected": 5.0},
}


class TestPlan:
    def test_the_promise_is_the_coordinators_own_sampler(self) -> None:
        experiment = prepare(Plan.from_table(PLAN).with_settings(["engine.device_sampling_rate=0.25"]))
        assert experiment.promise.cohort is experiment.coordinator.cohort
        assert experiment.promise.cohort == Cohort(0.25)
        assert experiment.promise.absent_is_zero

    @pytest.mark.parametrize(
        ("settings", "line"),
        [
            (["aggregation.name=mean"], "aggregation.name: mean lets the number of replies tell"),
            (["engine.minimum_replies=2"], "engine.minimum_replies: a void round would tell"),
            (["engine.separation=5"], "engine.separation: with 4 rounds"),
            (["engine.separation=2", "engine.device_sampling_rate=0.5"], "engine.separation: devices that take turns"),
        ],
    )
    def test_what_would_break_the_promise_is_refused(self, settings: list[str], line: str) -> None:
        with pytest.raises(PlanError, match=line):
            Plan.from_table(PLAN).with_settings(settings)

    def test_a_mean_over_replies_counts_on_no_more_than_the_round_needs(self) -> None:
        settings = ["privacy.relation=replace-one", "aggregation.name=mean", "aggregation.equal_weights=true"]
        plan = Plan.from_table(PLAN).with_settings(settings)
        assert prepare(plan).promise.devices == 1
        assert prepare(plan.with_settings(["engine.minimum_replies=20"])).promise.devices == 20
