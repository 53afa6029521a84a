"""Asynchronous training over an engine whose devices answer when they are ready; the network is a list of mails."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from privet.engines import InProcess
from privet.errors import InputError, PlanError, RefusedError
from privet.fleet.side import DeviceSide
from privet.randomness import seeded
from privet.study.across import Across
from privet.study.experiment import Experiment, prepare
from privet.study.plan import Plan
from privet.study.remote import Worker
from privet.study.work import work_of
from privet.tensors import State, clone, flatten
from privet.training.coordinator import Round
from privet.training.protocols.downpour import Downpour

if importlib.util.find_spec("flwr") is None:
    pytest.skip("the extra privet[flower] is not installed", allow_module_level=True)

from fake_grid import Mails
from flwr.app import Message as Mail

from privet.engines.flower.engine import Flower
from privet.engines.flower.wire import from_records, to_records

pytestmark = pytest.mark.usefixtures("one_thread")

RELEASE = "ab" * 16


class Side:
    """A device's side that permits everything, unless it is told what to say."""

    def __init__(self, one: Experiment, number: int, folder: Path, no: str = "") -> None:
        device = one.devices[number]
        self.identity, self.folder, self.no = device.identity, folder, no
        self._rows = one.task.inputs[device.shard], one.task.labels[device.shard]

    def verify(self, signed: bytes, signature: bytes) -> None:
        if self.no:
            raise RefusedError(self.no)

    def permit(self, work: Any) -> None:
        pass

    def spent(self, work: Any, guarantee: Any) -> None:
        pass

    def rows(self) -> tuple[Tensor, Tensor]:
        return self._rows


class Post(Mails):
    """A grid that hands replies over in the order of ``order``, as far as these devices have been asked.

    Args:
        workers: of the devices, by number.
        order: in which devices answer; one that is named no more does not answer.
        closed: until when (monotonic) a device does not answer.
        loses: pushes that are lost at first.
    """

    def __init__(self, workers: Sequence[Worker], order: Sequence[int], loses: int = 0) -> None:
        super().__init__(loses)
        self.workers, self.order = workers, list(order)
        self.closed: dict[int, float] = {}

    def pull_messages(self, numbers: Sequence[str]) -> Iterator[Mail]:
        asked = {int(number.partition("-")[0]): number for number in numbers}  # what is late stands last
        while self.order and self.order[0] in asked and time.monotonic() > self.closed.get(self.order[0], 0.0):
            device = self.order.pop(0)
            mail = self.mails.pop(asked.pop(device))
            yield Mail(to_records(self.workers[device].answer(from_records(mail.content))), reply_to=mail)


def experiment(**training: Any) -> Experiment:
    table = {"name": "downpour", "rounds": 2} | training
    fleet = {"devices": 3, "examples_per_device": 30}
    model = {"name": "mlp", "hidden": [4]}
    given = {"name": "own-time", "data": {"name": "digits"}, "fleet": fleet, "model": model, "training": table}
    return prepare(Plan(**given, reproducible=True))


def workers(one: Experiment, folder: Path, no: str = "") -> list[Worker]:
    sides: list[DeviceSide] = [Side(one, n, folder / str(n), no) for n in range(len(one.devices))]
    return [Worker(side, device) for side, device in zip(sides, one.devices, strict=True)]


def run(
    one: Experiment,
    post: Post,
    memory: State | None = None,
    first: int = 1,
    last: int = 2,
    state: State | None = None,
    **settings: Any,
) -> Iterator[Round]:
    settings = {"deadline": 20.0} | settings  # else a test that is wrong would wait for an hour
    flower = Flower(
        grid=post,  # type: ignore[arg-type]
        numbers={device.identity: number for number, device in enumerate(one.devices)},
        describe=lambda work: work_of(one, RELEASE),
        sign=lambda head: b"signed",
        home=InProcess(),
        **settings,
    )
    coordinator = replace(one.coordinator, engine=flower, deadline=flower.deadline)
    return coordinator.rounds(state or clone(one.task.network().state_dict()), first, last, seeded(0), memory=memory)


def by_hand(one: Experiment, order: Sequence[int]) -> tuple[Tensor, list[tuple[str, int]]]:
    """The same training, slowly: what each device is sent and pushes, one push after the other."""
    from privet.engines import Channel, Message
    from privet.tensors import digest, unflatten

    protocol = one.task.protocol
    assert isinstance(protocol, Downpour)
    like = clone(one.task.network().state_dict())
    model, found = flatten(like), []
    began = {number: (model, 0, 1) for number in range(3)}
    rows = sum(device.examples for device in one.devices)
    for pushes, number in enumerate(order):
        base, since, trial = began[number]
        state, device = unflatten(base, like), one.devices[number]
        reply = one.coordinator.work(device, Message(trial, state, digest(state)), Channel(device.identity, trial))
        staleness = pushes - since
        model = model + reply.tensors["update"] / (1 + staleness) ** protocol.staleness_exponent * (
            device.examples / rows
        )
        began[number] = (model, pushes + 1, trial + 1)
        found.append((device.identity, staleness))
    return model, found


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_pushes_count_in_the_order_in_which_they_arrive(tmp_path: Path, exponent: float) -> None:
    order = [1, 1, 2, 0, 2, 0]
    one = experiment(staleness_exponent=exponent)
    done = list(run(one, Post(workers(one, tmp_path), order)))
    model, staleness = by_hand(one, order)
    assert [push for each in done for push in each.staleness] == staleness
    assert [pushes for _, pushes in staleness] == [0, 0, 2, 3, 1, 1]
    assert [each.replies for each in done] == [3, 3]
    assert torch.allclose(flatten(done[-1].state), model, rtol=1e-5, atol=1e-7)


def test_old_updates_count_less_where_the_plan_says_so(tmp_path: Path) -> None:
    assert Downpour(staleness_exponent=0.5, server_learning_rate=2.0).pace(3) == 1.0
    assert Downpour(server_learning_rate=2.0).pace(3) == 2.0


def test_no_device_is_asked_more_often_than_the_plan_says(tmp_path: Path) -> None:
    one = experiment()
    post = Post(workers(one, tmp_path), [0, 0, 1, 1, 2, 2])
    list(run(one, post))
    assert sorted(post.asked) == [(number, trial) for number in range(3) for trial in ("1", "2")]


def test_who_is_late_has_had_its_try_and_its_reply_is_counted_when_it_comes(tmp_path: Path) -> None:
    one = experiment()
    post = Post(workers(one, tmp_path), [0, 1, 0, 1, 2, 2])
    post.closed = {2: time.monotonic() + 3}
    first, second = run(one, post, deadline=2.0)
    assert not first.missing
    assert second.missing == [("device-002", "late: no reply within 2 s")]
    assert [identity for identity, _ in second.staleness] == ["device-001", "device-002"]
    assert not post.order  # what was late came, and then what was asked for next


def test_messages_that_never_leave_are_tries_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.engines.flower import engine

    monkeypatch.setattr(engine, "LOOK", 0.1)
    one = experiment()
    done = list(run(one, Post(workers(one, tmp_path), [0, 1, 1, 2, 2], loses=1), tries=1))
    assert [lost for each in done for lost in each.missing] == [("device-000", "could not be reached")]


def test_every_device_refusing_is_the_coordinators_refusal(tmp_path: Path) -> None:
    one = experiment()
    with pytest.raises(RefusedError, match="every device refused; device-002 refused: over budget"):
        list(run(one, Post(workers(one, tmp_path, "over budget"), [0, 1, 2])))


def test_one_refusal_among_answers_ends_nothing(tmp_path: Path) -> None:
    one = experiment()
    able, unwilling = workers(one, tmp_path), workers(one, tmp_path, "over budget")
    done = list(run(one, Post([able[0], unwilling[1], able[2]], [1, 1, 0, 0, 2, 2])))
    assert [each.missing for each in done] == [[("device-001", "refused: over budget")] * 2, []]


def test_a_run_that_goes_on_asks_for_next_tries_and_nothing_is_released_twice(tmp_path: Path) -> None:
    one = experiment(rounds=4)
    able = workers(one, tmp_path)
    first = next(run(one, Post(able, [0, 1, 2, 0, 1, 2]), last=4))
    # The coordinator is killed in round 2, after these answers were made for models that it has not kept:
    post = Post(able, [0, 1, 2])
    moved = {name: value + 1 for name, value in first.state.items()}
    next(run(one, post, memory=first.memory, first=2, last=2, state=moved))
    again = run(one, Post(able, [0, 1, 2] * 3), memory=first.memory, first=2, last=4, state=first.state)
    second, third, fourth = again
    assert all("was answered already" in reason or "is over" in reason for _, reason in second.missing)
    assert len(second.missing) == 3
    assert torch.equal(flatten(second.state), flatten(first.state))
    assert [each.replies for each in (third, fourth)] == [3, 3]


def test_there_is_nothing_to_have_enough_of() -> None:
    with pytest.raises(InputError, match="--enough: nobody waits for others"):
        Across(enough=2).ready(experiment())


def test_devices_that_collude_are_refused() -> None:
    one = experiment()
    hostile = prepare(
        one.plan.with_settings(['fleet.hostile=[{ devices = 1, behaviour = { name = "inner-product" } }]'])
    )
    with pytest.raises(PlanError, match="nobody waits in this training"):
        work_of(hostile, RELEASE)
