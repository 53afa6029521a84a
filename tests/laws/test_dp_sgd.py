"""Laws of private training: a run's samples, clipping and noise are what its guarantee was derived from."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from dp_accounting.dp_event import GaussianDpEvent, PoissonSampledDpEvent
from scipy.stats import binom, chi2, kstest
from torch import Tensor, nn

from privet.accounting.accountants import epsilon
from privet.aggregation.krum import Krum
from privet.aggregation.mean import Mean
from privet.engines import Channel
from privet.errors import PartError
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.models.contract import Model
from privet.models.hog_linear import HogLinear
from privet.models.mlp import Mlp
from privet.randomness import Source, seeded, system
from privet.study.baselines import train_alone
from privet.training import Task
from privet.training.contract import Lesson, Promise
from privet.training.per_record import PerRecord
from privet.training.precision import Precision
from privet.training.protocols.dp_sgd import DpSgd
from privet.training.sampling import Poisson

ROWS, DIMENSION, BATCH, STEPS = 50, 6, 5, 600


class Watching(nn.Module):
    """Passes activations on and remembers how many rows they had."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, value: Tensor) -> Tensor:
        self.sizes.append(len(value))
        return value


class Watched(Model):
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        first, last = nn.Linear(DIMENSION, 4), nn.Linear(4, classes)
        return nn.Sequential(OrderedDict(first=first, watching=Watching(), last=last))


def task_of(protocol: DpSgd, model: Model, rows: int = ROWS) -> Task:
    inputs = torch.rand(rows, DIMENSION, generator=torch.Generator().manual_seed(0))
    return Task(model, protocol, Chain(), inputs, torch.arange(rows) % 3, 3, Precision(), 1, 1, True)


def batch_sizes(protocol: DpSgd, seed: int = 1) -> np.ndarray:
    """How many rows each step of a real training took; the empty ones never reach the network."""
    task = task_of(protocol, Watched())
    bench = task.bench()
    watching = bench.network.watching
    PerRecord(bench.network, (DIMENSION,))  # what its own checks send through
    probes = len(watching.sizes)
    watching.sizes.clear()
    task.protocol.train(Lesson(bench, task.inputs, task.labels, Chain(), seeded(1), seeded(seed), Channel("d", 1)))
    taken = watching.sizes[probes:]
    steps = protocol.steps(ROWS)
    return np.array(taken + [0] * (steps - len(taken)))


def p_value(sizes: np.ndarray) -> float:
    """Chi-squared test that batch sizes are binomial, as the claim says."""
    law = binom(ROWS, BATCH / ROWS)
    edges = [-1, *range(1, 9), ROWS]
    expected = np.diff(law.cdf(edges)) * len(sizes)
    seen = np.array([((sizes > low) & (sizes <= high)).sum() for low, high in itertools.pairwise(edges)])
    return float(chi2.sf(((seen - expected) ** 2 / expected).sum(), len(expected) - 1))


class Shuffled(Poisson):
    """What many libraries do: batches of one size, priced as if they were Poisson samples."""

    def draw(self, rows: int, rate: float, noise: Source) -> Tensor:
        return noise.permutation(rows)[: round(rate * rows)]


class ShuffledSgd(DpSgd):
    sampler = Shuffled()


WATCHED = {"batch_size": BATCH, "local_epochs": STEPS * BATCH // ROWS, "learning_rate": 1e-3}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_runs_batches_are_those_that_its_claim_names(seed: int) -> None:
    sizes = batch_sizes(DpSgd(**WATCHED), seed)
    assert len(sizes) == STEPS
    assert (sizes == 0).any()  # an empty batch is a step like any other
    assert p_value(sizes) > 1e-4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_law_breaks_a_run_whose_sampler_is_not_the_claimed_one(seed: int) -> None:
    assert "Poisson sampling" in ShuffledSgd().guarantees(promise_of())[0].claim
    assert p_value(batch_sizes(ShuffledSgd(**WATCHED), seed)) < 1e-9


def test_rows_are_drawn_independently_of_each_other_and_of_the_shuffle_seed() -> None:
    noise = seeded(3)
    drawn = torch.zeros(4000, 10)
    for row in drawn:
        row[Poisson().draw(10, 0.3, noise)] = 1
    assert (drawn.mean(0) - 0.3).abs().max() < 5 * math.sqrt(0.21 / 4000)
    together = torch.corrcoef(drawn.T) - torch.eye(10)
    assert together.abs().max() < 5 / math.sqrt(4000)
    task = task_of(DpSgd(**WATCHED), Watched())
    secret = [replace(task, reproducible=False).noise("d", 1), replace(task, reproducible=False).noise("d", 1)]
    first, second = (Poisson().draw(1000, 0.5, source) for source in secret)
    assert not torch.equal(first, second)


def noise_of(protocol: DpSgd) -> Tensor:
    """The noise alone of one step on a device with no gradient: it is asked for a class that it is sure of."""
    network = nn.Sequential(nn.Linear(DIMENSION, 2000, bias=False))
    task = replace(task_of(protocol, HogLinear()), inputs=torch.zeros(ROWS, DIMENSION))
    bench = replace(task_of(protocol, Watched()).bench(), network=network)
    from privet.training.descent import Descent

    bench = replace(bench, descent=Descent(network.parameters()))
    before = bench.descent.values.clone()
    task.protocol.train(Lesson(bench, task.inputs, task.labels, Chain(), seeded(1), system(), Channel("d", 1)))
    return (bench.descent.values - before) * protocol.batch_size / protocol.learning_rate


@pytest.mark.parametrize(
    ("fields", "deviation"),
    [
        ({}, 1.0),
        ({"noise_multiplier": 0.8, "clipping_norm": 3.0}, 2.4),
        ({"noise": "distributed", "shares": 4}, 0.5),
        ({"clipping": "adaptive"}, (1 - 1 / 256) ** -0.5),
    ],
)
def test_every_step_adds_the_noise_that_its_claim_names(fields: dict, deviation: float) -> None:
    made = noise_of(DpSgd(batch_size=ROWS, **fields))
    # The noise comes from the operating system, so each run draws anew: a right one fails once in ten million.
    assert kstest(made.numpy() / deviation, "norm").pvalue > 1e-7
    assert float(made.std()) == pytest.approx(deviation, rel=0.05)


def promise_of(rows: tuple[int, ...] = (6000,), replies: int = 10, **fields) -> Promise:
    combine = Mean(equal_weights=True).bound
    promise = Promise(Chain(), Chain(), 10, 1e-5, "add-or-remove-one", replies, combine, examples=rows)
    return replace(promise, **fields)


def test_the_guarantee_is_that_of_sampled_gaussian_steps() -> None:
    (stated,) = DpSgd(rounds=2, local_epochs=5, noise_multiplier=1.2).guarantees(promise_of())
    steps = 2 * round(5 * 6000 / 64)
    event = PoissonSampledDpEvent(64 / 6000, GaussianDpEvent(1.2))
    assert stated.epsilon == epsilon(event, 1e-5, count=steps)[0]
    assert (stated.unit, stated.relation, stated.releases) == ("record", "add-or-remove-one", steps)


def test_devices_hold_different_rows_so_the_worst_counts() -> None:
    protocol = DpSgd(rounds=1, noise_multiplier=1.2)
    each = [protocol.guarantees(promise_of((rows,)))[0].epsilon for rows in (500, 6000)]
    assert protocol.guarantees(promise_of((6000, 500, 500)))[0].epsilon == max(each)
    many = protocol.guarantees(promise_of(tuple(range(500, 6001, 250))))[0]
    assert many.epsilon >= max(each)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"relation": "replace-one"}, "replace-one"),
        ({"examples": ()}, "not known"),
        ({"on_device": Chain((Clip(1.0),))}, "no share of a sum"),
    ],
)
def test_where_nothing_is_derived_the_claim_says_why(fields: dict, said: str) -> None:
    (stated,) = DpSgd(noise="distributed").guarantees(promise_of(**fields))
    assert not stated.formal
    assert said in stated.claim


def test_shares_make_the_noise_of_one_sum_and_missing_ones_are_missed() -> None:
    together = DpSgd(rounds=50, noise="distributed", shares=10)
    (whole,) = together.guarantees(promise_of(replies=10))
    (alone,) = DpSgd(rounds=1, batch_size=120).guarantees(promise_of())
    assert "only the sum" in whole.claim
    assert "simulates" in whole.claim
    assert whole.releases == 50
    assert whole.epsilon == epsilon(PoissonSampledDpEvent(64 / 6000, GaussianDpEvent(1.0)), 1e-5, count=50)[0]
    (fewer,) = together.guarantees(promise_of(replies=5))
    assert fewer.epsilon > whole.epsilon
    for rule in (Mean(), Krum(byzantine=1)):
        assert not together.guarantees(promise_of(combine=rule.bound))[0].formal
    assert "sum" not in alone.claim.split(";")[0]


@pytest.mark.parametrize(
    "fields",
    [{"local_epochs": 2}, {"momentum": 0.9}, {"clipping": "adaptive"}],
)
def test_a_step_of_the_fleet_is_one_step(fields: dict) -> None:
    with pytest.raises(PartError, match="one step a round"):
        DpSgd(noise="distributed", **fields)


def test_shares_need_distributed_noise() -> None:
    with pytest.raises(PartError, match="distributed"):
        DpSgd(shares=3)


def test_without_noise_there_is_no_guarantee() -> None:
    assert not DpSgd().quiet().guarantees(promise_of())[0].formal


def test_the_adaptive_norm_finds_its_quantile() -> None:
    protocol, noise = DpSgd(clipping="adaptive", quantile=0.7), seeded(1)
    norms = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 5
    limit = 0.1
    for _ in range(60):
        limit *= protocol._adapted(norms <= limit, 2000, noise)
    assert limit == pytest.approx(3.5, rel=0.05)


def test_features_are_made_once_a_device_and_again_for_other_rows() -> None:
    protocol = DpSgd(batch_size=8, noise_multiplier=0.0)
    inputs, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    task = Task(HogLinear(), protocol, Chain(), inputs, labels, 3, Precision(), 1, 1, True)
    bench = task.bench()
    calls: list[int] = []
    bench.network.histograms.register_forward_hook(lambda module, given, made: calls.append(len(made)))
    for rows in (slice(0, 10), slice(0, 10), slice(4, 14)):
        protocol.train(Lesson(bench, inputs[rows], labels[rows], Chain(), seeded(1), seeded(2), Channel("d", 1)))
    assert calls.count(10) == 2
    assert torch.equal(bench.kept["d"][1], bench.network.histograms(inputs[4:14]))


def test_whoever_trains_alone_adds_no_noise() -> None:
    tasks = [task_of(DpSgd(batch_size=8, noise_multiplier=noise), Mlp()) for noise in (0.0, 1000.0)]
    quiet, noisy = (train_alone(task, task.inputs, task.labels) for task in tasks)
    assert all(torch.equal(quiet[name], noisy[name]) for name in quiet)
