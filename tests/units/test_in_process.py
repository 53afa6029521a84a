"""The embedded engine: same bits in this process and in workers, drop-outs as the fleet says, dead workers survived."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from privet.engines import Channel, InProcess, Keep, Message, Reply
from privet.errors import RefusedError
from privet.fleet.availability.always import Always
from privet.fleet.availability.random import Random
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile

MESSAGE = Message(3, {"weight": torch.ones(2)}, "base")


def fleet(count: int, availability=None) -> list[Device]:
    profile = find_profile("phone")
    return [
        Device(f"device-{k:03}", profile, np.arange(2 + k), availability or Always(), Honest()) for k in range(count)
    ]


def work(device: Device, message: Message, channel: Channel) -> Reply:
    channel.send("coordinator", device.identity, "model", message.tensors)
    if channel.keeps("edge-server"):
        channel.remember("features", torch.ones(2, 3) * device.examples, torch.tensor([0, 1]), 0)
    value = torch.full((2,), float(device.examples))
    return Reply(device.identity, message.round, {"update": value}, {"loss": 0.5}, delay=2.0, base=message.base)


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 9])
def test_replies_come_in_order_whatever_the_workers(workers: int) -> None:
    keep = Keep("edge-server", 2, 1)
    replies = list(InProcess(workers).ask(fleet(5), work, MESSAGE, keep))
    assert [reply.device for reply in replies] == [f"device-{k:03}" for k in range(5)]
    assert [float(reply.tensors["update"][0]) for reply in replies] == [2, 3, 4, 5, 6]
    assert all(reply.traffic[0].bytes == 8 and reply.traffic[0].round == 3 for reply in replies)
    assert replies[4].seen["features"].shape == (2, 1, 3)
    assert float(replies[4].seen["features"].mean()) == 6
    assert replies[0].fields["loss"] == 0.5
    assert {reply.base for reply in replies} == {"base"}


def test_absent_and_dropped_devices_say_so() -> None:
    replies = list(InProcess(seed=4).ask(fleet(60, Random(participation=0.5, drop_rate=0.5)), work, MESSAGE))
    said = [reply.missing for reply in replies]
    assert {"absent", "dropped out after training", ""} == set(said)
    dropped = replies[said.index("dropped out after training")]
    assert not dropped.tensors
    assert dropped.traffic
    again = list(InProcess(seed=4).ask(fleet(60, Random(participation=0.5, drop_rate=0.5)), work, MESSAGE))
    assert [reply.missing for reply in again] == said


def test_delays_add_up() -> None:
    replies = list(InProcess(seed=1).ask(fleet(20, Random(mean_delay=30.0)), work, MESSAGE))
    assert min(reply.delay for reply in replies) >= 2.0
    assert max(reply.delay for reply in replies) > 20.0


def test_killed_worker_leaves_the_others_answering() -> None:
    def fatal(device: Device, message: Message, channel: Channel) -> Reply:
        if device.identity == "device-001":
            os.kill(os.getpid(), signal.SIGKILL)
        return work(device, message, channel)

    replies = list(InProcess(workers=2).ask(fleet(4), fatal, MESSAGE))
    assert [reply.missing for reply in replies] == ["", "its worker process died", "", "its worker process died"]


def test_refusal_in_a_worker_reaches_the_caller() -> None:
    def refusing(device: Device, message: Message, channel: Channel) -> Reply:
        raise RefusedError("no consent")

    with pytest.raises(RefusedError, match="no consent"):
        list(InProcess(workers=2).ask(fleet(4), refusing, MESSAGE))


def test_stopping_early_leaves_no_worker_behind() -> None:
    import multiprocessing

    replies = InProcess(workers=2).ask(fleet(6), work, MESSAGE)
    next(replies)
    replies.close()
    assert not multiprocessing.active_children()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    list(InProcess(single_thread=True).ask(fleet(2), work, MESSAGE))
    assert torch.get_num_threads() == before
