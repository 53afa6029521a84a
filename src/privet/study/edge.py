"""The edge server as a process of its own: many devices' sessions over a transport, and a device's way to one.

A device opens a session with the work that its coordinator signed, so an edge server builds nothing that the fleet's
operator did not ask for. Then a call a batch goes up and its gradient comes down, over one connection that is kept. A
call that broke is made again under the same number and gets the same answer, so that no batch is learnt from twice.

What a session takes is bounded: bytes of a message and of a model, sessions at a time, seconds without a call. A
session belongs to the name in its caller's certificate, and to one round of one run.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from privet.errors import InputError, RefusedError, RunError, UnreachableError
from privet.governance.work import check_work
from privet.models import Model
from privet.models.imported import Imported
from privet.study.part_field import PartOf
from privet.study.work import check_size, checked
from privet.tensors import State, from_bytes, to_bytes
from privet.training.contract import Protocol
from privet.training.edge import Session
from privet.training.precision import Precision
from privet.transport.contract import Client, Peer, Service

EDGE_PEER = Peer("edge", "main")
"""Who the edge server of a fleet is, by its certificate."""

LIMIT = 16 << 20
"""Bytes of one message: a head, a batch of features, or its gradient."""

MODEL = 64 << 20
"""Bytes of the largest model whose head is trained here; a session takes three times its head's share of it."""

MOST, IDLE = 64, 120.0
"""Sessions at a time, and seconds without a call after which one is over."""

_SIGNED = struct.Struct(">I64s")
_CALL = struct.Struct(">16sIQ")


@dataclass
class _Seat:
    """A customer's session: what it trains, what its last answer was, and when it last called."""

    run: bytes
    round: int
    session: Session
    features: tuple[int, ...]
    classes: int
    number: int = 0
    last: bytes = b""
    called: float = 0.0
    busy: threading.Lock = field(default_factory=threading.Lock)


class EdgeServer:
    """Trains the heads of many devices at once.

    Args:
        work_key: of the fleet's coordinator, Ed25519, 32 bytes; only work that it signed is done.
        most: sessions at a time.
        idle: seconds without a call after which a session is over.
        clock: tells the time in seconds.

    Attributes:
        opened, batches: sessions, and batches learnt from, so far.
    """

    def __init__(
        self, work_key: bytes, most: int = MOST, idle: float = IDLE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work_key, self._most, self._idle, self._clock = work_key, most, idle, clock
        self._seats: dict[Peer, _Seat] = {}
        self._guard = threading.Lock()
        self.opened = self.batches = 0

    @property
    def service(self) -> Service:
        """What it offers over a transport."""
        return {"open": self._open, "train": self._train, "close": self._close}

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._seats)

    def sweep(self) -> None:
        """Ends sessions whose devices have not called for too long."""
        with self._guard:
            late = self._clock() - self._idle
            for peer in [peer for peer, seat in self._seats.items() if seat.called < late and not seat.busy.locked()]:
                del self._seats[peer]

    def _open(self, peer: Peer, body: bytes) -> bytes:
        work, number, state = self._asked(body)
        self.sweep()
        with self._guard:
            self._seats.pop(peer, None)  # a device does one thing at a time, so an older session of its is over
            if len(self._seats) >= self._most:
                raise UnreachableError(f"the edge server has {self._most} sessions", do="try again later")
            session, features = _head(work, state)
            run = bytes.fromhex(work["release"])
            self._seats[peer] = _Seat(run, number, session, features, int(work["classes"]), called=self._clock())
            self.opened += 1
        return b""

    def _asked(self, body: bytes) -> tuple[dict[str, Any], int, State]:
        """Returns the signed work, its round, and the head that came with it."""
        if len(body) < _SIGNED.size:
            raise InputError("this opens no session")
        length, signature = _SIGNED.unpack_from(body)
        head, rest = body[_SIGNED.size : _SIGNED.size + length], body[_SIGNED.size + length :]
        check_work(self._work_key, head, signature)
        work, number = checked(json.loads(head))
        if int(work["bytes"]) > MODEL:
            raise RefusedError(f"a model of {work['bytes']} bytes", allowed=f"{MODEL} at the edge server")
        return work, number, from_bytes(rest)

    def _train(self, peer: Peer, body: bytes) -> bytes:
        seat, number, state = self._called(peer, body)
        with seat.busy:
            if number == seat.number and seat.last:
                return seat.last  # the answer was lost on the way
            if number != seat.number + 1:
                raise RefusedError(f"batch {number} comes after batch {seat.number}")
            features, labels = _batch(state, seat)
            gradient, loss = seat.session.train(features, labels)
            seat.number, seat.last = number, to_bytes({"gradient": gradient, "loss": loss})
            seat.called = self._clock()
            with self._guard:
                self.batches += 1
            return seat.last

    def _close(self, peer: Peer, body: bytes) -> bytes:
        seat, _, _ = self._called(peer, body)
        with seat.busy:  # the session stays until its device opens another or is silent, since this may get lost
            seat.last = b""
            return to_bytes(seat.session.close())

    def _called(self, peer: Peer, body: bytes) -> tuple[_Seat, int, State]:
        """Returns the seat of a call, its number and its tensors; another device's session can't be named."""
        if len(body) < _CALL.size:
            raise InputError("this call names no session")
        run, round, number = _CALL.unpack_from(body)
        seat = self._seats.get(peer)
        if seat is None or (seat.run, seat.round) != (run, round):
            raise RefusedError("there is no such session", do="begin the round again")
        seat.called = self._clock()
        return seat, number, from_bytes(body[_CALL.size :]) if len(body) > _CALL.size else {}


def _head(work: Mapping[str, Any], state: State) -> tuple[Session, tuple[int, ...]]:
    """Returns a session with a head that has these values, and the shape of one record's features."""
    protocol: Protocol = PartOf("protocols").build(work["training"])
    model: Model = PartOf("models").build(work["model"])
    if isinstance(model, Imported) or not protocol.meets_edge:
        raise RefusedError("this work needs no edge server")
    check_size(model, work)
    precision, shape = Precision(**work["precision"]), tuple(int(one) for one in work["shape"])
    network = model.build(shape, int(work["classes"]))
    precision.lay_out(network)
    front, head = protocol.split(model, network)
    with torch.no_grad():
        features = tuple(front.eval()(torch.zeros(1, *shape)).shape[1:])
    known = head.state_dict()
    if {name: (value.shape, value.dtype) for name, value in known.items()} != {
        name: (value.shape, value.dtype) for name, value in state.items()
    }:
        raise InputError("this is not the head of the work's model")
    session = Session(head, precision, protocol.learning_rate, protocol.momentum)
    session.open(state)
    return session, features


def _batch(state: State, seat: _Seat) -> tuple[Tensor, Tensor]:
    """Returns features and labels that the session's head can learn from."""
    features, labels = state.get("features"), state.get("labels")
    if features is None or labels is None or set(state) != {"features", "labels"}:
        raise InputError("a batch is features and labels")
    fits = features.dtype == torch.float32 and labels.dtype == torch.int64 and labels.dim() == 1 and len(labels) > 0
    if not fits or features.shape != (len(labels), *seat.features):
        raise InputError(f"features of {tuple(features.shape)}", allowed=f"float32, (b, {seat.features})")
    if int(labels.min()) < 0 or int(labels.max()) >= seat.classes:
        raise InputError("a label is none of the plan's classes")
    return features, labels


class RemoteEdge:
    """A device's way to its session at an edge server, for one round.

    Args:
        client: the way to the server.
        head: the coordinator's signed work, as it came.
        signature: of the head.
        timeout: seconds for one call.
        tries: how often a call is made that gets no answer.
        pause: seconds before the second try; doubled each time.
    """

    def __init__(
        self, client: Client, head: bytes, signature: bytes, timeout: float = 60.0, tries: int = 5, pause: float = 1.0
    ) -> None:
        self._client, self._head, self._signature = client, head, signature
        self._timeout, self._tries, self._pause = timeout, tries, pause
        fields = json.loads(head)
        self._run, self._round = bytes.fromhex(fields["work"]["release"]), int(fields["round"])
        self._number = 0
        self._likeness: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def open(self, head: State) -> None:
        """Begins a round from the values of a head.

        Raises:
            RefusedError: the server does not do this work.
            UnreachableError: it does not answer.
        """
        self._number, self._likeness = 0, {name: (one.shape, one.dtype) for name, one in head.items()}
        signed = _SIGNED.pack(len(self._head), self._signature.ljust(64, b"\0")) + self._head
        self._call("open", signed + to_bytes(head))

    def train(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Lets the server learn from one batch; returns the features' gradient and the loss.

        Raises:
            RefusedError: the session is over.
            UnreachableError: the server does not answer.
            RunError: it answers something else.
        """
        self._number += 1
        state = from_bytes(self._call("train", self._place() + to_bytes({"features": features, "labels": labels})))
        gradient, loss = state.get("gradient"), state.get("loss")
        if gradient is None or loss is None or gradient.shape != features.shape or loss.numel() != 1:
            raise RunError("the edge server's answer is no gradient")
        return gradient, loss.reshape(())

    def close(self) -> State:
        """Ends the round and returns the head's values.

        Raises:
            RefusedError, UnreachableError, RunError: as for :meth:`train`.
        """
        head = from_bytes(self._call("close", self._place()))
        if {name: (one.shape, one.dtype) for name, one in head.items()} != self._likeness:
            raise RunError("the edge server's answer is no head of this model")
        return head

    def _place(self) -> bytes:
        return _CALL.pack(self._run, self._round, self._number)

    def _call(self, method: str, body: bytes) -> bytes:
        for attempt in range(self._tries - 1):
            try:
                return self._client.call(method, body, self._timeout)
            except UnreachableError:
                time.sleep(self._pause * 2**attempt)
        return self._client.call(method, body, self._timeout)
