"""The device's half of a run across machines: what may be asked of a device, and how it answers.

Work is names and fields of parts that the device has; nothing in it is code. A device goes through its own
:class:`~privet.fleet.side.DeviceSide` before it reads a row, derives what the run costs it by itself, and keeps every
answer until the next round, so that a coordinator that asks again after a crash gets the same bytes and no second
release.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from privet.accounting import Guarantee
from privet.aggregation.contract import Aggregator
from privet.engines import Channel, Keep, Message, Reply
from privet.engines.in_process import threads
from privet.engines.packing import pack_all
from privet.errors import InputError, PrivetError, RefusedError, UnreachableError
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.fleet.profile import find_profile
from privet.fleet.side import DeviceSide
from privet.governance.consent import NotAllowedError
from privet.mechanisms.chain import Chain
from privet.models.imported import Imported
from privet.study.edge import RemoteEdge
from privet.study.experiment import dimension, mixes
from privet.study.part_field import PartOf
from privet.study.work import check_size, checked
from privet.tensors import State, load, save
from privet.training import LocalStep, Task
from privet.training.cohort import Cohort
from privet.training.contract import Promise, Protocol
from privet.training.precision import Precision
from privet.transport.contract import Client
from privet.transport.durable import replace_file

if TYPE_CHECKING:
    from privet.engines.flower.wire import Letter

REFUSED = "refused: "
"""How an answer begins that says no."""

WORK = "work"
"""The kind of refusal that is about the work itself; the others are those of the device's own log."""

KEPT = 8
"""Runs of which a device keeps its memory and its last answer."""


class Worker:
    """Answers work for one device.

    Args:
        side: the device's own decisions and rows.
        simulated: the device is one of a demonstration, dealt its rows by the plan: it may follow the plan's
            behaviour, use noise that the coordinator can repeat, and send what a View keeps.
        edge: port -> the way to the fleet's edge server, which the coordinator's signed work names; None trains
            a split model's head in this process.
    """

    def __init__(
        self, side: DeviceSide, simulated: Device | None = None, edge: Callable[[int], Client] | None = None
    ) -> None:
        self.side, self.simulated, self._edge = side, simulated, edge
        self._known: tuple[str, LocalStep, Guarantee | None] | None = None

    def answer(self, asked: Letter) -> Letter:
        """Returns the answer to a letter; a refusal says why, and everything else that fails does too."""
        from privet.engines.flower.wire import letter

        kind = WORK
        try:
            self.side.verify(asked.head, asked.signature)
            return self._answer(asked)
        except RefusedError as refusal:
            why = REFUSED + refusal.advice()
            kind = refusal.code if isinstance(refusal, NotAllowedError) else WORK
        except UnreachableError as error:
            why, kind = error.advice(), ""
        except PrivetError as error:
            why = REFUSED + f"it can't do this work: {error.advice()}"
        return letter(_no(_addressed(asked, self.side.identity), why, kind))

    def _answer(self, asked: Letter) -> Letter:
        from privet.engines.flower.wire import Letter, letter

        head = asked.fields()
        work, number = checked(head)
        folder = self._folder(work["release"])
        _pinned(folder, work)
        given = folder / f"answer-{number}"
        if given.with_suffix(".json").is_file():
            kept = Letter(given.with_suffix(".json").read_bytes(), given.with_suffix(".safetensors").read_bytes())
            if kept.fields()["base"] != head["base"]:
                raise NotAllowedError("round", f"round {number} was answered already, for another model")
            return kept
        if any(int(one.stem.partition("-")[2]) > number for one in folder.glob("answer-*.json")):
            raise NotAllowedError("round", f"round {number} is over")
        self._permit({**work, "round": number, "keep": head["keep"]})
        step, guarantee = self._step(work)
        model, shared = asked.states("model", "shared")
        self.side.spent(work, guarantee)
        memory = _memory(folder, head["taken"])
        message = Message(number, model, str(head["base"]), shared, {self._device(head).identity: memory})
        if (port := int(head.get("edge", 0))) and self._edge is not None and step.task.protocol.meets_edge:
            _once(folder, number, step.task)
            reply = self._train(step.at(RemoteEdge(self._edge(port), asked.head, asked.signature)), head, message)
        else:
            reply = self._train(step, head, message)
        sealed = letter(
            {
                "device": head["device"],
                "round": number,
                "base": reply.base,
                "missing": reply.missing,
                "fields": _figures(reply, step.task),
                "traffic": [asdict(entry) for entry in reply.traffic],
                "kept": bool(reply.kept),
            },
            tensors=pack_all(reply.tensors),
            seen=reply.seen,
        )
        if reply.kept:
            save(reply.kept, folder / f"memory-{number}.safetensors")
        _forget(folder, number, head["taken"])
        # The answer is on disk before it leaves, so that it is never made twice, and the head comes last.
        replace_file(given.with_suffix(".safetensors"), sealed.tensors)
        replace_file(given.with_suffix(".json"), sealed.head)
        return sealed

    def _train(self, step: LocalStep, head: Mapping[str, Any], message: Message) -> Reply:
        keep = None if head["keep"] is None else Keep(**head["keep"])
        device = self._device(head, step)
        channel = Channel(device.identity, message.round, keep)
        with threads(1 if step.task.reproducible else None):
            reply = step(device, message, channel)
        reply.traffic, reply.seen = list(channel.traffic.values()), channel.seen
        return reply

    def _device(self, head: Mapping[str, Any], step: LocalStep | None = None) -> Device:
        rows = np.arange(0 if step is None else len(step.task.labels))
        behaviour = self.simulated.behaviour if self.simulated else Honest()
        return Device(str(head["device"]), find_profile("gateway"), rows, Always(), behaviour)

    def _permit(self, work: Mapping[str, Any]) -> None:
        noisy = any(one.adds_noise for one in _chain(work).mechanisms)
        if self.simulated is None and work["reproducible"] and noisy:
            raise RefusedError(
                "the noise would come from a seed that the coordinator knows", do="set reproducible = false"
            )
        if self.simulated is None and work["keep"] is not None:
            raise RefusedError("views are kept of simulated devices only", do="leave out views.keep")
        self.side.permit(work)

    def _step(self, work: Mapping[str, Any]) -> tuple[LocalStep, Guarantee | None]:
        """Returns the local step of a run, and what the whole run costs, both derived here."""
        told = json.dumps(work, sort_keys=True)
        if self._known is None or self._known[0] != told:
            task = self._task(work)
            self._known = (told, LocalStep(task), _cost(work, task))
        return self._known[1:]

    def _task(self, work: Mapping[str, Any]) -> Task:
        inputs, labels = self.side.rows()
        if list(inputs.shape[1:]) != work["shape"] or not len(labels) or int(labels.max()) >= work["classes"]:
            raise RefusedError(
                f"this device's rows, {tuple(inputs.shape[1:])}, are none of this plan", allowed=f"{work['shape']}"
            )
        model = PartOf("models").build(work["model"])
        if isinstance(model, Imported):
            raise RefusedError("the model is other code than what Privet ships")
        check_size(model, work)
        return Task(
            model=model,
            protocol=PartOf("protocols").build(work["training"]),
            on_device=_chain(work),
            inputs=inputs,
            labels=labels,
            classes=int(work["classes"]),
            precision=Precision(**work["precision"]),
            multiplications=0,
            seed=int(work["seed"]),
            reproducible=bool(work["reproducible"]),
            coupled=bool(work["coupled"]),
            secret=_secret(self._folder(work["release"])),
        )

    def _folder(self, release: str) -> Path:
        runs = self.side.folder / "work"
        folder = runs / release
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            for old in sorted(runs.iterdir(), key=lambda one: one.stat().st_mtime)[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        return folder


def _pinned(folder: Path, work: Mapping[str, Any]) -> None:
    """Refuses work that is not what a run began with: a run is paid for once, and must not change afterwards.

    Raises:
        RefusedError: it has changed.
    """
    told, path = json.dumps(work, sort_keys=True).encode(), folder / "work.json"
    if not path.is_file():
        replace_file(path, told)
    elif path.read_bytes() != told:
        raise RefusedError("the run's work has changed since it began", do="start it as a new run")


def _chain(work: Mapping[str, Any]) -> Chain:
    return Chain(tuple(PartOf("mechanisms").build(one) for one in work["on_device"]))


def _once(folder: Path, number: int, task: Task) -> None:
    """Refuses to release a round's features a second time, with other noise, after a round that broke off.

    Raises:
        RefusedError: they may have left this device.
    """
    path = folder / f"begun-{number}"
    if task.reproducible or not any(one.adds_noise for one in task.on_device.mechanisms):
        return  # the same features leave again
    if path.is_file():
        raise RefusedError(f"round {number} broke off after features had left, and they are released once")
    replace_file(path, b"")


def _cost(work: Mapping[str, Any], task: Task) -> Guarantee | None:
    """Returns the dearest formal guarantee of the plan's unit, for all rounds; None where there is none."""
    rule: Aggregator = PartOf("aggregators").build(work["aggregation"])
    protocol: Protocol = task.protocol
    if protocol.rounds != work["rounds"]:
        raise RefusedError("the rounds are not those of the training")
    front, _ = protocol.split(task.model, task.network())
    promise = Promise(
        on_device=task.on_device,
        on_server=Chain(tuple(PartOf("mechanisms").build(one) for one in work["on_server"])),
        dimension=dimension(task) * protocol.vectors,
        delta=float(work["delta"]),
        relation=work["relation"],
        devices=int(work["devices"]),
        combine=rule.bound,
        coupled=protocol.batch_size if task.model.couples_records or mixes(task, front) else 1,
        cohort=Cohort(float(work["rate"]), int(work["separation"])),
        absent_is_zero=rule.absent_is_zero,
        examples=(len(task.labels),),
    )
    formal = [one for one in protocol.guarantees(promise) if one.unit == work["unit"] and one.formal]
    return max(formal, key=lambda one: one.epsilon, default=None)


def _figures(reply: Reply, task: Task) -> dict[str, float]:
    """Returns the figures that a reply may carry: no loss where noise protects what leaves the device."""
    private = not task.protocol.cuts and any(one.adds_noise for one in task.on_device.mechanisms)
    hidden = {"loss"} if private or not task.protocol.reports_loss else set()
    return {name: float(value) for name, value in reply.fields.items() if name not in hidden}


def _addressed(asked: Letter, otherwise: str) -> str:
    """Returns the name in the run of the device that a letter is for, which a refusal must bear too."""
    try:
        return str(asked.fields().get("device", otherwise))
    except PrivetError:
        return otherwise


def _no(identity: str, why: str, kind: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"round": 0, "base": "", "fields": {}, "traffic": [], "kept": False}
    return {"device": identity, "missing": why, "refused": kind, **empty}


def _memory(folder: Path, taken: int) -> State:
    """Returns what the device kept of the last round of which the coordinator used its answer."""
    if not taken:
        return {}
    path = folder / f"memory-{int(taken)}.safetensors"
    if not path.is_file():
        raise InputError(f"its memory of round {int(taken)} is gone", do="start the run again")
    return load(path)


def _forget(folder: Path, number: int, taken: int) -> None:
    """Deletes answers and memory of rounds that nobody can ask for again."""
    for path in (*folder.glob("answer-*.*"), *folder.glob("memory-*.*")):
        of = int(path.stem.rpartition("-")[2])
        if of < number and not (path.stem.startswith("memory") and of == taken):
            path.unlink(missing_ok=True)


def _secret(folder: Path) -> bytes:
    """Returns the device's secret of a run, from which noise is drawn that must be drawn again exactly."""
    path = folder / "secret.key"
    if not path.is_file():
        with os.fdopen(os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".new").replace(path)
    return path.read_bytes()
