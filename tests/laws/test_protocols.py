"""Laws of protocols: every one learns, repeats, leaves the global model alone, and states what it guarantees."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from privet import parts
from privet.aggregation.mean import Mean
from privet.engines import Channel, InProcess, Keep, Message
from privet.fleet.availability.always import Always
from privet.fleet.availability.random import Random
from privet.fleet.behaviours.honest import Honest
from privet.fleet.behaviours.label_flip import LabelFlip
from privet.fleet.behaviours.silent import Silent
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.mechanisms.bounded_normalisation import BoundedNormalisation
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.mechanisms.laplace import Laplace
from privet.models.mlp import Mlp
from privet.models.smart_home_cnn import SmartHomeCnn
from privet.randomness import seeded
from privet.tensors import clone, digest, flatten, from_bytes, to_bytes
from privet.training import Coordinator, LocalStep, Task
from privet.training.contract import Promise
from privet.training.descent import batches
from privet.training.evaluate import accuracy, predictor
from privet.training.memory import by_owner, of_device
from privet.training.precision import Precision, choose
from privet.training.protocols.fedavg import Fedavg
from privet.training.protocols.fedprox import Fedprox
from privet.training.protocols.fedsgd import Fedsgd
from privet.training.protocols.split_federated import EDGE, SplitFederated

ROWS = 96
NAMES = parts.names("protocols")
ROUNDS = {"rounds": 3}


def task_of(protocol, *mechanisms, model=None) -> Task:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(3, 1, 8, 8, generator=generator)
    labels = torch.arange(ROWS) % 3
    inputs = (centres[labels] + 0.3 * torch.rand(ROWS, 1, 8, 8, generator=generator)).clamp(0, 1)
    return Task(model or Mlp(), protocol, Chain(mechanisms), inputs, labels, 3, Precision(), 100, 5, True)


def devices(count: int, behaviour=None) -> list[Device]:
    profile, shards = find_profile("phone"), np.array_split(np.arange(ROWS), count)
    return [Device(f"device-{k:03}", profile, shards[k], Always(), behaviour or Honest()) for k in range(count)]


def step(task: Task, device: Device | None = None, keep: Keep | None = None):
    device = device or devices(1)[0]
    state = clone(task.network().state_dict())
    channel = Channel(device.identity, 1, keep)
    return LocalStep(task)(device, Message(1, state, "base"), channel), channel, state


@pytest.fixture(params=NAMES)
def protocol(request: pytest.FixtureRequest):
    return parts.build("protocols", {"name": request.param, **({} if request.param == "parallel-sgd" else ROUNDS)})


def test_it_learns(protocol) -> None:
    longer = {"local_epochs": 40} if protocol.rounds == 1 else {"rounds": 40}
    task = task_of(replace(protocol, **longer, learning_rate=0.05).quiet())  # 96 rows can't be learnt privately
    fleet, step = devices(4), LocalStep(task)
    coordinator = Coordinator(InProcess(), step, fleet, Mean(), Chain())
    start = clone(task.network().state_dict())
    before = accuracy(predictor(task, start, Chain(), seeded(0)), task.inputs, task.labels)
    *_, last = coordinator.rounds(start, 1, task.protocol.rounds, seeded(0))
    owners = by_owner(last.memory)
    message = Message(99, last.state, memory={one.identity: owners.get(of_device(one.identity), {}) for one in fleet})
    models = [step.personal(device, message, Channel(device.identity, 99)) for device in fleet]
    reached = [accuracy(predictor(task, own, Chain(), seeded(0)), task.inputs, task.labels) for own in models]
    assert sum(reached) / len(reached) > max(before, 0.9)
    if not protocol.personalises:
        assert all(torch.equal(flatten(own), flatten(last.state)) for own in models)


def test_it_goes_on_where_it_stopped_to_the_same_bits(protocol) -> None:
    task = task_of(protocol)
    coordinator = Coordinator(InProcess(single_thread=True), LocalStep(task), devices(3), Mean(), Chain())
    *_, whole = coordinator.rounds(clone(task.network().state_dict()), 1, 4, seeded(0))
    *_, half = coordinator.rounds(clone(task.network().state_dict()), 1, 2, seeded(0))
    saved, memory = from_bytes(to_bytes(half.state)), from_bytes(to_bytes(half.memory))
    fresh = Coordinator(InProcess(single_thread=True), LocalStep(task), devices(3), Mean(), Chain())
    *_, resumed = fresh.rounds(saved, 3, 4, seeded(0), memory=memory)
    assert torch.equal(flatten(whole.state), flatten(resumed.state))
    assert digest(whole.memory) == digest(resumed.memory)


def test_an_absent_device_keeps_what_it_had_and_stops_nobody(protocol) -> None:
    task, fleet = task_of(protocol), devices(4)
    fleet[2] = replace(fleet[2], availability=Random(participation=0.4, drop_rate=0.5))
    rounds = Coordinator(InProcess(), LocalStep(task), fleet, Mean(), Chain()).rounds(
        clone(task.network().state_dict()), 1, 6, seeded(0)
    )
    before: dict = {}
    missed = 0
    for done in rounds:
        mine = by_owner(done.memory).get(of_device("device-002"), {})
        if any(identity == "device-002" for identity, _ in done.missing):
            missed += 1
            assert digest(mine) == digest(before)
        before = mine
        assert flatten(done.state).isfinite().all()
        assert not done.void
    assert 0 < missed < 6


def test_what_a_device_keeps_is_never_metered(protocol) -> None:
    task, device = task_of(protocol), devices(1)[0]
    step, state = LocalStep(task), clone(task.network().state_dict())
    first = step(device, Message(1, state, "base"), Channel(device.identity, 1))
    channel = Channel(device.identity, 2)
    again = step(device, Message(2, state, "base", memory={device.identity: first.kept}), channel)
    shared = [entry for ends, entry in channel.traffic.items() if ends[2] == "shared"]
    assert not shared
    most = 4 * len(flatten(state))
    learner = EDGE if protocol.once else device.identity
    assert channel.traffic["coordinator", learner, "global model"].bytes <= most
    assert channel.traffic[learner, "coordinator", "update"].bytes <= most * protocol.vectors
    assert again.kept.keys() == first.kept.keys()


def test_same_seed_same_bits_whatever_the_workers(protocol) -> None:
    task, states = task_of(protocol), []
    for workers in (0, 0, 2):
        engine = InProcess(workers, single_thread=True)
        coordinator = Coordinator(engine, LocalStep(task), devices(3), Mean(), Chain())
        *_, last = coordinator.rounds(clone(task.network().state_dict()), 1, 2, seeded(0))
        states.append(flatten(last.state))
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_global_model_is_left_alone_and_the_update_is_finite(protocol) -> None:
    task = task_of(protocol)
    reply, channel, state = step(task)
    assert torch.equal(flatten(state), flatten(task.network().state_dict()))
    assert reply.tensors["update"].isfinite().all()
    assert reply.tensors["update"].abs().sum() > 0
    assert reply.base == "base"
    learner = EDGE if protocol.once else "device-000"
    whole = 4 * protocol.vectors * len(flatten(state))
    assert 0 < channel.traffic[learner, "coordinator", "update"].bytes <= whole
    assert reply.tensors["update"].shape == (protocol.vectors * len(flatten(state)),)


def test_behaviours_reach_labels_and_updates(protocol) -> None:
    task = task_of(protocol)
    honest = step(task)[0].tensors["update"]
    flipped = step(task, devices(1, LabelFlip())[0])[0].tensors["update"]
    assert not torch.equal(honest, flipped)
    silent = step(task, devices(1, Silent())[0])[0]
    assert silent.missing == "silent"
    assert not silent.tensors


def promise_of(on_device=(), on_server=(), coupled=1) -> Promise:
    return Promise(
        Chain(on_device), Chain(on_server), 10, 1e-5, "replace-one", 4, Mean(equal_weights=True).bound, coupled
    )


def test_every_guarantee_has_unit_relation_and_releases(protocol) -> None:
    for stated in protocol.guarantees(promise_of()):
        assert stated.relation == "replace-one"
        assert stated.releases >= 1
        assert stated.claim
        assert math.isinf(stated.epsilon)
        assert stated.to_json()["epsilon"] is None


def test_fedavg_is_torch_sgd_written_out() -> None:
    protocol = Fedavg(local_epochs=2, batch_size=10, learning_rate=0.1)
    task, device = task_of(protocol), devices(1)[0]
    reply, _, state = step(task)
    network = task.network()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    shuffle = seeded(task.seed, "device", device.identity, 1).child("shuffle")
    for _ in range(2):
        for rows in batches(ROWS, 10, shuffle):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(task.inputs[rows]), task.labels[rows]).backward()
            optimiser.step()
    expected = flatten(network.state_dict()) - flatten(state)
    torch.testing.assert_close(reply.tensors["update"], expected, rtol=1e-4, atol=1e-6)


def test_fedprox_without_pull_is_fedavg_and_with_pull_stays_closer() -> None:
    plain = step(task_of(Fedavg(local_epochs=5)))[0].tensors["update"]
    none = step(task_of(Fedprox(local_epochs=5, proximal=0)))[0].tensors["update"]
    strong = step(task_of(Fedprox(local_epochs=5, proximal=10.0)))[0].tensors["update"]
    assert torch.equal(plain, none)
    assert strong.norm() < plain.norm()


def test_fedsgd_of_a_fleet_is_one_step_on_all_rows() -> None:
    task = task_of(Fedsgd(rounds=1, learning_rate=0.1, batch_size=7))
    coordinator = Coordinator(InProcess(), LocalStep(task), devices(4), Mean(), Chain())
    network = task.network()
    done = next(coordinator.rounds(clone(network.state_dict()), 1, 1, seeded(0)))
    nn.functional.cross_entropy(network(task.inputs), task.labels).backward()
    for name, value in network.named_parameters():
        torch.testing.assert_close(done.state[name], value.detach() - 0.1 * value.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", [Mlp(), SmartHomeCnn(normalisation="none")])
def test_split_training_without_mechanisms_is_whole_training(model) -> None:
    whole = step(task_of(Fedavg(local_epochs=2), model=model))[0].tensors["update"]
    split = step(task_of(SplitFederated(local_epochs=2), model=model))[0].tensors["update"]
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-5)


def test_split_training_cuts_where_it_is_told() -> None:
    channel = step(task_of(SplitFederated(cut="activation1"), model=SmartHomeCnn(normalisation="none")))[1]
    sent = channel.traffic["device-000", EDGE, "features and labels"].bytes
    assert sent == ROWS * (30 * 4 * 4 * 4 + 8)


def test_noise_from_the_system_differs_between_runs_and_from_the_seed_does_not() -> None:
    noisy = task_of(SplitFederated(), BoundedNormalisation(64), Laplace(1.0))
    assert torch.equal(step(noisy)[0].tensors["update"], step(noisy)[0].tensors["update"])
    secret = replace(noisy, reproducible=False)
    assert not torch.equal(step(secret)[0].tensors["update"], step(secret)[0].tensors["update"])


def test_a_view_keeps_every_release_of_the_first_rows() -> None:
    task = task_of(SplitFederated(local_epochs=3), BoundedNormalisation(64), Laplace(1.0))
    _, channel, _ = step(task, devices(2)[1], Keep(EDGE, 5, 3))
    assert channel.seen["features"].shape == (5, 3, 128)
    assert (channel.seen["features"].abs().sum((1, 2)) > 0).all()
    assert torch.equal(channel.seen["labels"][:, 0], task.labels[48:53])
    small = step(task, devices(32)[0], Keep(EDGE, 50, 3))[1]
    assert small.seen["features"].shape[0] == 3


def test_noised_updates_are_clipped_first() -> None:
    task = task_of(Fedavg(learning_rate=0.5), Clip(1e-3), Gaussian(1e-9))
    assert step(task)[0].tensors["update"].norm() <= 1.001e-3


def test_the_documents_claim_and_what_a_record_really_costs() -> None:
    chain = (BoundedNormalisation(64, over="batch"), Laplace(2 * 63**0.5 / 2))
    promise = replace(promise_of(chain), dimension=3920)
    claim, own, coupled, label, front = SplitFederated(rounds=1).guarantees(promise)
    assert (claim.unit, claim.epsilon, claim.releases) == ("coordinate", 2.0, 1)
    assert own.unit == "record"
    assert own.epsilon == pytest.approx(4786, abs=1)
    assert coupled.epsilon > 50 * own.epsilon
    assert not label.formal
    assert not front.formal


def test_a_model_that_couples_records_counts_as_much_as_a_mechanism_that_does() -> None:
    chain = (BoundedNormalisation(64), Laplace(8.0))
    alone = SplitFederated(rounds=1).guarantees(promise_of(chain))
    inside = SplitFederated(rounds=1).guarantees(promise_of(chain, coupled=64))
    assert len(inside) == len(alone) + 1
    assert inside[2].epsilon > alone[1].epsilon


def test_device_level_guarantees_on_the_device_and_on_the_server() -> None:
    alone = Fedavg(rounds=4).guarantees(promise_of((Clip(1.0), Gaussian(10.0))))
    assert [(entry.unit, entry.releases) for entry in alone] == [("device", 4)]
    both = Fedavg(rounds=4).guarantees(promise_of((Clip(1.0),), (Gaussian(10.0),)))
    assert not both[0].formal
    assert both[1].epsilon < alone[0].epsilon


def test_precision_is_chosen_and_said() -> None:
    network, inputs, labels = SmartHomeCnn().build((1, 28, 28), 10), torch.rand(4, 1, 28, 28), torch.arange(4)
    state = clone(network.state_dict())
    assert str(choose("auto", network, inputs, labels, reproducible=True)) == "float32, channels last"
    assert str(choose("bfloat16", network, inputs, labels, reproducible=True)) == "bfloat16, channels last"
    measured = choose("auto", network, inputs, labels, reproducible=False)
    assert str(measured).split(",")[0] in ("float32", "bfloat16")
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    flat = torch.rand(4, 10)
    assert str(choose("auto", Mlp().build((10,), 10), flat, labels, reproducible=False)) == "float32"
