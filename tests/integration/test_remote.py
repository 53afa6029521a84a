"""A device's half of a run, and the engine's, without a network: what is refused, kept, retried and left out."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from privet.accounting import Guarantee
from privet.crypto.signatures import public_key
from privet.engines import InProcess, Message
from privet.engines.packing import unpack_all
from privet.errors import PlanError, PrivetError, RefusedError, RunError, UnreachableError
from privet.governance.work import sign_work
from privet.study.edge import EDGE_PEER, EdgeServer
from privet.study.experiment import Experiment, prepare
from privet.study.plan import Plan
from privet.study.remote import Worker
from privet.study.work import work_of
from privet.tensors import digest
from privet.training.memory import of_device
from privet.transport.contract import Peer
from privet.transport.memory import Exchange

if importlib.util.find_spec("flwr") is None:
    pytest.skip("the extra privet[flower] is not installed", allow_module_level=True)

from fake_grid import Mails
from flwr.app import Error
from flwr.app import Message as Mail

from privet.engines.flower.engine import Flower
from privet.engines.flower.wire import Letter, from_records, head_of, letter, to_records

RELEASE = "ab" * 16
TABLE: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits"},
    "fleet": {"devices": 3},
    "model": {"name": "mlp"},
    "training": {"name": "fedavg", "rounds": 3},
    "reproducible": True,
}
NOISY = [{"name": "clip", "limit": 1.0}, {"name": "gaussian", "sigma": 1.0}]


class Side:
    """A device's side that notes what it is asked."""

    def __init__(self, experiment: Experiment, identity: str, folder: Path) -> None:
        self.identity, self.folder, self.asked = identity, folder, []  # type: ignore[var-annotated]
        device = next(one for one in experiment.devices if one.identity == identity)
        self._rows = experiment.task.inputs[device.shard], experiment.task.labels[device.shard]
        self.no = ""

    def verify(self, signed: bytes, signature: bytes) -> None:
        if signature != b"signed":
            raise RefusedError("not signed")
        self.asked.append("verify")

    def permit(self, work: Mapping[str, Any]) -> None:
        self.asked.append(f"permit {work['round']}")
        if self.no:
            raise RefusedError(self.no)

    def spent(self, work: Mapping[str, Any], guarantee: Guarantee | None) -> None:
        self.asked.append(f"spent {guarantee.epsilon if guarantee else None}")

    def rows(self) -> tuple[Tensor, Tensor]:
        return self._rows


def experiment(**changes: Any) -> Experiment:
    return prepare(Plan(**{**TABLE, **changes}))


def asked(one: Experiment, number: int = 1, sign: bytes = b"signed", **changes: Any) -> Letter:
    """Returns a round's letter to device-000."""
    state = one.task.network().state_dict()
    fields = {"device": "device-000", "round": number, "base": digest(state), "taken": 0, "keep": None}
    base = letter({}, model=state, shared={})
    head = head_of({**fields, "work": work_of(one, RELEASE), **changes}, base.tensors)
    return Letter(head, base.tensors, sign)


def update(answer: Letter) -> Tensor:
    return unpack_all(answer.states("tensors", "seen")[0], 10**6)["update"]


def refused(answer: Letter) -> str:
    return str(answer.fields()["missing"])


def test_answer_is_made_once_in_the_order_verify_permit_spent(tmp_path: Path) -> None:
    one = experiment()
    side = Side(one, "device-000", tmp_path)
    worker = Worker(side)
    first = worker.answer(asked(one))
    assert first.fields()["missing"] == ""
    assert side.asked == ["verify", "permit 1", "spent None"]
    assert worker.answer(asked(one)) == first  # the coordinator was killed and asks again
    assert Worker(side).answer(asked(one)) == first  # the device was, too
    assert side.asked.count("permit 1") == 1
    assert "for another model" in refused(worker.answer(asked(one, base="other")))


def test_same_update_as_in_process(tmp_path: Path) -> None:
    one = experiment()
    state = one.task.network().state_dict()
    message = Message(1, state, digest(state))
    (alone,) = InProcess(single_thread=True).ask(one.devices[:1], one.coordinator.work, message)
    answer = Worker(Side(one, "device-000", tmp_path)).answer(asked(one))
    assert torch.equal(update(answer), alone.tensors["update"])


def test_a_run_is_paid_for_as_it_began(tmp_path: Path) -> None:
    one = experiment(mechanisms={"on_device": NOISY}, privacy={"budget_unit": "device"}, reproducible=False)
    side = Side(one, "device-000", tmp_path)
    worker = Worker(side)
    assert refused(worker.answer(asked(one))) == ""
    (spent,) = [word for word in side.asked if word.startswith("spent")]
    assert float(spent.split()[1]) > 0
    assert "loss" not in worker.answer(asked(one)).fields()["fields"]
    weaker = work_of(one, RELEASE) | {"on_device": []}
    assert "has changed" in refused(worker.answer(asked(one, 2, work=weaker)))


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("not signed", {"sign": b""}),
        ("round 9", {"number": 9}),
        ("round 0", {"number": 0}),
        ("malformed", {"work": None}),
        ("malformed", {"work": {"release": "../../etc"}}),
        ("other fields", {"work": {"release": RELEASE}}),
        ("views are kept of simulated devices", {"keep": {"party": "coordinator", "rows": 1, "releases": 1}}),
    ],
)
def test_what_is_refused(tmp_path: Path, why: str, change: dict[str, Any]) -> None:
    one = experiment()
    side = Side(one, "device-000", tmp_path)
    assert why in refused(Worker(side).answer(asked(one, **change)))
    assert not any(word.startswith("spent") for word in side.asked)


@pytest.mark.parametrize("change", [{"model": {"name": "imported", "function": "os:getcwd"}}, {"shape": [1, 2, 3]}])
def test_other_code_and_other_rows_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    one = experiment()
    answer = Worker(Side(one, "device-000", tmp_path)).answer(asked(one, work=work_of(one, RELEASE) | change))
    assert refused(answer).startswith("refused: ")


def test_noise_from_a_seed_is_refused_by_a_real_device_only(tmp_path: Path) -> None:
    one = experiment(mechanisms={"on_device": NOISY})
    side = Side(one, "device-000", tmp_path)
    assert "a seed that the coordinator knows" in refused(Worker(side).answer(asked(one)))
    assert refused(Worker(side, one.devices[0]).answer(asked(one))) == ""


def test_tampered_tensors_and_a_past_round_are_refused(tmp_path: Path) -> None:
    one = experiment()
    worker = Worker(Side(one, "device-000", tmp_path))
    true = asked(one)
    assert "not those that the head names" in refused(worker.answer(replace(true, tensors=true.tensors + b" ")))
    assert refused(worker.answer(asked(one, 2))) == ""
    assert "round 1 is over" in refused(worker.answer(true))


def test_memory_stays_on_the_device_and_follows_what_the_coordinator_took(tmp_path: Path) -> None:
    one = experiment(training={"name": "scaffold", "rounds": 3})
    worker = Worker(Side(one, "device-000", tmp_path))
    first = worker.answer(asked(one))
    assert first.fields()["kept"] is True
    assert set(unpack_all(first.states("tensors", "seen")[0], 10**6)) == {"update"}
    alike = update(worker.answer(asked(one, 2, taken=0)))
    assert refused(worker.answer(asked(one, 3, taken=2))) == ""
    other = Worker(Side(one, "device-000", tmp_path / "other"))
    other.answer(asked(one))
    differs = update(other.answer(asked(one, 2, taken=1)))
    assert not torch.equal(alike, differs)
    (tmp_path / "other" / "work" / RELEASE / "memory-2.safetensors").unlink()
    assert "is gone" in refused(other.answer(asked(one, 3, taken=2)))


def test_plans_that_devices_elsewhere_cannot_run_are_refused() -> None:
    with pytest.raises(PlanError, match="does not run ditto yet"):
        work_of(experiment(training={"name": "ditto", "rounds": 2}), RELEASE)


@pytest.mark.parametrize("head", [b"[]", b"{", b"\xff", b"{}", b"[" * 100_000])
def test_heads_that_are_none(head: bytes) -> None:
    with pytest.raises(RunError):
        Letter(head, b"").fields()


class FakeGrid(Mails):
    """A grid whose devices answer at once, or not; it loses the first so many pushes."""

    def __init__(self, answer: Callable[[int, Letter], Letter | str | None], loses: int = 0) -> None:
        super().__init__(loses)
        self.answer = answer

    def pull_messages(self, numbers: Sequence[str]) -> Iterator[Mail]:
        for number in numbers:
            mail = self.mails.get(number)
            answer = None if mail is None else self.answer(mail.metadata.dst_node_id, from_records(mail.content))
            if mail is None or answer is None:
                continue
            del self.mails[number]
            yield (
                Mail(Error(5, answer), reply_to=mail)
                if isinstance(answer, str)
                else Mail(to_records(answer), reply_to=mail)
            )


def engine(one: Experiment, grid: FakeGrid, **settings: Any) -> Flower:
    return Flower(
        grid=grid,  # type: ignore[arg-type]
        numbers={device.identity: number for number, device in enumerate(one.devices)},
        describe=lambda work: work_of(one, RELEASE),
        sign=lambda head: b"signed",
        home=InProcess(),
        **settings,
    )


def ask(one: Experiment, flower: Flower, number: int = 1) -> dict[str, Any]:
    state = one.task.network().state_dict()
    message = Message(number, state, digest(state))
    return {reply.device: reply for reply in flower.ask(one.devices, one.coordinator.work, message)}


def workers(one: Experiment, folder: Path) -> Callable[[int, Letter], Letter]:
    known = {n: Worker(Side(one, device.identity, folder / str(n)), device) for n, device in enumerate(one.devices)}
    return lambda node, asked: known[node].answer(asked)


def test_messages_that_could_not_be_sent_are_sent_again(tmp_path: Path) -> None:
    one = experiment()
    flower = engine(one, FakeGrid(workers(one, tmp_path), loses=2))
    assert [reply.missing for reply in ask(one, flower).values()] == ["", "", ""]
    assert flower.sent > 0 < flower.received
    lost = ask(one, engine(one, FakeGrid(workers(one, tmp_path), loses=99)))
    assert {reply.missing for reply in lost.values()} == {"could not be reached"}


def test_a_rounded_update_takes_a_quarter_of_the_bytes_and_arrives_bit_for_bit(tmp_path: Path) -> None:
    received, saved = {}, {}
    for name in ("fedavg", "int8-sgd"):
        one = experiment(training={"name": name, "rounds": 1})
        flower = engine(one, FakeGrid(workers(one, tmp_path / name)))
        replies = ask(one, flower)
        state = one.task.network().state_dict()
        for alone in InProcess(single_thread=True).ask(
            one.devices, one.coordinator.work, Message(1, state, digest(state))
        ):
            assert torch.equal(replies[alone.device].tensors["update"], alone.tensors["update"])
        received[name], saved[name] = flower.received, flower.saved
    assert saved["fedavg"] == 0
    assert received["int8-sgd"] < 0.35 * received["fedavg"]
    assert abs(saved["int8-sgd"] - (received["fedavg"] - received["int8-sgd"])) < 2000


@pytest.mark.parametrize(
    "tensors",
    [
        {"update:bytes": torch.zeros(5, dtype=torch.int8)},
        {"update:values": torch.ones(2), "update:places": torch.tensor([0, 9])},
        {"update:values": torch.ones(1), "update:places": torch.tensor([0]), "update:length": torch.tensor([10**12])},
        {"update:other": torch.ones(3)},
    ],
)
def test_what_is_no_packed_update_is_missing_with_the_reason(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    one = experiment()
    able = workers(one, tmp_path)

    def answer(node: int, what: Letter) -> Letter:
        fields = able(node, what).fields()
        return letter({**fields}, tensors=tensors, seen={})

    replies = ask(one, engine(one, FakeGrid(answer)))
    assert all(reply.missing.startswith("malformed") for reply in replies.values())


def test_late_replies_are_named_and_counted_when_they_come(tmp_path: Path) -> None:
    one = experiment()
    able, open_ = workers(one, tmp_path), [False]
    flower = engine(one, FakeGrid(lambda node, what: able(node, what) if node or open_[0] else None), deadline=0.5)
    assert ask(one, flower)["device-000"].missing == "late: no reply within 0.5 s"
    open_[0] = True
    ask(one, flower, 2)
    assert flower.late == [("device-000", 1)]


def test_a_device_that_comes_back_in_a_round_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.engines.flower import engine as module

    monkeypatch.setattr(module, "LOOK", 0.1)
    one = experiment()
    able, asked_of, looks = workers(one, tmp_path), [0, 0, 0], [0]

    def answer(node: int, what: Letter) -> Letter | None:
        asked_of[node] += 1
        return None if node == 0 and looks[0] < 2 else able(node, what)

    def activated() -> dict[str, str]:
        looks[0] += 1
        if looks[0] == 2:
            grid.mails.clear()  # the device was killed with the message in its hands
            raise UnreachableError("busy")
        return {device.identity: "later" if looks[0] > 2 and number == 0 else "" for number, device in numbered}

    grid, numbered = FakeGrid(answer), list(enumerate(one.devices))
    flower = engine(one, grid, deadline=20, activated=activated)
    assert [reply.missing for reply in ask(one, flower).values()] == ["", "", ""]
    assert looks[0] >= 3


def test_a_model_of_another_size_than_the_work_says_is_never_built(tmp_path: Path) -> None:
    one = experiment()
    side = Side(one, "device-000", tmp_path)
    huge = work_of(one, RELEASE) | {"model": {"name": "mlp", "hidden": [10**6] * 3}}
    assert "and the work says" in refused(Worker(side).answer(asked(one, work=huge)))
    assert side.asked == ["verify", "permit 1"]  # consent and limits come before anything is built
    side.no = "too large"
    assert refused(Worker(side).answer(asked(one, 2, work=work_of(one, "cd" * 16)))) == "refused: too large"


SPLIT: dict[str, Any] = {
    "model": {"name": "smart-home-cnn", "bound": 3.0},
    "training": {"name": "split-federated", "rounds": 2, "batch_size": 16},
    "mechanisms": {
        "on_device": [
            {"name": "bounded-normalisation", "over": "batch"},
            {"name": "laplace", "epsilon_per_coordinate": 2.0},
        ]
    },
}


@pytest.mark.parametrize("reproducible", [True, False])
def test_features_leave_once_unless_their_noise_is_the_same_again(tmp_path: Path, reproducible: bool) -> None:
    one = experiment(**SPLIT, reproducible=reproducible)
    work_key = bytes(range(32))
    server, exchange = EdgeServer(public_key(work_key)), Exchange()
    calls = []

    class Broken:
        def call(self, method: str, body: bytes, timeout: float) -> bytes:
            calls.append(method)
            if method == "train" and calls.count("train") == 3:
                raise RefusedError("the edge server was killed, and its sessions with it")
            return exchange.client(Peer("device", "device-000"), EDGE_PEER).call(method, body, timeout)

        def close(self) -> None:
            pass

    exchange.services[EDGE_PEER] = server.service
    side = Side(one, "device-000", tmp_path)
    side.verify = lambda signed, signature: None  # type: ignore[method-assign]
    worker = Worker(side, one.devices[0], lambda port: Broken())
    asking = asked(one, edge=8443)
    asking = replace(asking, signature=sign_work(work_key, asking.head))
    assert "was killed" in refused(worker.answer(asking))
    again = worker.answer(asking)
    if reproducible:
        assert refused(again) == ""
        state = one.task.network().state_dict()
        message = Message(1, state, digest(state))
        (alone,) = InProcess(single_thread=True).ask(one.devices[:1], one.coordinator.work, message)
        assert torch.equal(update(again), alone.tensors["update"])
    else:
        assert "they are released once" in refused(again)


def test_over_selection_stops_once_enough_answered(tmp_path: Path) -> None:
    one = experiment()
    replies = ask(one, engine(one, FakeGrid(workers(one, tmp_path)), enough=2))
    assert sorted(reply.missing for reply in replies.values()) == ["", "", "not needed: 2 others were faster"]


def test_every_device_refusing_is_the_coordinators_refusal(tmp_path: Path) -> None:
    one = experiment()

    def no(node: int, what: Letter) -> Letter:
        side = Side(one, f"device-{node:03d}", tmp_path / str(node))
        side.no = "over budget"
        return Worker(side).answer(what)

    with pytest.raises(RefusedError, match=r"every device refused; device-00\d refused: over budget"):
        ask(one, engine(one, FakeGrid(no)))


def _bad(
    change: Callable[[dict[str, Any]], Any], able: Callable[[int, Letter], Letter]
) -> Callable[[int, Letter], Any]:
    def answer(node: int, what: Letter) -> Letter:
        true = able(node, what)
        head = json.loads(true.head)
        change(head)
        return Letter(json.dumps(head).encode(), true.tensors)

    return answer


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("answers for another device", lambda head: head.update(device="device-009")),
        ("malformed", lambda head: head.pop("round")),
        ("malformed", lambda head: head.update(fields=[1])),
        ("malformed", lambda head: head.update(traffic=[{"odd": 1}])),
        ("malformed", lambda head: head.update(tensors="0" * 64)),
        ("malformed", lambda head: head.update(round="x")),
        ("malformed", lambda head: head.update(fields={"loss": "x"})),
    ],
)
def test_malformed_replies_are_missing_with_the_reason(
    tmp_path: Path, why: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    one = experiment()
    replies = ask(one, engine(one, FakeGrid(_bad(change, workers(one, tmp_path)))))
    assert all(why in reply.missing for reply in replies.values())


def test_a_node_that_is_gone_is_missing_with_flowers_reason(tmp_path: Path) -> None:
    one = experiment()
    replies = ask(one, engine(one, FakeGrid(lambda node, what: "Node unavailable")))
    assert {reply.missing for reply in replies.values()} == {"no answer: Node unavailable"}


def test_what_stays_at_the_coordinator_of_a_memory_is_its_round(tmp_path: Path) -> None:
    one = experiment(training={"name": "scaffold", "rounds": 1})
    coordinator = replace(one.coordinator, engine=engine(one, FakeGrid(workers(one, tmp_path))))
    (done,) = coordinator.rounds(one.task.network().state_dict(), 1, 1, one.task.noise("server"))
    assert {name for name in done.memory if name.startswith("device.")} == {
        f"{of_device(device.identity)}.round" for device in one.devices
    }


def test_records_without_a_letter_are_refused() -> None:
    from flwr.app import RecordDict

    with pytest.raises(PrivetError, match="malformed"):
        from_records(RecordDict({}))
