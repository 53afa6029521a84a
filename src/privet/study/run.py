"""Running a plan: rounds, baselines, attacks, report, all recorded and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from privet.attacks.contract import Attack
from privet.engines.colluding import Colluding
from privet.errors import InputError, RefusedError, RunError
from privet.evidence.report import write_report
from privet.fleet.data import Data
from privet.ledger import Log, Record
from privet.parts import name_of
from privet.randomness import Source
from privet.study.across import Across
from privet.study.backdoors import backdoor_success
from privet.study.baselines import CENTRALISED, baselines
from privet.study.consortium import Consortium
from privet.study.costs import of_round
from privet.study.experiment import Experiment, prepare
from privet.study.kept import SENT, read_kept, recorded, seen_rows
from privet.study.leakage import leak
from privet.study.metrics import metrics
from privet.study.personal import own_accuracies, spread
from privet.study.plan import Plan
from privet.study.run_folder import alone, begin_folder, go_on, keep_model, keep_pictures, write_json
from privet.study.secret import forget_secret, keep_secret, read_secret
from privet.tensors import State, clone, digest, flatten, load, save
from privet.training import Round
from privet.training.evaluate import accuracy, begun, predictor
from privet.training.local import COORDINATOR, keep_rows
from privet.training.protocols.split_federated import EDGE

Progress = Callable[..., None]
"""Called as ``progress(event, **figures)`` while a run goes on."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        metrics: its figures, as in ``metrics.json``.
    """

    path: Path
    metrics: dict[str, Any]

    @property
    def model(self) -> State:
        """The global model's tensors by name."""
        return load(self.path / "model.safetensors")

    @property
    def records(self) -> list[Record]:
        """What happened, verified."""
        return Log(self.path / "records.jsonl").records

    @property
    def report(self) -> Path:
        """The page to read and sign."""
        return self.path / "report.html"

    def _repr_html_(self) -> str:
        return self.report.read_text(encoding="utf-8")


def run(
    plan: Plan,
    *,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    progress: Progress | None = None,
    data: Data | None = None,
    partition: Sequence[np.ndarray] | None = None,
    model: Callable[..., nn.Module] | None = None,
    across: Across | None = None,
) -> Run:
    """Runs a plan and returns what it measured.

    Args:
        plan: what to do.
        out: folder of the run; ``runs/<name>-<time>-<plan>`` when None.
        resume: folder of an interrupted run of the same plan, to go on with.
        progress: called as ``progress(event, **figures)``.
        data: rows of your own in place of the plan's.
        partition: row indices of each device, in place of the plan's.
        model: a function of ``shape`` and ``classes`` that returns a torch module, in place of the plan's.
        across: how to reach devices on other machines; all compute in this process when None.

    Raises:
        UnreachableError: the coordinator is not up, or too few devices joined.
        InputError: the plan, data, partition or model can't be used; nothing was written.
        RunError: the folder exists already, or the run to resume is damaged, at work, or of another plan or data.
        RefusedError: no round had enough sound replies.
    """
    if out is not None and resume is not None:
        raise RunError("a resumed run goes on in its own folder", do="give out or resume, not both")
    secret = read_secret(Path(resume)) if resume else None
    experiment = prepare(plan, data=data, partition=partition, model=model, secret=secret)
    given = [name for name, value in (("data", data), ("partition", partition), ("model", model)) if value is not None]
    playing = across.ready(experiment) if across and resume is None else {}
    folder = begin_folder(experiment, out, given) if resume is None else Path(resume)
    if not (folder / "records.jsonl").is_file():
        raise RunError(f"no run to resume at {folder}", do="give the folder of an interrupted run")
    with alone(folder):
        log = Log(folder / "records.jsonl")
        if resume is not None:
            go_on(experiment, folder, log, given)
        with _reaching(experiment, across, playing, log) as (ready, measured):
            return Session(ready, folder, log, progress or (lambda event, **figures: None), measured).finish()


@contextmanager
def _reaching(
    experiment: Experiment, across: Across | None, playing: dict[str, str], log: Log
) -> Iterator[tuple[Experiment, Callable[[], None]]]:
    """Yields the experiment with the engine that reaches its devices, and what records the bytes that crossed.

    Who plays whom is recorded once a run.
    """
    if across is None:
        yield experiment, lambda: None
        return
    if not log.of("fleet"):
        log.append("fleet", {"engine": "flower", "devices": playing or across.ready(experiment)})
    known = log.of("fleet")[0].body["devices"]
    with across.engine(experiment, log.of("plan")[0].body["release"], known) as engine:

        def measured() -> None:
            late = [{"device": device, "round": number} for device, number in engine.late]
            body = {"sent": engine.sent, "received": engine.received, "saved": engine.saved, "late": late}
            log.append("wire", body)

        asynchronous = experiment.task.protocol.asynchronous  # each device in its own time, none waits to collude
        reach = engine if asynchronous else Colluding(engine, experiment.plan.seed)
        yield replace(experiment, coordinator=replace(experiment.coordinator, engine=reach)), measured


class Session:
    """One run in progress; each step writes its record when it is done, so that any step can be the last.

    Args:
        experiment: what to do.
        folder: of the run.
        log: its records.
        progress: told what happens.
        measured: called after the last round, to record what crossed between machines.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        log: Log,
        progress: Progress,
        measured: Callable[[], None] = lambda: None,
    ) -> None:
        self._measured = measured
        self.experiment, self.folder, self.log, self.progress = experiment, folder, log, progress
        inputs, self._labels = experiment.test
        self._inputs, self._begin = begun(experiment.task, inputs)

    def finish(self) -> Run:
        """Does what the records don't show as done yet, and returns the finished run."""
        plan = self.experiment.plan
        self.progress(
            "start", name=plan.name, rounds=plan.protocol.rounds, devices=plan.fleet.devices, path=self.folder
        )
        state = self._train()
        clean = self._compare()
        self._attack(state, clean)
        keep_model(self.experiment, state, self.folder, self.log)
        figures = {"run": str(self.folder)} | metrics(self.experiment, self.log)
        write_json(self.folder / "metrics.json", figures)
        write_report(self.folder)
        self.progress("report", path=self.folder / "report.html")
        return Run(self.folder, figures)

    def _train(self) -> State:
        experiment, last = self.experiment, self.experiment.plan.protocol.rounds
        state, memory, done = self._checkpoint()
        keep = None
        if EDGE in experiment.plan.views.keep:
            keep = keep_rows(EDGE, experiment.plan.views.records, len(experiment.devices), experiment.task.protocol)
        noise, sampling = experiment.task.once("coordinator"), experiment.task.once("cohort")
        updates = experiment.plan.views.records if COORDINATOR in experiment.plan.views.keep else 0
        if done < last and not experiment.plan.reproducible:
            keep_secret(self.folder, experiment.task.secret, begun=done > 0)
        consortium = self._consortium()
        coordinator = replace(experiment.coordinator, settle=consortium.settle if consortium else None)
        for finished in coordinator.rounds(state, done + 1, last, noise, keep, updates, sampling, memory):
            self._record_round(finished, state)
            state = finished.state
        if done < last:
            self._measured()
        if consortium is not None:
            self.log.append("ledger", consortium.finish())
        forget_secret(self.folder)
        if all(record.body["void"] for record in self.log.of("round")):
            raise RefusedError(
                f"no round had enough sound replies: {self.log.of('round')[-1].body['void']}",
                do="ask more devices, or an aggregator that needs fewer",
            )
        return state

    def _consortium(self) -> Consortium | None:
        """Returns the run's ledger, or None where the plan has none or it is done."""
        plan, task = self.experiment.plan, self.experiment.task
        if not plan.ledger.miners or self.log.of("ledger"):
            return None
        return Consortium(
            self.folder,
            plan.ledger,
            [device.identity for device in self.experiment.devices],
            plan.protocol.rounds,
            name_of(plan.aggregator),
            getattr(plan.aggregator, "byzantine", 0),
            flatten(task.network().state_dict()),
            sha256(f"ledger {plan.seed}".encode()).digest() if plan.reproducible else task.secret,
        )

    def _checkpoint(self) -> tuple[State, State, int]:
        """Returns the model after the last recorded round, what was remembered besides, and its number."""
        rounds = self.log.of("round")
        if not rounds:
            return clone(self.experiment.task.network().state_dict()), {}, 0
        body = rounds[-1].body
        number, remembered = body["round"], body.get("memory")
        memory = {} if remembered is None else self._recorded(f"memory-{number}", remembered)
        return self._recorded(f"checkpoint-{number}", body["digest"]), memory, number

    def _recorded(self, name: str, expected: str | None) -> State:
        return recorded(self.folder, name, expected)

    def _record_round(self, done: Round, sent: State) -> None:
        figures = self._accuracies(done)
        views = {EDGE: seen_rows(self.experiment, done.seen), COORDINATOR: done.updates}
        views[SENT] = sent if done.updates else {}
        for party, view in views.items():
            if view:
                save(view, self.folder / f"view-{party}.safetensors")
        save(done.state, self.folder / f"checkpoint-{done.number}.safetensors")
        if done.memory:
            save(done.memory, self.folder / f"memory-{done.number}.safetensors")
        rejected = [{"device": device, "round": done.number, "reason": reason} for device, reason in done.rejected]
        body = figures | {
            "round": done.number,
            "digest": digest(done.state),
            "memory": digest(done.memory) if done.memory else None,
            "asked": done.asked,
            "loss": done.loss if self.experiment.task.protocol.reports_loss else None,
            "replies": done.replies,
            "selected": done.selected,
            "rejected": rejected,
            "missing": [{"device": device, "reason": reason} for device, reason in done.missing],
            "void": done.void,
            "views": {party: digest(view) for party, view in views.items() if view},
            "ledger": done.ledger,
            "staleness": _staleness(done),
            "seconds": done.seconds,
            **of_round(self.experiment, done),
        }
        self.log.append("round", body)
        for name in ("checkpoint", "memory"):
            (self.folder / f"{name}-{done.number - 1}.safetensors").unlink(missing_ok=True)
        rounds = self.experiment.plan.protocol.rounds
        self.progress("round", rounds=rounds, **{key: body[key] for key in _SHOWN}, rejected=rejected)

    def _accuracies(self, done: Round) -> dict[str, Any]:
        task, inputs, labels = self.experiment.task, self._inputs, self._labels
        state, number, plan = done.state, done.number, self.experiment.plan
        quiet = task.on_device.without_noise()
        noise: Source = task.noise("evaluation", number)
        noisy = None
        if task.protocol.cuts and quiet != task.on_device:
            noisy = accuracy(predictor(task, state, task.on_device, noise), inputs, labels)
        answers = predictor(task, state, quiet, noise, self._begin)(inputs).argmax(1)
        figures = {
            "accuracy": float((answers == labels).double().mean()),
            "accuracy_with_noise": noisy,
            "backdoor_success": self._backdoor_success(lambda rows: predictor(task, state, quiet, noise)(rows)),
        }
        last = number == plan.protocol.rounds
        if task.protocol.personalises and not last and plan.evidence.target_accuracy is None:
            return figures | {"accuracy_personal": None}  # as dear as a round, and only its end is asked for
        own = own_accuracies(self.experiment, state, done.memory, number, answers)
        return figures | {"accuracy_personal": spread(own)} | ({"accuracy_own": own} if last else {})

    def _backdoor_success(self, predict: Callable[[Tensor], Tensor]) -> float | None:
        """Returns how often the triggers of the fleet's behaviours work; None where there are none."""
        return backdoor_success(
            [device.behaviour for device in self.experiment.devices], predict, *self.experiment.test
        )

    def _unharmed(self, clean: State) -> Callable[[Tensor], Tensor]:
        """Returns what the centralised model, which nobody attacked, answers."""
        task = self.experiment.task
        return predictor(task, clean, task.on_device.without_noise(), task.noise("judge"))

    def _compare(self) -> State | None:
        """Runs the baselines that are not recorded yet; returns the centralised model if there is one."""
        known = {record.body["name"]: record.body for record in self.log.of("baseline")}
        started = time.perf_counter()
        for name, reached, state in baselines(self.experiment, skip=known):
            body = {"name": name, "accuracy": reached, "seconds": time.perf_counter() - started}
            if name == CENTRALISED:
                save(state, self.folder / f"{CENTRALISED}.safetensors")
                body["digest"] = digest(state)
                body["backdoor_success"] = self._backdoor_success(self._unharmed(state))
            known[name] = self.log.append("baseline", body).body
            self.progress("baseline", name=name, accuracy=reached)
            started = time.perf_counter()
        return self._recorded(CENTRALISED, known[CENTRALISED].get("digest")) if CENTRALISED in known else None

    def _attack(self, state: State, clean: State | None) -> None:
        kept = read_kept(self.folder, self.log, state)
        judge = None if clean is None else self._unharmed(clean)
        done = {record.body["number"] for record in self.log.of("attack")}
        for number, attack in enumerate(self.experiment.plan.attack_parts):
            if number in done:
                continue
            started = time.perf_counter()
            try:
                outcome = leak(self.experiment, number, attack, kept, judge)
            except (InputError, RefusedError) as error:  # the training is done, and its report must not be lost
                self.log.append("unattacked", {"number": number, "name": name_of(attack), "why": error.advice()})
                continue
            self._keep_pictures(number, attack, outcome.pictures)
            body = {"number": number, "finding": outcome.finding.to_json(), "seconds": time.perf_counter() - started}
            self.log.append("attack", body)
            figures = {key: value for key, value in outcome.finding.metrics.items() if not key.endswith(_BOUNDS)}
            self.progress("attack", name=outcome.finding.name, **figures)

    def _keep_pictures(self, number: int, attack: Attack, pictures: dict[str, Tensor]) -> None:
        name = name_of(attack)
        first = [name_of(one) for one in self.experiment.plan.attack_parts].index(name)
        keep_pictures(self.folder, name if number == first else f"{name}-{number}", pictures)


def _staleness(done: Round) -> dict[str, float] | None:
    """Returns mean and maximum of a round's staleness; None where everybody waits for everybody."""
    if not done.staleness:
        return None
    found = [pushes for _, pushes in done.staleness]
    return {"mean": sum(found) / len(found), "max": max(found)}


_BOUNDS = ("_low", "_high")
_SHOWN = ("round", "accuracy", "accuracy_with_noise", "loss", "seconds", "replies", "selected", "void")
