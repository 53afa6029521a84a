"""The round loop: ask, guard, aggregate, one round after the other, on any engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from privet.aggregation.contract import Aggregator, Circumstances, Combined
from privet.engines import Engine, Message, Reply, Traffic, Work
from privet.engines.channel import Keep
from privet.engines.guard import objection
from privet.fleet.device import Device
from privet.mechanisms.chain import Chain
from privet.mechanisms.contract import Stream
from privet.parts import name_of
from privet.randomness import Source, system
from privet.tensors import State, digest, flatten, unflatten
from privet.training.asynchronous import asynchronous_round
from privet.training.cohort import Cohort
from privet.training.contract import Protocol
from privet.training.local import LocalStep
from privet.training.memory import AGGREGATOR, SERVER, by_owner, joined, of_device
from privet.training.protocols.fedavg import Fedavg

HIGH_SCORE = 3.0
"""A rejected update counts as evaluated low when its score exceeds this multiple of the median score."""


@dataclass(frozen=True)
class Settled:
    """What a ledger made of a round's updates.

    Attributes:
        model: the next global model, float32 (d,); None where the round is void.
        left_out: device -> why its update is not part of it.
        void: why the global model stays as it was; "" when it moved.
        facts: for the record of the round.
    """

    model: Tensor | None
    left_out: dict[str, str]
    void: str
    facts: dict[str, Any]


Settle = Callable[[int, Sequence[str], Sequence[Tensor]], Settled]
"""Round, whose update each is, updates (d,): what others than the coordinator make of them."""


@dataclass
class Round:
    """What happened in one round.

    Attributes:
        number: from 1.
        state: the global model after it.
        memory: all that is remembered after it besides the model; see :mod:`privet.training.memory`.
        asked: devices that were asked.
        loss: mean loss that the accepted devices report.
        replies: sound replies.
        selected: replies that the aggregator used.
        rejected: device and reason, for replies that were left out.
        missing: device and reason, for devices that did not answer.
        void: why the global model stayed as it was; "" when it moved.
        traffic: what crossed.
        seen: what a View of another party keeps, by device.
        updates: sound updates that the coordinator's own View keeps, by device.
        ledger: what a ledger says of the round; None without one.
        staleness: device and how many pushes came between its model and its own push; asynchronous training only.
        delays: seconds (modelled) until each reply arrived, by device.
        seconds: measured, for the whole round.
        device_seconds: CPU seconds measured, by device.
    """

    number: int
    state: State
    memory: State = field(default_factory=dict)
    asked: int = 0
    loss: float = 0.0
    replies: int = 0
    selected: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    void: str = ""
    traffic: list[Traffic] = field(default_factory=list)
    seen: dict[str, State] = field(default_factory=dict)
    updates: State = field(default_factory=dict)
    ledger: dict[str, Any] | None = None
    staleness: list[tuple[str, int]] = field(default_factory=list)
    delays: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    device_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Coordinator:
    """Combines what the devices of a fleet send.

    Attributes:
        engine: where the devices compute.
        work: the local step.
        devices: the fleet, sorted by identity.
        aggregator: how updates are combined.
        on_server: what the combined update passes.
        minimum_replies: sound replies below which a round is void.
        deadline: seconds (modelled) after which a reply is left out; None waits for all.
        cohort: which devices are asked in a round.
        trusted: holds the coordinator's own rows, for a rule that wants an update it can trust.
        settle: combines the updates in place of the coordinator; None where nobody does.
    """

    engine: Engine
    work: Work
    devices: Sequence[Device]
    aggregator: Aggregator
    on_server: Chain
    minimum_replies: int = 1
    deadline: float | None = None
    cohort: Cohort = field(default_factory=Cohort)
    trusted: Device | None = None
    settle: Settle | None = None

    def rounds(
        self,
        state: State,
        first: int,
        last: int,
        noise: Source,
        keep: Keep | None = None,
        updates: int = 0,
        sampling: Source | None = None,
        memory: State | None = None,
    ) -> Iterator[Round]:
        """Yields each round as it ends.

        Args:
            state: the global model before round ``first``.
            first, last: numbers of the rounds to run.
            noise: of the mechanisms on the server.
            keep: what a View of another party keeps of the last round.
            updates: how many updates of the last round the coordinator's own View keeps.
            sampling: secret, of the cohorts; the operating system when None. Not a stream of ``noise``, so that
                neither betrays the other.
            memory: what was remembered before round ``first``; nothing when None.
        """
        memory = {} if memory is None else memory
        sampling, server = sampling or system(), self.on_server.stream(noise)
        for number in range(first, last + 1):
            final = number == last
            asked = self.cohort.draw(self.devices, number, sampling.child(number))
            began = Round(number, state, memory, len(asked))
            done = self._round(began, asked, server, keep if final else None, updates if final else 0)
            state, memory = done.state, done.memory
            yield done

    @property
    def protocol(self) -> Protocol:
        """How the fleet trains; work that is no local step of a task is averaged."""
        return self.work.task.protocol if isinstance(self.work, LocalStep) else Fedavg()

    def _round(self, done: Round, asked: Sequence[Device], server: Stream, keep: Keep | None, updates: int) -> Round:
        started, base, known = time.perf_counter(), flatten(done.state), by_owner(done.memory)
        if self.protocol.asynchronous:
            done = asynchronous_round(self, done, updates)
            done.seconds = time.perf_counter() - started
            return done
        message = self._message(done, known, asked)
        senders, rows, running = [], [], None if self.settle else self.aggregator.running()
        kept: dict[str, State] = {}
        for device, reply in self._sound(asked, message, base.repeat(self.protocol.vectors), keep, done):
            senders.append(device)
            kept[of_device(device.identity)] = reply.kept
            loss = float(reply.fields.get("loss", 0.0))
            done.loss += loss if math.isfinite(loss) else 0.0  # a figure for display: it must not stop the round
            update = reply.tensors["update"]
            if len(done.updates) < updates:
                done.updates[device.identity] = update[: len(base)]
            if running is None:
                rows.append(update)
            else:
                running.add(update, float(device.examples))
        done.replies = len(senders)
        # Where an absent device counts as zero, a void round would tell that too few were there.
        needed = 0 if self.aggregator.absent_is_zero else max(self.minimum_replies, self.aggregator.minimum())
        done.loss /= max(1, len(senders))
        if self.settle is not None:
            enough = len(senders) >= needed  # else nobody posts, and the ledger says that the round is void
            who = [device.identity for device in senders] if enough else []
            self._settled(self.settle(done.number, who, rows if enough else []), done, known | kept)
        elif len(senders) < needed:
            done.void = f"{len(senders)} sound replies, {name_of(self.aggregator)} in this plan needs {needed}"
        else:
            combined = running.combined() if running else self._combine(senders, rows, message, known)
            update = combined.update.float() if senders else torch.zeros(len(base) * self.protocol.vectors)
            done.selected = int(combined.selected.sum())
            for position in (~combined.selected).nonzero().flatten().tolist():
                done.rejected.append((senders[position].identity, self._why(combined, position)))
            # Where an absent device counts as zero, how many came must not show in what is remembered either.
            share = self.cohort.rate if self.aggregator.absent_is_zero else len(senders) / len(self.devices)
            moved, remembered = self.protocol.serve(server(update, done.number), known.get(SERVER, {}), share)
            done.state = unflatten(base + moved, done.state)
            done.memory = joined(known | kept | {SERVER: remembered, AGGREGATOR: combined.memory})
        done.seconds = time.perf_counter() - started
        return done

    def _settled(self, settled: Settled, done: Round, kept: Mapping[str, State]) -> None:
        done.ledger, done.void = settled.facts, settled.void
        if settled.model is not None:
            done.state, done.memory = unflatten(settled.model, done.state), joined(kept)
            done.selected = done.replies - len(settled.left_out)
            done.rejected += settled.left_out.items()

    def _message(self, done: Round, known: Mapping[str, State], asked: Sequence[Device]) -> Message:
        devices = [*asked, self.trusted] if self.trusted else asked
        return Message(
            round=done.number,
            tensors=done.state,
            base=digest(done.state),
            shared=self.protocol.shared(known.get(SERVER, {})),
            memory={one.identity: known[owner] for one in devices if (owner := of_device(one.identity)) in known},
        )

    def _combine(
        self, senders: Sequence[Device], rows: list[Tensor], message: Message, known: dict[str, State]
    ) -> Combined:
        weights = torch.tensor([device.examples for device in senders], dtype=torch.float64)
        trusted = None
        if self.trusted is not None:
            reply = next(iter(self.engine.ask([self.trusted], self.work, message)))
            trusted, known[of_device(self.trusted.identity)] = reply.tensors["update"], reply.kept
        identities = tuple(device.identity for device in senders)
        around = Circumstances(identities, known.get(AGGREGATOR, {}), trusted)
        return self.aggregator.combine(torch.stack(rows), weights, around)

    def _sound(
        self, asked: Sequence[Device], message: Message, expects: Tensor, keep: Keep | None, done: Round
    ) -> Iterator[tuple[Device, Reply]]:
        """Yields sound replies in the order of the devices; a reply that arrives early waits for its turn."""
        waiting = {device.identity: device for device in asked}
        early: dict[str, Reply | None] = {}
        turn = iter(asked)
        expected = next(turn, None)
        for reply in self.engine.ask(asked, self.work, message, keep):
            if waiting.pop(reply.device, None) is None:
                done.rejected.append((reply.device, "unknown or duplicate: this device was not asked, or has answered"))
                continue
            early[reply.device] = reply if self._accept(reply, expects, message, done) else None
            while expected is not None and expected.identity in early:
                ready = early.pop(expected.identity)
                if ready is not None:
                    yield expected, ready
                expected = next(turn, None)
        for identity in waiting:
            done.missing.append((identity, "no answer"))
        for device in asked:
            ready = early.get(device.identity)
            if ready is not None:
                yield device, ready

    def _accept(self, reply: Reply, expects: Tensor, message: Message, done: Round) -> bool:
        done.traffic += reply.traffic
        done.delays[reply.device] = reply.delay
        done.device_seconds[reply.device] = float(reply.fields.get("seconds", 0.0))
        if reply.seen:
            done.seen[reply.device], reply.seen = reply.seen, {}
        reason = objection(reply, {"update": expects}, message, self.deadline)
        if reason:
            (done.missing if reply.missing else done.rejected).append((reply.device, reason))
        return not reason

    def _why(self, combined: Combined, position: int) -> str:
        rule = name_of(self.aggregator)
        if combined.scores is None:
            return f"not selected by {rule}"
        score, median = float(combined.scores[position]), float(combined.scores.median())
        low = score > HIGH_SCORE * median
        return f"{'evaluated low' if low else 'not selected'} by {rule}: score {score:.3g}, the median is {median:.3g}"
