"""Guards and the round loop against every bad reply of the faults table that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from privet.aggregation.mean import Mean
from privet.aggregation.multi_krum import MultiKrum
from privet.engines import Message, Reply
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.randomness import seeded
from privet.training import Coordinator, Round

STATE = {"weight": torch.zeros(4)}
GOOD = torch.ones(4)


def devices(count: int) -> list[Device]:
    profile = find_profile("phone")
    return [Device(f"device-{k:03}", profile, torch.arange(k + 1).numpy(), Always(), Honest()) for k in range(count)]


class Scripted:
    """An engine whose last device replies what the test says; all others send ones."""

    def __init__(self, last: Callable[[Reply], Reply | list[Reply] | None], reverse: bool = False) -> None:
        self.last, self.reverse = last, reverse

    def ask(self, fleet, work, message: Message, keep=None) -> Iterator[Reply]:
        replies: list[Reply] = []
        for device in fleet:
            reply = Reply(device.identity, message.round, {"update": GOOD.clone()}, base=message.base)
            changed = self.last(reply) if device is fleet[-1] else reply
            if changed is not None:
                replies += changed if isinstance(changed, list) else [changed]
        yield from reversed(replies) if self.reverse else replies


def one_round(last: Callable[[Reply], Reply | list[Reply] | None], **settings) -> Round:
    coordinator = Coordinator(Scripted(last), lambda *_: None, devices(4), Mean(), Chain(), **settings)
    return next(coordinator.rounds(STATE, 1, 1, seeded(0)))


def changed(**fields) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        for name, value in fields.items():
            setattr(reply, name, value)
        return reply

    return change


BAD = {
    "not finite": changed(tensors={"update": torch.tensor([1.0, float("nan"), 1, 1])}),
    "not finite: update": changed(tensors={"update": torch.tensor([1.0, float("inf"), 1, 1])}),
    "wrong shape": changed(tensors={"update": torch.ones(5)}),
    "wrong shape: update is (400,)": changed(tensors={"update": torch.ones(400)}),
    "wrong dtype": changed(tensors={"update": torch.ones(4, dtype=torch.float64)}),
    "wrong tensors": changed(tensors={"weights": torch.ones(4)}),
    "wrong tensors: update": changed(tensors={}),
    "stale: it answers round 0": changed(round=0),
    "another model's update": changed(base="0" * 64),
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_reply_is_left_out_and_named_and_the_round_goes_on(reason: str) -> None:
    done = one_round(BAD[reason])
    assert [device for device, _ in done.rejected] == ["device-003"]
    assert reason in done.rejected[0][1]
    assert done.replies == 3
    assert not done.void
    assert torch.equal(done.state["weight"], GOOD)


def test_late_reply_is_left_out() -> None:
    done = one_round(changed(delay=61.0), deadline=60.0)
    assert "late: 61.0 s" in done.rejected[0][1]
    assert not one_round(changed(delay=59.0), deadline=60.0).rejected


def test_missing_reply_is_named_as_missing() -> None:
    done = one_round(changed(missing="absent", tensors={}))
    assert done.missing == [("device-003", "absent")]
    assert not done.rejected


def test_silent_engine_loses_nothing_else() -> None:
    assert one_round(lambda reply: None).replies == 3


def test_duplicate_reply_counts_once() -> None:
    twice = one_round(lambda reply: [reply, Reply(reply.device, 1, {"update": 100 * GOOD}, base=reply.base)])
    assert "duplicate" in twice.rejected[0][1]
    assert torch.equal(twice.state["weight"], GOOD)


def test_reply_of_an_unknown_device_is_left_out() -> None:
    done = one_round(lambda reply: Reply("intruder", 1, {"update": 100 * GOOD}, base=reply.base))
    assert done.rejected[0][0] == "intruder"
    assert torch.equal(done.state["weight"], GOOD)


def test_too_few_sound_replies_leave_the_model_as_it_was() -> None:
    done = one_round(lambda reply: None, minimum_replies=4)
    assert "3 sound replies" in done.void
    assert torch.equal(done.state["weight"], STATE["weight"])


def test_order_of_arrival_changes_no_bit() -> None:
    fleet = devices(7)
    updates = {
        device.identity: torch.randn(4, generator=torch.Generator().manual_seed(k)) for k, device in enumerate(fleet)
    }

    class Engine(Scripted):
        def ask(self, asked, work, message, keep=None):
            for reply in super().ask(asked, work, message):
                reply.tensors = {"update": updates[reply.device]}
                yield reply

    for rule in (Mean(), MultiKrum(byzantine=1)):
        states = [
            next(Coordinator(Engine(lambda r: r, reverse), None, fleet, rule, Chain()).rounds(STATE, 1, 1, seeded(0)))
            for reverse in (False, True)
        ]
        assert torch.equal(states[0].state["weight"], states[1].state["weight"])


def test_weights_are_what_the_coordinator_knows() -> None:
    claim = changed(fields={"examples": 10**9, "loss": 0.0}, tensors={"update": 5 * GOOD})
    done = one_round(claim)
    assert torch.allclose(done.state["weight"], GOOD * (1 + 2 + 3 + 4 * 5) / 10)


def test_rule_says_why_it_left_a_device_out() -> None:
    fleet = devices(7)
    engine = Scripted(changed(tensors={"update": 100 * GOOD}))

    class Engine(Scripted):
        def ask(self, asked, work, message, keep=None):
            for number, reply in enumerate(engine.ask(asked, work, message)):
                reply.tensors["update"] += 0.01 * number
                yield reply

    done = next(
        Coordinator(Engine(lambda r: r), None, fleet, MultiKrum(byzantine=1), Chain()).rounds(STATE, 1, 1, seeded(0))
    )
    assert done.rejected[0][0] == "device-006"
    assert "evaluated low by multi-krum" in done.rejected[0][1]
    assert done.selected == 6
