"""The embedded engine: a plain loop over the devices, or the same loop in forked workers."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import torch

from privet import errors
from privet.engines.channel import Channel, Keep, Traffic
from privet.engines.contract import Message, Reply, Work
from privet.errors import PrivetError
from privet.fleet.device import Device
from privet.randomness import seeded
from privet.tensors import from_bytes, to_bytes

_STATES = ("tensors", "seen", "kept")

Pipes = list[tuple[Connection, Connection]]
"""The (receiving, sending) ends of every worker's pipe."""


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Runs a block with so many torch threads; None leaves them alone."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class InProcess:
    """Runs devices one after the other, in this process or in forked workers.

    Replies come in the order of the devices, whatever the number of workers. With
    ``single_thread`` each device computes on one thread, so that the number of workers and of
    cores changes no bit of the result.

    Attributes:
        workers: forked processes; 0 runs in this process.
        seed: of drop-outs and delays.
        single_thread: one torch thread a device; always so in workers.
    """

    workers: int = 0
    seed: int = 0
    single_thread: bool = False

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device, in the order given."""
        if self.workers > 1 and len(devices) > 1:
            yield from self._forked(devices, work, message, keep)
            return
        with threads(1 if self.single_thread else None):
            for device in devices:
                yield self._one(device, work, message, keep)

    def _one(self, device: Device, work: Work, message: Message, keep: Keep | None) -> Reply:
        rng = seeded(self.seed, "availability", device.identity, message.round)
        presence = device.availability.presence(device.identity, message.round, rng)
        if not presence.here:
            return Reply(device.identity, message.round, missing="absent")
        channel = Channel(device.identity, message.round, keep)
        reply = work(device, message, channel)
        reply.traffic, reply.seen = list(channel.traffic.values()), channel.seen
        reply.delay += presence.delay
        if presence.drops:
            reply.tensors, reply.missing = {}, "dropped out after training"
        return reply

    def _forked(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None) -> Iterator[Reply]:
        context = multiprocessing.get_context("fork")
        count = min(self.workers, len(devices))
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        owners = _owners(devices, count)
        shares = [[device for device, owner in zip(devices, owners, strict=True) if owner == k] for k in range(count)]
        processes = [
            context.Process(target=self._serve, args=(pipes, k, shares[k], work, message, keep), daemon=True)
            for k in range(count)
        ]
        try:
            for process, (_, sending) in zip(processes, pipes, strict=True):
                process.start()
                sending.close()
            for device, owner in zip(devices, owners, strict=True):
                yield _receive(pipes[owner][0], device, message)
        finally:
            for process, (receiving, _) in zip(processes, pipes, strict=True):
                receiving.close()
                process.terminate()
                process.join()

    def _serve(
        self, pipes: Pipes, place: int, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
        # An end held open in another worker hides that this worker, or the parent, has died.
        for other, (receiving, sending) in enumerate(pipes):
            receiving.close()
            if other > place:
                sending.close()
        pipe = pipes[place][1]
        torch.set_num_threads(1)
        for device in devices:
            try:
                reply = self._one(device, work, message, keep)
            except PrivetError as error:
                pipe.send_bytes(json.dumps({"kind": type(error).__name__, "refused": error.advice()}).encode())
                return
            head = {name: value for name, value in vars(reply).items() if name not in (*_STATES, "traffic")}
            pipe.send_bytes(json.dumps(head | {"traffic": [asdict(entry) for entry in reply.traffic]}).encode())
            for name in _STATES:
                pipe.send_bytes(to_bytes(getattr(reply, name)))


def _owners(devices: Sequence[Device], count: int) -> list[int]:
    """Returns which worker takes each device: the one that has the fewest rows so far."""
    rows = [0] * count
    owners = []
    for device in devices:
        owner = rows.index(min(rows))
        rows[owner] += max(1, device.examples)
        owners.append(owner)
    return owners


def _receive(pipe: Connection, device: Device, message: Message) -> Reply:
    try:
        head = json.loads(pipe.recv_bytes())
        if "refused" in head:
            raise getattr(errors, head["kind"], PrivetError)(head["refused"])
        tensors, seen, kept = (from_bytes(pipe.recv_bytes()) for _ in _STATES)
    except EOFError:
        return Reply(device.identity, message.round, missing="its worker process died")
    traffic = [Traffic(**entry) for entry in head.pop("traffic")]
    return Reply(**head, tensors=tensors, seen=seen, kept=kept, traffic=traffic)
