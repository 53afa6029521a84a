"""Devices that see all updates before they send: who learns what, and what reaches the coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from privet.engines import Channel, InProcess, Message, Reply, Work
from privet.engines.channel import Keep
from privet.engines.colluding import Colluding
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.alie import Alie
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.behaviours.honest import Honest
from privet.fleet.behaviours.inner_product import InnerProduct
from privet.fleet.device import Device
from privet.fleet.profile import find_profile

FLEET = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def fleet(*behaviours: Behaviour) -> list[Device]:
    phone = find_profile("phone")
    return [
        Device(f"device-{number:03d}", phone, np.arange(3), Always(), behaviour)
        for number, behaviour in enumerate(behaviours)
    ]


def work(device: Device, message: Message, channel: Channel) -> Reply:
    update = FLEET[int(device.identity[-1])].clone()
    return Reply(device.identity, message.round, tensors={"update": update, "more": torch.ones(1)}, base=message.base)


def sent(engine: Colluding, devices: Sequence[Device], step: Work = work) -> dict[str, Reply]:
    return {reply.device: reply for reply in engine.ask(devices, step, Message(3, {}))}


def test_honest_fleets_pass_as_they_are() -> None:
    replies = sent(Colluding(InProcess()), fleet(Honest(), Honest()))
    assert [replies[name].tensors["update"].tolist() for name in replies] == FLEET[:2].tolist()


def test_colluders_know_all_updates_and_come_last() -> None:
    devices = fleet(InnerProduct(), Honest(), Honest(), InnerProduct())
    replies = list(Colluding(InProcess()).ask(devices, work, Message(3, {})))
    assert [reply.device[-1] for reply in replies] == ["1", "2", "0", "3"]
    expected = -0.5 * FLEET[:4].mean(0)
    for reply in replies[2:]:
        torch.testing.assert_close(reply.tensors["update"], expected)
        assert reply.tensors["more"].item() == 1.0
    torch.testing.assert_close(replies[0].tensors["update"], FLEET[1])


def test_each_behaviour_colludes_for_itself() -> None:
    replies = sent(Colluding(InProcess()), fleet(Honest(), Alie(knows="own"), InnerProduct(), Alie(knows="own")))
    both = FLEET[[1, 3]]
    expected = both.mean(0) - 1.5 * both.std(0, unbiased=False)
    torch.testing.assert_close(replies["device-001"].tensors["update"], expected)
    torch.testing.assert_close(replies["device-002"].tensors["update"], -0.5 * FLEET[:4].mean(0))


def test_what_does_not_fit_is_not_looked_at() -> None:
    def odd(device: Device, message: Message, channel: Channel) -> Reply:
        reply = work(device, message, channel)
        if device.identity == "device-000":
            reply.tensors["update"] = torch.full((4,), torch.nan)
        elif device.identity == "device-001":
            reply.tensors["update"] = torch.ones(9)
        elif device.identity == "device-005":
            reply.tensors, reply.missing = {}, "dropped out"
        return reply

    devices = fleet(Honest(), Honest(), Honest(), InnerProduct(), InnerProduct(), InnerProduct())
    replies = sent(Colluding(InProcess()), devices, odd)
    torch.testing.assert_close(replies["device-003"].tensors["update"], -0.5 * FLEET[2:5].mean(0))
    assert replies["device-005"].missing == "dropped out"


def test_the_order_in_which_replies_come_changes_nothing() -> None:
    class Backwards:
        def ask(
            self, devices: Sequence[Device], step: Work, message: Message, keep: Keep | None = None
        ) -> Iterator[Reply]:
            yield from reversed(list(InProcess().ask(devices, step, message, keep)))

    devices = fleet(Honest(), Alie(), Honest(), Alie())
    straight, backwards = sent(Colluding(InProcess()), devices), sent(Colluding(Backwards()), devices)
    for name, reply in straight.items():
        assert torch.equal(reply.tensors["update"], backwards[name].tensors["update"])
