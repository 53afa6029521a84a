"""The edge server: the same training as in one process, sessions apart, what is wrong refused, memory bounded."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch

from privet.crypto.signatures import public_key
from privet.engines import Channel, Message, Reply
from privet.errors import InputError, RefusedError, RunError, UnreachableError
from privet.governance.work import sign_work
from privet.study.edge import EDGE_PEER, EdgeServer, RemoteEdge
from privet.study.experiment import Experiment, prepare
from privet.study.plan import Plan
from privet.study.work import work_of
from privet.tensors import State, digest, to_bytes
from privet.training import LocalStep
from privet.transport.contract import Peer
from privet.transport.memory import Exchange

SECRET, RELEASE = bytes(range(32)), "cd" * 16
TABLE: dict[str, Any] = {
    "name": "split",
    "data": {"name": "digits"},
    "fleet": {"devices": 2, "examples_per_device": 40},
    "model": {"name": "smart-home-cnn", "bound": 3.0},
    "training": {"name": "split-federated", "rounds": 2, "local_epochs": 2, "batch_size": 16},
    "mechanisms": {
        "on_device": [
            {"name": "bounded-normalisation", "over": "batch"},
            {"name": "laplace", "epsilon_per_coordinate": 2.0},
        ]
    },
    "reproducible": True,
}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return prepare(Plan(**TABLE))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Lossy:
    """A way that loses answers: every call is made, and each second answer gets lost."""

    def __init__(self, client: Any) -> None:
        self.client, self.calls, self.lost = client, 0, 2

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        self.calls += 1
        answer: bytes = self.client.call(method, body, timeout)
        if self.calls % self.lost == 0:
            raise UnreachableError("lost")
        return answer

    def close(self) -> None:
        self.client.close()


def head_of(one: Experiment, number: int = 1, **changes: Any) -> bytes:
    fields = {"device": "device-000", "round": number, "base": "", "taken": 0, "keep": None}
    return json.dumps({**fields, "work": {**work_of(one, RELEASE), **changes}}).encode()


def served(name: str = "one", **options: Any) -> tuple[EdgeServer, Any]:
    server, exchange = EdgeServer(public_key(SECRET), **options), Exchange()
    exchange.services[EDGE_PEER] = server.service
    return server, lambda who=name: exchange.client(Peer("device", who), EDGE_PEER)


def session(one: Experiment, client: Any, number: int = 1, **changes: Any) -> RemoteEdge:
    head = head_of(one, number, **changes)
    return RemoteEdge(client, head, sign_work(SECRET, head), pause=0.0)


def head_state(one: Experiment) -> State:
    return dict(one.task.bench().head.state_dict())


def batch(one: Experiment, rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    bench = one.task.bench()
    with torch.no_grad():
        return bench.front(one.task.inputs[:rows]).contiguous(), one.task.labels[:rows]


def test_a_round_at_an_edge_server_is_that_of_one_process_bit_for_bit(experiment: Experiment) -> None:
    state = experiment.task.network().state_dict()
    _, way = served()
    alone, device = LocalStep(experiment.task), experiment.devices[0]
    for number in (1, 2):
        message = Message(number, state, digest(state))
        lossy = Lossy(way())
        far = alone.at(session(experiment, lossy, number))
        answers: list[Reply] = [step(device, message, Channel(device.identity, number)) for step in (alone, far)]
        assert torch.equal(answers[0].tensors["update"], answers[1].tensors["update"])
        assert answers[0].fields["loss"] == answers[1].fields["loss"]
        assert lossy.calls > 8  # a call a batch, and those that were lost
        assert answers[0].tensors["update"].abs().max() > 0


def test_sessions_of_two_devices_do_not_touch(experiment: Experiment) -> None:
    server, way = served()
    first, second, alone = (session(experiment, way(who)) for who in ("one", "two", "three"))
    features, labels = batch(experiment)
    for edge in (first, second, alone):
        edge.open(head_state(experiment))
    for _ in range(3):
        second.train(features * 5, labels.flip(0))
        first.train(features, labels)
    for _ in range(3):
        alone.train(features, labels)
    assert (server.sessions, server.opened, server.batches) == (3, 3, 9)
    assert digest(first.close()) == digest(alone.close()) != digest(second.close())


def test_a_batch_is_learnt_from_once(experiment: Experiment) -> None:
    _, way = served()
    client, edge = way(), session(experiment, way())
    edge.open(head_state(experiment))
    features, labels = batch(experiment)
    body = struct.pack(">16sIQ", bytes.fromhex(RELEASE), 1, 1) + to_bytes({"features": features, "labels": labels})
    first = client.call("train", body, 1)
    assert client.call("train", body, 1) == first
    once = edge.close()
    again = session(experiment, way("two"))
    again.open(head_state(experiment))
    again.train(features, labels)
    assert digest(again.close()) == digest(once)
    skipped = struct.pack(">16sIQ", bytes.fromhex(RELEASE), 1, 9) + body[28:]
    with pytest.raises(RefusedError, match="batch 9 comes after batch 1"):
        client.call("train", skipped, 1)


@pytest.mark.parametrize(
    "flaw", ["unsigned", "other key", "too large", "understated", "no edge", "other round", "other device"]
)
def test_who_may_not_is_refused(experiment: Experiment, flaw: str) -> None:
    server, way = served()
    if flaw in ("unsigned", "other key"):
        head = head_of(experiment)
        signature = b"" if flaw == "unsigned" else sign_work(bytes(32), head)
        with pytest.raises(RefusedError, match="not signed"):
            RemoteEdge(way(), head, signature).open(head_state(experiment))
    elif flaw == "too large":
        with pytest.raises(RefusedError, match="a model of 100000000 bytes"):
            session(experiment, way(), bytes=100_000_000).open(head_state(experiment))
    elif flaw == "understated":
        with pytest.raises(RefusedError, match="and the work says 1000"):
            session(experiment, way(), bytes=1000).open(head_state(experiment))
    elif flaw == "no edge":
        with pytest.raises(RefusedError, match="needs no edge server"):
            session(experiment, way(), training={"name": "fedavg", "rounds": 2}).open(head_state(experiment))
    else:
        session(experiment, way()).open(head_state(experiment))
        other = session(experiment, way() if flaw == "other round" else way("two"), 2 if flaw == "other round" else 1)
        with pytest.raises(RefusedError, match="no such session"):
            other.train(*batch(experiment))
    assert server.sessions == (1 if flaw.startswith("other ") and flaw != "other key" else 0)


@pytest.mark.parametrize("flaw", ["shape", "dtype", "labels", "class", "empty", "names", "bytes"])
def test_a_wrong_batch_is_refused_and_the_session_goes_on(experiment: Experiment, flaw: str) -> None:
    _, way = served()
    edge = session(experiment, way())
    edge.open(head_state(experiment))
    features, labels = batch(experiment)
    wrong: dict[str, State] = {
        "shape": {"features": features[:, :1], "labels": labels},
        "dtype": {"features": features.double(), "labels": labels},
        "labels": {"features": features, "labels": labels[:3]},
        "class": {"features": features, "labels": labels + 100},
        "empty": {"features": features[:0], "labels": labels[:0]},
        "names": {"f": features},
    }
    place = struct.pack(">16sIQ", bytes.fromhex(RELEASE), 1, 1)
    with pytest.raises(InputError):
        way().call("train", place + (b"no tensors" if flaw == "bytes" else to_bytes(wrong[flaw])), 1)
    edge.train(features, labels)


@pytest.mark.parametrize("body", [b"", bytes(68), b"\xff" * 200])
@pytest.mark.parametrize("method", ["open", "train", "close"])
def test_malformed_calls_are_refused(method: str, body: bytes) -> None:
    _, way = served()
    with pytest.raises((InputError, RefusedError)):
        way().call(method, body, 1)


def test_another_models_head_is_refused(experiment: Experiment) -> None:
    _, way = served()
    state = head_state(experiment)
    with pytest.raises(InputError, match="not the head"):
        session(experiment, way()).open({name: value[..., :1] for name, value in state.items()})


def test_sessions_are_bounded_and_silent_ones_end(experiment: Experiment) -> None:
    clock = Clock()
    server, way = served(most=2, idle=10.0, clock=clock)
    edges = [session(experiment, way(f"d{number}")) for number in range(3)]
    for edge in edges[:2]:
        edge.open(head_state(experiment))
    with pytest.raises(UnreachableError, match="has 2 sessions"):
        edges[2].open(head_state(experiment))
    clock.now = 8.0
    edges[0].train(*batch(experiment))
    clock.now = 15.0
    edges[2].open(head_state(experiment))  # the second has been silent for 15 s
    assert server.sessions == 2
    with pytest.raises(RefusedError, match="no such session"):
        edges[1].train(*batch(experiment))
    edges[0].open(head_state(experiment))  # opening again takes no second seat
    assert server.sessions == 2
    clock.now = 99.0
    server.sweep()
    assert server.sessions == 0


class Liar:
    """An edge server that answers nonsense."""

    def __init__(self, answer: State) -> None:
        self.answer = answer

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        return b"" if method == "open" else to_bytes(self.answer)

    def close(self) -> None:
        pass


def test_a_device_believes_no_answer_of_another_form(experiment: Experiment) -> None:
    edge = session(experiment, Liar({"gradient": torch.zeros(3), "loss": torch.zeros(())}))
    edge.open(head_state(experiment))
    with pytest.raises(RunError, match="no gradient"):
        edge.train(*batch(experiment))
    with pytest.raises(RunError, match="no head"):
        edge.close()
