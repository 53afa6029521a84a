"""Refuting claims: the bounds against slow twins, broken trainings, and a whole run by the command."""

from __future__ import annotations

import doctest
import json
import math
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.integrate import quad
from scipy.stats import norm

import privet
from privet.accounting import Guarantee, Sensitivity
from privet.apps.cli.audit import audit
from privet.errors import InputError, RunError
from privet.evidence import claims, one_run
from privet.evidence.canaries import Steps, refute_training
from privet.evidence.claims import distinguish, epsilon_of_mu, reach
from privet.evidence.observed_steps import observed_steps
from privet.evidence.worst_pair import refute_chain, worst_pair
from privet.ledger import verify
from privet.mechanisms.bounded_normalisation import BoundedNormalisation
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.mechanisms.laplace import Laplace
from privet.randomness import seeded
from privet.study.plan import Plan
from privet.study.refutation import audit_claims
from privet.training.protocols.dp_sgd import DpSgd

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "refutation"))
from trainings import Training

DOCUMENT = Chain((BoundedNormalisation(64, "batch"), Laplace(math.sqrt(63))))
TRAINING = Guarantee("training", "record", "add-or-remove-one", 5.0544, 1e-5, 200, "pld")
STEPS = Steps(1000, 0.1, 1.5, 1.0)


def document(unit: str) -> Guarantee:
    return Guarantee("the document", unit, "replace-one", 2.0, 1e-5, 1, "pure")  # type: ignore[arg-type]


class TestBounds:
    def test_examples_in_docstrings(self) -> None:
        assert doctest.testmod(claims).failed == doctest.testmod(one_run).failed == 0

    def test_reach_is_that_of_600_trials_without_an_error(self) -> None:
        all_right, none_wrong = 0.025 ** (1 / 600), 1 - 0.025 ** (1 / 600)
        assert reach(600, 1e-5) == pytest.approx(math.log((all_right - 1e-5) / none_wrong))
        assert round(reach(600, 1e-5), 2) == 5.09

    @pytest.mark.parametrize("mu", [0.1, 1.0, 3.0, 9.0])
    @pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.01])
    def test_epsilon_of_mu_has_that_delta(self, mu: float, delta: float) -> None:
        epsilon = epsilon_of_mu(mu, delta)
        # The slow twin: what the density with the unit exceeds e^epsilon times the density without.
        start = epsilon / mu + mu / 2
        excess = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon + norm.logpdf(x)), start, start + 12, epsabs=1e-14)
        assert excess[0] == pytest.approx(delta, rel=1e-3)

    def test_no_leak_is_epsilon_0(self) -> None:
        assert epsilon_of_mu(0.0, 1e-5) == 0
        assert epsilon_of_mu(1e-6, 1e-5) == 0
        assert claims.epsilon_from_rates(1e-6, 0.5, 1e-5) == 0
        assert claims.mu_from_rates(0.2, 0.4) == 0

    def test_pure_delta_is_refused_for_gaussian_noise(self) -> None:
        with pytest.raises(InputError, match="delta"):
            epsilon_of_mu(1.0, 0.0)

    def test_the_bound_holds_as_often_as_it_says(self) -> None:
        rng, epsilon, wrong = np.random.default_rng(1), 1.0, 0
        keep = math.exp(epsilon) / (1 + math.exp(epsilon))
        for _ in range(200):
            sides = [torch.from_numpy(rng.random((300, 2)) < p).double() for p in (keep, 1 - keep, keep, 1 - keep)]
            bound = distinguish((sides[0], sides[1]), (sides[2], sides[3]), 0.0, 0.95)
            wrong += bound.epsilon > epsilon
            assert bound.epsilon > 0.3
        assert wrong <= 10

    def test_small_scores_may_speak_for_either_side(self) -> None:
        inside, outside = torch.zeros(500, 1), torch.ones(500, 1)
        assert distinguish((inside, outside), (inside, outside), 0.0, 0.95).epsilon == reach(500, 0.0)

    def test_scores_that_are_no_numbers_are_refused(self) -> None:
        good, bad = torch.zeros(3, 1), torch.full((3, 1), math.nan)
        for sides in ((bad, good), (good, torch.zeros(0, 1))):
            with pytest.raises(InputError, match="scores"):
                distinguish((good, good), sides, 0.0, 0.95)


class TestWorstPair:
    @pytest.mark.parametrize("seed", range(1, 6))
    def test_the_documents_epsilon_holds_for_a_coordinate_and_not_for_a_record(self, seed: int) -> None:
        for unit, refuted in (("record", True), ("coordinate", False)):
            sensitivity = Sensitivity(unit, dimension=3920)  # type: ignore[arg-type]
            found = refute_chain(DOCUMENT, sensitivity, document(unit), rng=seeded(seed), trials=600)
            assert found.refuted == refuted
            assert found.lower_bound == pytest.approx(5.09, abs=0.01) if refuted else 1 < found.lower_bound < 2

    def test_a_record_moves_the_others_where_it_is_normalised_over_the_batch(self) -> None:
        record = Sensitivity("record", dimension=10)
        together, own = worst_pair(DOCUMENT, record), worst_pair(DOCUMENT, record, alone=True)
        assert together.inside.shape == (8, 10)
        assert bool((together.inside != together.outside).all())
        assert (own.inside - own.outside).abs().sum().item() == pytest.approx(10 * 2 * math.sqrt(63))

    def test_releases_add_up(self) -> None:
        record, chain = Sensitivity("record", dimension=1), Chain((Clip(1.0), Gaussian(8.0)))
        once = replace(document("record"), epsilon=1.0)
        bounds = [
            refute_chain(chain, record, replace(once, releases=count), rng=seeded(1), trials=2000).lower_bound
            for count in (1, 4, 16)
        ]
        assert bounds[0] < bounds[1] < bounds[2]

    def test_a_hidden_coin_lowers_what_can_be_shown(self) -> None:
        record, chain = Sensitivity("record", dimension=1), Chain((Clip(1.0), Gaussian(1.0)))
        always, seldom = (
            refute_chain(chain, record, document("record"), rng=seeded(1), rate=rate).lower_bound for rate in (1.0, 0.1)
        )
        assert seldom < always / 2

    def test_noise_on_the_server_is_tested_behind_the_aggregator(self) -> None:
        chain, device = Chain((Gaussian(0.5),)), Sensitivity("device", dimension=3).bounded(l2=0.2)
        clip = Clip(1.0)
        enter = (lambda updates: clip(updates, seeded(0)).mean(0, keepdim=True), 10)
        pair = worst_pair(chain, device, entering=enter)
        assert (pair.inside - pair.outside).norm().item() == pytest.approx(0.2)

    def test_a_chain_without_a_guarantee_is_refused(self) -> None:
        with pytest.raises(InputError, match="guarantee nothing"):
            worst_pair(Chain((Gaussian(1.0), Clip(1.0))), Sensitivity("record"))
        with pytest.raises(InputError, match="trials"):
            refute_chain(DOCUMENT, Sensitivity("record"), document("record"), rng=seeded(1), trials=1)


class TestCanaries:
    @pytest.mark.parametrize(
        ("training", "refuted"),
        [
            (Training(200, 0.1, 1.5), False),
            (observed_steps(DpSgd(rounds=10, local_epochs=2, batch_size=100, noise_multiplier=1.5), 10), False),
            (Training(200, 0.1, 0.75), True),
            (Training(200, 0.1, 1.5, clips=False), True),
            (Training(200, 0.1, 1.5, noise="the same"), True),
            (Training(200, 0.1, 1.5, noise="first"), True),
            (observed_steps(DpSgd(rounds=10, local_epochs=2, batch_size=100, noise_multiplier=0.75), 10), True),
        ],
    )
    def test_side_by_side(self, training: Training, refuted: bool) -> None:
        found = refute_training(training, STEPS, TRAINING, rng=seeded(1), trials=600)
        assert found.refuted == refuted, found
        assert found.lower_bound > 2

    def test_distributed_noise_holds_for_the_sum_of_all_shares_only(self) -> None:
        shared = DpSgd(rounds=200, batch_size=100, noise_multiplier=1.5, noise="distributed", shares=2, momentum=0)
        for devices, refuted in ((2, False), (1, True)):
            found = refute_training(observed_steps(shared, 200, devices), STEPS, TRAINING, rng=seeded(1), trials=600)
            assert found.refuted == refuted, found

    def test_more_canaries_than_records_take_several_runs(self) -> None:
        found = refute_training(Training(5, 0.5, 1.0), Steps(40, 0.5, 1.0, 1.0), TRAINING, rng=seeded(1), trials=100)
        assert found.trials == 100

    def test_fixed_batches_are_told_from_poisson_samples_by_a_crowd(self) -> None:
        said, steps = replace(TRAINING, epsilon=7.3587, releases=40), Steps(20, 0.1, 0.8, 1.0)
        bounds = [
            refute_training(Training(40, 0.1, 0.8, sampler=sampler), steps, said, rng=seeded(1), trials=100, crowd=True)
            for sampler in ("poisson", "shuffled")
        ]  # `examples/refutation/check.py` has the trials that refute
        assert bounds[0].lower_bound < 1.5 < 4 < bounds[1].lower_bound
        assert not bounds[0].refuted

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="trials"):
            refute_training(Training(5, 0.5, 1.0), STEPS, TRAINING, rng=seeded(1), trials=0)
        with pytest.raises(InputError, match="shape"):
            refute_training(lambda gradients, rng: gradients[0], STEPS, TRAINING, rng=seeded(1), trials=2)


class TestOneRun:
    @pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 1e-2), (0.5, 1e-5), (2.0, 0.1)])
    @pytest.mark.parametrize(("guesses", "correct"), [(1, 1), (12, 9), (12, 12), (30, 20), (5, 0)])
    def test_the_tail_against_exact_fractions(self, epsilon: float, delta: float, guesses: int, correct: int) -> None:
        right = Fraction(math.exp(epsilon) / (1 + math.exp(epsilon)))
        chance = [
            math.comb(guesses, hits) * right**hits * (1 - right) ** (guesses - hits) for hits in range(guesses + 1)
        ]
        worst = max((sum(chance[correct - i : correct]) / i for i in range(1, correct + 1)), default=0)
        exact = min(1, sum(chance[correct:]) + 2 * 40 * Fraction(delta) * worst)
        assert one_run.p_value(40, guesses, correct, epsilon, delta) == pytest.approx(float(exact), rel=1e-9)

    def test_the_bound_is_where_the_tail_meets_the_error(self) -> None:
        # All of r guesses right: (e^epsilon / (1 + e^epsilon))^r = .05.
        right = 0.05 ** (1 / 100)
        assert one_run.lower_bound(1000, 100, 100, 0.0) == pytest.approx(math.log(right / (1 - right)), abs=1e-6)
        assert one_run.lower_bound(1000, 100, 50, 0.0) == 0
        assert one_run.lower_bound(1000, 100, 100, 1e-5) < one_run.lower_bound(1000, 100, 100, 0.0)

    def test_a_right_training_passes_and_a_missing_clip_shows_most(self) -> None:
        fields = {"rng": seeded(1), "count": 1000}
        honest = one_run.refute_run(Training(200, 0.1, 1.5), STEPS, TRAINING, **fields)
        broken = one_run.refute_run(Training(200, 0.1, 1.5, clips=False), STEPS, replace(TRAINING, epsilon=4), **fields)
        assert not honest.refuted
        assert 1 < honest.lower_bound < 3
        assert broken.refuted
        assert broken.lower_bound == broken.reach

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="canaries"):
            one_run.p_value(10, 11, 3, 1.0, 0.0)
        with pytest.raises(InputError, match="canaries"):
            one_run.refute_run(Training(1, 0.5, 1.0), STEPS, TRAINING, rng=seeded(1), count=1001)


PLAN = {
    "name": "claims",
    "seed": 3,
    "data": {"name": "mnist-10k"},
    "fleet": {"devices": 3, "examples_per_device": 40},
    "evidence": {"alone": False, "centralised": False},
    "engine": {"precision": "float32"},
}
SPLIT = PLAN | {
    "model": {"name": "smart-home-cnn", "normalisation": "batch"},
    "training": {"name": "split-federated", "rounds": 1, "batch_size": 16},
    "mechanisms": {
        "on_device": [
            {"name": "bounded-normalisation", "over": "batch"},
            {"name": "laplace", "epsilon_per_coordinate": 2.0},
        ]
    },
}
PRIVATE = PLAN | {
    "model": {"name": "mlp"},
    "privacy": {"relation": "add-or-remove-one"},
    "training": {"name": "dp-sgd", "rounds": 2, "batch_size": 8, "noise_multiplier": 0.6},
}
UPDATES = PLAN | {
    "model": {"name": "mlp"},
    "training": {"name": "fedavg", "rounds": 2},
    "mechanisms": {"on_device": [{"name": "clip", "limit": 1.0}], "on_server": [{"name": "gaussian", "sigma": 0.5}]},
    "aggregation": {"name": "mean", "equal_weights": True},
    "engine": {"precision": "float32", "minimum_replies": 3},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return privet.run(Plan.from_table(SPLIT), out=tmp_path_factory.mktemp("audit") / "run").path


RELEASE = PLAN | {
    "model": {"name": "hog-linear"},
    "training": {"name": "feature-release", "rounds": 1, "label_epsilon": 1.0},
    "mechanisms": {"on_device": [{"name": "clip", "limit": 1.0}, {"name": "gaussian", "sigma": 2.0}]},
}
FTRL = PLAN | {
    "model": {"name": "mlp"},
    "training": {"name": "fedavg", "rounds": 2},
    "mechanisms": {
        "on_device": [{"name": "clip", "limit": 1.0}],
        "on_server": [{"name": "tree-gaussian", "sigma": 0.5}],
    },
    "aggregation": {"name": "mean", "equal_weights": True},
    "engine": {"precision": "float32", "minimum_replies": 3},
}


class TestCommand:
    def test_the_reading_for_a_record_is_refuted_and_everything_is_recorded(self, folder: Path) -> None:
        before = (folder / "report.html").read_text()
        assert "No check was run" in before
        assert "privet audit claim" in before
        done = CliRunner().invoke(audit, ["claim", str(folder), "--trials", "600", "--seed", "1", "--json"])
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert {key: found[key] for key in ("claimed_epsilon", "confidence", "refuted")} == {
            "claimed_epsilon": 2.0, "confidence": 0.95, "refuted": True,
        }  # fmt: skip
        # Four claims are tested, and each bound pays for it.
        assert found["lower_bound"] == pytest.approx(reach(600, 1e-5, 1 - 0.05 / 4))
        assert [row["refuted"] for row in found["claims"]] == [True] + [False] * 5
        assert verify(folder / "records.jsonl")[-1].body["claims"] == found["claims"]
        assert json.loads((folder / "metrics.json").read_text())["claims"] == found["claims"]
        page = (folder / "report.html").read_text()
        assert "Does not verify" not in page
        assert "Refuted." in page
        assert "worst pair" in page
        assert "A claim that survives is not proved" in page

    def test_the_same_seed_gives_the_same_bounds_and_text_says_them(self, folder: Path) -> None:
        twice = [audit_claims(folder, trials=50, seed=2) for _ in range(2)]
        assert twice[0] == twice[1]
        done = CliRunner().invoke(audit, ["claim", str(folder), "--trials", "50"])
        assert done.exit_code == 0
        assert done.stdout.startswith("refuted: a reader takes epsilon 2 for the whole record")
        assert "these trials can show" in done.stdout
        assert "a pass proves nothing" in done.stdout

    def test_private_training_and_noise_on_the_server_survive(self, tmp_path: Path) -> None:
        for name, table in (("private", PRIVATE), ("updates", UPDATES), ("release", RELEASE)):
            path = privet.run(Plan.from_table(table), out=tmp_path / name).path
            rows = audit_claims(path, trials=600, seed=1)
            tested = [row for row in rows if row.claimed_epsilon is not None]
            assert tested
            assert not any(row.refuted for row in rows)
            assert tested[0].lower_bound > 0
            assert ("canaries" if name == "private" else "worst pair") in tested[0].method

    def test_what_no_test_fits_is_said(self, tmp_path: Path) -> None:
        path = privet.run(Plan.from_table(FTRL), out=tmp_path / "ftrl").path
        done = CliRunner().invoke(audit, ["claim", str(path)])
        assert done.exit_code == 0, done.output
        assert "not tested: one device's part in the global model" in done.stdout
        assert "Not tested." in (path / "report.html").read_text()

    def test_what_is_no_run_of_a_plan_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no run at"):
            audit_claims(tmp_path / "nowhere")
        (tmp_path / "metrics.json").write_text("{}")
        with pytest.raises(RunError, match="no records"):
            audit_claims(tmp_path)
        plan = (folder / "plan.toml").read_text()
        (folder / "plan.toml").write_text(plan.replace("seed = 3", "seed = 4"))
        with pytest.raises(RunError, match="not the plan"):
            audit_claims(folder)
        (folder / "plan.toml").write_text(plan)
