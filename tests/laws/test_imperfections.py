"""Laws of every imperfection: rows stay rows, the given ones are left alone, the same again from the same seed."""

from __future__ import annotations

import pytest
import torch

import privet
from privet import parts
from privet.fleet.availability.stragglers import Stragglers
from privet.fleet.imperfections.contract import Imperfection
from privet.fleet.imperfections.missing_values import MissingValues
from privet.fleet.imperfections.noisy_labels import NoisyLabels
from privet.randomness import seeded
from privet.study.experiment import prepare

NAMES = parts.names("imperfections")
INPUTS = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(200) % 10
each = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> Imperfection:
    return parts.build("imperfections", {"name": name})


@each
@pytest.mark.parametrize("shape", [(1, 8, 8), (12,), (3, 20)], ids=["image", "table", "series"])
def test_rows_stay_rows_and_are_worse(name: str, shape: tuple[int, ...]) -> None:
    given = torch.rand(50, *shape, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(50) % 3
    before = given.clone(), labels.clone()
    inputs, held = make(name).spoil(given, labels, 3, seeded(1))
    assert torch.equal(given, before[0])
    assert torch.equal(labels, before[1])
    assert (inputs.shape, inputs.dtype) == (given.shape, torch.float32)
    assert (held.shape, held.dtype) == ((50,), torch.int64)
    assert 0 <= inputs.min() <= inputs.max() <= 1
    assert 0 <= held.min() <= held.max() < 3
    assert not (torch.equal(inputs, given) and torch.equal(held, labels))


@each
def test_same_seed_same_rows(name: str) -> None:
    one, two, other = (make(name).spoil(INPUTS, LABELS, 10, seeded(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@each
def test_round_trip_through_a_plan(name: str) -> None:
    assert parts.build("imperfections", parts.to_table(make(name))) == make(name)


def test_as_many_labels_are_wrong_as_it_says() -> None:
    _, held = NoisyLabels(share=0.3).spoil(INPUTS, LABELS, 10, seeded(1))
    assert int((held != LABELS).sum()) == 60
    _, all_wrong = NoisyLabels(share=1.0).spoil(INPUTS, LABELS, 2, seeded(1))
    assert torch.equal(all_wrong, (LABELS + 1) % 2)


def test_gaps_are_filled_from_the_devices_own_rows() -> None:
    scattered, _ = MissingValues(share=0.4).spoil(INPUTS, LABELS, 10, seeded(1))
    gaps = scattered != INPUTS
    assert 0.35 < float(gaps.float().mean()) < 0.45
    first = gaps[:, 0, 0, 0]
    torch.testing.assert_close(scattered[first, 0, 0, 0], INPUTS[~first, 0, 0, 0].mean().expand(int(first.sum())))
    places, _ = MissingValues(share=0.4, where="places", fill="zero").spoil(INPUTS, LABELS, 10, seeded(1))
    lost = (places == 0).flatten(1)
    assert torch.equal(lost.all(0), lost.any(0))
    assert 0 < int(lost.all(0).sum()) < 64


TABLE = {
    "name": "imperfect",
    "reproducible": True,
    "data": {"name": "digits"},
    "fleet": {"devices": 5, "imperfect": [{"devices": 2, "imperfection": {"name": "noisy-labels", "share": 0.5}}]},
    "model": {"name": "mlp"},
    "training": {"name": "fedavg", "rounds": 1},
}


def test_the_first_devices_hold_spoilt_rows_and_the_others_do_not() -> None:
    experiment = prepare(privet.Plan.from_table(TABLE))
    wrong = experiment.task.labels != torch.from_numpy(experiment.data.train_labels)
    shares = [float(wrong[device.shard].float().mean()) for device in experiment.devices]
    assert shares[:2] == pytest.approx([0.5, 0.5], abs=0.01)
    assert shares[2:] == [0, 0, 0]
    assert experiment.honest == experiment.devices
    assert privet.Plan.from_table(TABLE).with_settings(["fleet.imperfect.0.imperfection.name=missing-values"])
    with pytest.raises(privet.errors.PlanError, match="6 devices with imperfect rows"):
        privet.Plan.from_table(TABLE).with_settings(["fleet.imperfect.0.devices=6"])


def test_the_same_devices_are_slow_in_every_round() -> None:
    slowly = Stragglers(share=0.3, mean_delay=5.0)
    names = [f"device-{k:03}" for k in range(200)]
    late = {name for name in names if slowly.slow(name)}
    assert 0.2 < len(late) / 200 < 0.4
    for round in (1, 2):
        assert {name for name in names if slowly.presence(name, round, seeded(round, name)).delay > 0} == late
