"""Optimisers and personalisation against slow twins that write out the papers' equations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from privet.aggregation.mean import Mean
from privet.engines import Channel, InProcess, Message
from privet.errors import PartError, PlanError
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.mechanisms.clip import Clip
from privet.mechanisms.gaussian import Gaussian
from privet.models.mlp import Mlp
from privet.models.smart_home_cnn import SmartHomeCnn
from privet.randomness import seeded
from privet.study.plan import Plan
from privet.tensors import clone, flatten
from privet.training import Coordinator, LocalStep, Task
from privet.training.contract import Promise
from privet.training.descent import batches
from privet.training.memory import by_owner, joined, of_device
from privet.training.precision import Precision
from privet.training.protocols.admm import Admm
from privet.training.protocols.ditto import Ditto
from privet.training.protocols.downpour import Downpour
from privet.training.protocols.fedadam import Fedadam
from privet.training.protocols.fedavg import Fedavg
from privet.training.protocols.fedper import Fedper
from privet.training.protocols.fedprox import Fedprox
from privet.training.protocols.fedyogi import Fedyogi
from privet.training.protocols.fine_tune import FineTune
from privet.training.protocols.parallel_sgd import ParallelSgd
from privet.training.protocols.scaffold import Scaffold
from privet.training.protocols.selective_sgd import SelectiveSgd

ROWS, CLASSES = 60, 3


def task_of(protocol, *mechanisms, model=None) -> Task:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) % CLASSES
    inputs = torch.rand(CLASSES, 1, 4, 4, generator=generator)[labels]
    inputs = inputs + 0.3 * torch.rand(ROWS, 1, 4, 4, generator=generator)
    return Task(model or Mlp((8,)), protocol, Chain(mechanisms), inputs, labels, CLASSES, Precision(), 100, 5, True)


def fleet(count: int = 3, sorted_by_label: bool = True) -> list[Device]:
    order = np.argsort(np.arange(ROWS) % CLASSES, kind="stable") if sorted_by_label else np.arange(ROWS)
    profile, shards = find_profile("phone"), [np.sort(shard) for shard in np.array_split(order, count)]
    return [Device(f"device-{k:03}", profile, shards[k], Always(), Honest()) for k in range(count)]


def rounds(protocol, last: int, devices=None, *mechanisms):
    task = task_of(protocol, *mechanisms)
    coordinator = Coordinator(InProcess(), LocalStep(task), devices or fleet(), Mean(), Chain())
    return task, list(coordinator.rounds(clone(task.network().state_dict()), 1, last, seeded(0)))


@pytest.mark.parametrize("kind", [Fedadam, Fedyogi])
def test_server_steps_are_those_of_reddi_et_al_written_out(kind) -> None:
    protocol = kind(server_learning_rate=0.3, beta1=0.8, beta2=0.9, tau=0.02)
    first, second, memory = np.zeros(5), np.full(5, 0.02**2), {}
    for number in range(4):
        update = torch.randn(5, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        moved, memory = protocol.serve(update, memory, 1.0)
        change = update.numpy()
        first = 0.8 * first + 0.2 * change
        if kind is Fedadam:
            second = 0.9 * second + 0.1 * change**2
        else:
            second = second - 0.1 * change**2 * np.sign(second - change**2)
        np.testing.assert_allclose(moved, 0.3 * first / (np.sqrt(second) + 0.02), rtol=1e-12)


def test_scaffold_is_option_two_written_out() -> None:
    task, done = rounds(Scaffold(local_epochs=2, batch_size=8, learning_rate=0.1), 3)
    network = task.network()
    model = [value.detach().clone() for value in network.parameters()]
    zeros = [torch.zeros_like(value) for value in model]
    control, own = list(zeros), {device.identity: list(zeros) for device in fleet()}
    for number in range(1, 4):
        moves, changes = [], []
        for device in fleet():
            with torch.no_grad():
                for parameter, value in zip(network.parameters(), model, strict=True):
                    parameter.copy_(value)
            shuffle, steps = seeded(task.seed, "device", device.identity, number).child("shuffle"), 0
            inputs, labels = task.inputs[device.shard], task.labels[device.shard]
            for _ in range(2):
                for rows in batches(len(labels), 8, shuffle):
                    network.zero_grad()
                    nn.functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()
                    steps += 1
                    with torch.no_grad():
                        for place, parameter in enumerate(network.parameters()):
                            parameter -= 0.1 * (parameter.grad - own[device.identity][place] + control[place])
            trained = [value.detach().clone() for value in network.parameters()]
            fresh = [
                mine - shared + (before - after) / (steps * 0.1)
                for mine, shared, before, after in zip(own[device.identity], control, model, trained, strict=True)
            ]
            moves.append([after - before for before, after in zip(model, trained, strict=True)])
            changes.append([new - old for new, old in zip(fresh, own[device.identity], strict=True)])
            own[device.identity] = fresh
        model = [value + sum(move[k] for move in moves) / 3 for k, value in enumerate(model)]
        control = [value + sum(change[k] for change in changes) / 3 for k, value in enumerate(control)]
    expected = dict(zip([name for name, _ in network.named_parameters()], model, strict=True))
    for name, value in expected.items():
        torch.testing.assert_close(done[-1].state[name], value, rtol=1e-3, atol=1e-5)


def test_scaffolds_control_is_the_mean_of_the_devices_and_crosses_once_each_way() -> None:
    task, done = rounds(Scaffold(local_epochs=2, learning_rate=0.1), 3)
    owners = by_owner(done[-1].memory)
    mean = torch.stack([owners[of_device(device.identity)]["control"] for device in fleet()]).mean(0)
    torch.testing.assert_close(owners["server"]["control"], mean, rtol=1e-3, atol=1e-5)
    size = 4 * len(flatten(done[-1].state))
    mine = [entry for entry in done[-1].traffic if "device-000" in (entry.sender, entry.receiver)]
    crossed = {(entry.sender, entry.kind): entry.bytes for entry in mine}
    assert crossed == {
        ("coordinator", "global model"): size,
        ("coordinator", "shared"): size,
        ("device-000", "update"): 2 * size,
    }
    assert task.protocol.vectors == 2


def test_selective_sgd_sends_the_largest_and_keeps_the_rest() -> None:
    every = rounds(Fedavg(), 1)[1][0]
    _, (done,) = rounds(SelectiveSgd(share=1.0), 1)
    assert torch.equal(flatten(done.state), flatten(every.state))
    task = task_of(SelectiveSgd(share=0.1))
    step, device, state = LocalStep(task), fleet()[0], clone(task.network().state_dict())
    channel = Channel(device.identity, 1)
    reply = step(device, Message(1, state), channel)
    sent, rest = reply.tensors["update"], reply.kept["rest"]
    whole = LocalStep(task_of(Fedavg()))(device, Message(1, state), Channel(device.identity, 1)).tensors["update"]
    assert torch.equal(sent + rest, whole)
    count = math.ceil(0.1 * len(whole))
    assert int((sent != 0).sum()) == count
    assert sent[sent != 0].abs().min() >= rest.abs().max()
    assert channel.traffic["device-000", "coordinator", "update"].bytes == 8 * count
    later = step(device, Message(1, state, memory={device.identity: reply.kept}), Channel(device.identity, 1))
    torch.testing.assert_close(later.tensors["update"] + later.kept["rest"], whole + rest)


def test_what_is_selected_was_noised_first() -> None:
    task = task_of(SelectiveSgd(share=0.2), Clip(1e-6), Gaussian(1e-9))
    device, state = fleet()[0], clone(task.network().state_dict())
    reply = LocalStep(task)(device, Message(1, state), Channel(device.identity, 1))
    assert reply.tensors["update"].norm() < 2e-6
    assert reply.kept["rest"].norm() < 2e-6


def test_admms_model_is_the_mean_of_the_devices_sums() -> None:
    _, done = rounds(Admm(local_epochs=3, learning_rate=0.1), 4)
    owners = by_owner(done[-1].memory)
    sums = torch.stack([owners[of_device(device.identity)]["sum"] for device in fleet()])
    torch.testing.assert_close(sums.mean(0), flatten(done[-1].state), rtol=1e-4, atol=1e-5)
    assert (sums - flatten(done[-1].state)).norm(dim=1).min() > 0.1


def test_admms_first_round_is_fedprox_and_its_second_is_not() -> None:
    together = {"local_epochs": 3, "learning_rate": 0.1}
    admm = rounds(Admm(penalty=0.5, **together), 2)[1]
    prox = rounds(Fedprox(proximal=0.5, **together), 2)[1]
    torch.testing.assert_close(flatten(admm[0].state), flatten(prox[0].state), rtol=1e-4, atol=1e-6)
    assert (flatten(admm[1].state) - flatten(prox[1].state)).norm() > 1e-3


def test_fedpers_head_never_leaves() -> None:
    task, done = rounds(Fedper(local_epochs=2, learning_rate=0.1), 3)
    start, last = task.network().state_dict(), done[-1]
    assert torch.equal(last.state["logits.weight"], start["logits.weight"])
    assert not torch.equal(last.state["linear1.weight"], start["linear1.weight"])
    owners = by_owner(last.memory)
    heads = [owners[of_device(device.identity)]["logits.weight"] for device in fleet()]
    assert not torch.equal(heads[0], heads[1])
    body = 4 * sum(start[name].numel() for name in ("linear1.weight", "linear1.bias"))
    assert {entry.bytes for entry in last.traffic} == {body}


def test_fedpers_noise_does_not_reach_the_head() -> None:
    task, (done,) = rounds(Fedper(), 1, None, Clip(1.0), Gaussian(0.1))
    assert torch.equal(done.state["logits.bias"], task.network().state_dict()["logits.bias"])


def test_fedper_refuses_a_model_without_a_body() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(PartError, match="nothing is left to share"):
        Fedper().fits(network)


def test_protocols_that_move_parameters_only_refuse_buffers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    for protocol in (Fedadam(), Fedyogi(), Scaffold()):
        with pytest.raises(PartError, match="running_mean"):
            protocol.fits(network)
    Fedavg().fits(network)
    Scaffold().fits(SmartHomeCnn(normalisation="none").build((1, 28, 28), 10))


def test_dittos_global_model_is_fedavgs_and_its_own_is_a_fedprox_step_from_it() -> None:
    plain = rounds(Fedavg(local_epochs=2), 2)[1]
    task, done = rounds(Ditto(local_epochs=2, proximal=0.3), 2)
    assert torch.equal(flatten(done[-1].state), flatten(plain[-1].state))
    owners = by_owner(done[0].memory)
    start = flatten(task.network().state_dict())
    assert all((owners[of_device(device.identity)]["own"] - start).norm() > 0 for device in fleet())
    strong = by_owner(rounds(Ditto(local_epochs=2, proximal=20.0), 1)[1][0].memory)
    for device in fleet():
        owner = of_device(device.identity)
        assert (strong[owner]["own"] - start).norm() < (owners[owner]["own"] - start).norm()


def test_fine_tuning_goes_on_from_the_global_model_and_changes_no_message() -> None:
    plain = rounds(Fedavg(), 2)[1]
    task, done = rounds(FineTune(personal_epochs=7), 2)
    assert torch.equal(flatten(done[-1].state), flatten(plain[-1].state))
    assert not done[-1].memory
    own = LocalStep(task).personal(fleet()[0], Message(2, done[-1].state), Channel("device-000", 2))
    assert not torch.equal(flatten(own), flatten(done[-1].state))


def test_vectors_keep_their_places_whatever_the_layout() -> None:
    task = task_of(Fedavg(), model=SmartHomeCnn(normalisation="none"))
    vector = torch.randn(len(flatten(task.network().state_dict())))
    for layout in (Precision(), Precision(channels_last=True)):
        bench = LocalStep(Task(**{**vars(task), "precision": layout}))._bench
        before = bench.read()
        values = bench.laid_out(vector)
        assert torch.equal(bench.read(), before)
        bench.descent.values.copy_(values)
        assert torch.equal(bench.read(), vector)


def test_memory_by_owner_and_back() -> None:
    owners = {"server": {"a.b": torch.ones(1)}, "device.device-001": {"logits.weight": torch.zeros(2)}}
    assert {owner: set(state) for owner, state in by_owner(joined(owners)).items()} == {
        "server": {"a.b"},
        "device.device-001": {"logits.weight"},
    }


def test_guarantees_count_both_vectors_of_a_reply() -> None:
    promise = Promise(
        Chain((Clip(1.0), Gaussian(5.0))), Chain(()), 20, 1e-5, "replace-one", 4, Mean(equal_weights=True).bound
    )
    assert Scaffold(rounds=4).guarantees(promise)[0].epsilon == Fedavg(rounds=4).guarantees(promise)[0].epsilon


def uneven(*sizes: int) -> list[Device]:
    profile, cuts = find_profile("phone"), np.cumsum((0, *sizes))
    order = np.random.default_rng(1).permutation(ROWS)
    shards = [np.sort(order[cuts[k] : cuts[k + 1]]) for k in range(len(sizes))]
    return [Device(f"device-{k:03}", profile, shards[k], Always(), Honest()) for k in range(len(sizes))]


def test_downpour_of_one_device_is_fedavg() -> None:
    plain = rounds(Fedavg(rounds=3), 3, uneven(60))[1]
    pushed = rounds(Downpour(rounds=3), 3, uneven(60))[1]
    for one, other in zip(plain, pushed, strict=True):
        torch.testing.assert_close(flatten(one.state), flatten(other.state), rtol=1e-5, atol=1e-7)
    assert [done.staleness for done in pushed] == [[("device-000", 0)]] * 3


def test_downpours_pushes_come_in_their_modelled_order_and_count_how_old_they_are() -> None:
    task = replace(task_of(Downpour(rounds=3)), multiplications=10**10)  # so that the transfers don't decide
    coordinator = Coordinator(InProcess(), LocalStep(task), uneven(10, 45), Mean(), Chain())
    done = list(coordinator.rounds(clone(task.network().state_dict()), 1, 3, seeded(0)))
    slow = task.compute_seconds(uneven(10, 45)[1])
    assert [[identity for identity, _ in each.staleness] for each in done] == [
        ["device-000", "device-000"],
        ["device-000", "device-001"],
        ["device-001", "device-001"],
    ]
    assert [pushes for each in done for _, pushes in each.staleness] == [0, 0, 0, 3, 0, 0]
    assert sum(max(each.delays.values()) for each in done) == pytest.approx(3 * slow, rel=0.01)
    assert not [name for name in done[-1].memory if name.endswith("update")]


def test_downpour_moves_by_each_devices_share_of_the_rows() -> None:
    devices = uneven(20, 40)
    task, (done,) = rounds(Downpour(rounds=1), 1, devices)
    state = clone(task.network().state_dict())
    step = LocalStep(task)
    replies = [step(device, Message(1, state), Channel(device.identity, 1)) for device in devices]
    moved = replies[0].tensors["update"] / 3 + replies[1].tensors["update"] * 2 / 3
    torch.testing.assert_close(flatten(done.state) - flatten(state), moved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        "aggregation.name=coordinate-median",
        "aggregation.equal_weights=true",
        "engine.minimum_replies=2",
        "engine.separation=2",
    ],
)
def test_downpour_refuses_what_needs_rounds(setting: str) -> None:
    table = {
        "name": "p",
        "data": {"name": "digits"},
        "fleet": {"devices": 4},
        "model": {"name": "mlp"},
        "training": {"name": "downpour"},
        "aggregation": {"name": "mean"},
    }
    with pytest.raises(PlanError, match="has no rounds in which updates meet"):
        Plan.from_table(table).with_settings([setting])


def test_parallel_sgd_averages_once() -> None:
    alone = [
        LocalStep(task_of(Fedavg(local_epochs=5)))(
            device, Message(1, clone(task_of(Fedavg()).network().state_dict())), Channel(device.identity, 1)
        ).tensors["update"]
        for device in fleet()
    ]
    task, (done,) = rounds(ParallelSgd(local_epochs=5), 1)
    moved = flatten(done.state) - flatten(task.network().state_dict())
    torch.testing.assert_close(moved, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)
