"""Running a plan: rounds, baselines, attacks, report, all recorded and resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from privet.errors import RefusedError, RunError
from privet.evidence.report import write_report
from privet.fleet.data import Data
from privet.ledger import Log, Record
from privet.models.cost import parameters
from privet.randomness import Source
from privet.study.baselines import CENTRALISED, baselines
from privet.study.costs import of_round
from privet.study.experiment import Experiment, prepare
from privet.study.leakage import leak, seen_rows
from privet.study.metrics import metrics
from privet.study.plan import Plan
from privet.study.secret import forget_secret, keep_secret, read_secret
from privet.tensors import State, clone, digest, load, save
from privet.training import Round
from privet.training.evaluate import accuracy, predictor
from privet.training.local import keep_rows
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
    partition: list[np.ndarray] | None = None,
    model: Callable[..., nn.Module] | None = None,
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

    Raises:
        InputError: the plan, data, partition or model can't be used; nothing was written.
        RunError: the folder exists already, or the run to resume is damaged or of another plan.
        RefusedError: no round had enough sound replies.
    """
    secret = read_secret(Path(resume)) if resume else None
    experiment = prepare(plan, data=data, partition=partition, model=model, secret=secret)
    given = [name for name, value in (("data", data), ("partition", partition), ("model", model)) if value is not None]
    session = _resume(experiment, Path(resume)) if resume else _begin(experiment, out, given)
    session.progress = progress or (lambda event, **figures: None)
    return session.finish()


def _begin(experiment: Experiment, out: Path | str | None, given: list[str]) -> Session:
    plan = experiment.plan
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S.%f")[:-3]
    folder = Path(out) if out else Path("runs") / f"{plan.name}-{stamp}-{plan.digest[:8]}"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{folder} exists already", do="give another folder with --out, or --resume it") from None
    (folder / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    log, network = Log(folder / "records.jsonl"), experiment.task.network()
    log.append("plan", _identity(experiment, parameters(network), given))
    return Session(experiment, folder, log)


def _identity(experiment: Experiment, count: int, given: list[str]) -> dict[str, Any]:
    from privet import __version__

    return {
        "version": __version__,
        "plan_digest": experiment.plan.digest,
        "precision": str(experiment.task.precision),
        "parameters": count,
        "devices": {device.identity: device.examples for device in experiment.devices},
        "data": experiment.data.name,
        "given": given,
    }


def _resume(experiment: Experiment, folder: Path) -> Session:
    if not (folder / "records.jsonl").is_file():
        raise RunError(f"no run to resume at {folder}", do="give the folder of an interrupted run")
    log = Log(folder / "records.jsonl")
    begun = log.of("plan")
    if not begun or begun[0].body["plan_digest"] != experiment.plan.digest:
        raise RunError(f"{folder} is a run of another plan", do="resume it with its own plan.toml")
    log.append("resumed", {"rounds": len(log.of("round"))})
    return Session(experiment, folder, log)


class Session:
    """One run in progress; each step writes its record when it is done, so that any step can be the last.

    Args:
        experiment: what to do.
        folder: of the run.
        log: its records.
    """

    def __init__(self, experiment: Experiment, folder: Path, log: Log) -> None:
        self.experiment, self.folder, self.log = experiment, folder, log
        self.progress: Progress = lambda event, **figures: None

    def finish(self) -> Run:
        """Does what the records don't show as done yet, and returns the finished run."""
        plan = self.experiment.plan
        self.progress(
            "start", name=plan.name, rounds=plan.protocol.rounds, devices=plan.fleet.devices, path=self.folder
        )
        state = self._train()
        clean = self._compare()
        self._attack(state, clean)
        save(state, self.folder / "model.safetensors")
        figures = {"run": str(self.folder)} | metrics(self.experiment, self.log)
        write_json(self.folder / "metrics.json", figures)
        write_report(self.folder)
        self.progress("report", path=self.folder / "report.html")
        return Run(self.folder, figures)

    def _train(self) -> State:
        experiment, last = self.experiment, self.experiment.plan.protocol.rounds
        state, done = self._checkpoint()
        keep = None
        if EDGE in experiment.plan.views.keep:
            keep = keep_rows(EDGE, experiment.plan.views.records, len(experiment.devices), experiment.task.protocol)
        noise, sampling = experiment.task.once("coordinator"), experiment.task.once("cohort")
        if done < last and not experiment.plan.reproducible:
            keep_secret(self.folder, experiment.task.secret, begun=done > 0)
        for finished in experiment.coordinator.rounds(state, done + 1, last, noise, keep, sampling):
            state = finished.state
            self._record_round(finished)
        forget_secret(self.folder)
        if all(record.body["void"] for record in self.log.of("round")):
            raise RefusedError(
                f"no round had enough sound replies: {self.log.of('round')[-1].body['void']}",
                do="ask more devices, or an aggregator that needs fewer",
            )
        return state

    def _checkpoint(self) -> tuple[State, int]:
        rounds = self.log.of("round")
        if not rounds:
            return clone(self.experiment.task.network().state_dict()), 0
        number = rounds[-1].body["round"]
        state = load(self.folder / f"checkpoint-{number}.safetensors")
        if digest(state) != rounds[-1].body["digest"]:
            raise RunError(
                f"checkpoint {number} in {self.folder} is not the model that was recorded", do="run it again"
            )
        return state, number

    def _record_round(self, done: Round) -> None:
        figures = self._accuracies(done.state, done.number)
        if done.seen:
            save(seen_rows(self.experiment, done.seen), self.folder / f"view-{EDGE}.safetensors")
        save(done.state, self.folder / f"checkpoint-{done.number}.safetensors")
        rejected = [{"device": device, "round": done.number, "reason": reason} for device, reason in done.rejected]
        body = figures | {
            "round": done.number,
            "digest": digest(done.state),
            "asked": done.asked,
            "loss": done.loss,
            "replies": done.replies,
            "selected": done.selected,
            "rejected": rejected,
            "missing": [{"device": device, "reason": reason} for device, reason in done.missing],
            "void": done.void,
            "seconds": done.seconds,
            **of_round(self.experiment, done),
        }
        self.log.append("round", body)
        (self.folder / f"checkpoint-{done.number - 1}.safetensors").unlink(missing_ok=True)
        rounds = self.experiment.plan.protocol.rounds
        self.progress("round", rounds=rounds, **{key: body[key] for key in _SHOWN}, rejected=rejected)

    def _accuracies(self, state: State, number: int) -> dict[str, float | None]:
        task, (inputs, labels) = self.experiment.task, self.experiment.test
        network = task.network()
        network.load_state_dict(state)
        quiet = task.on_device.without_noise()
        noise: Source = task.noise("evaluation", number)
        noisy = None
        if task.protocol.cuts and quiet != task.on_device:
            noisy = accuracy(predictor(task, network, task.on_device, noise), inputs, labels)
        plain = accuracy(predictor(task, network, quiet, noise), inputs, labels)
        return {"accuracy": plain, "accuracy_with_noise": noisy}

    def _compare(self) -> State | None:
        """Runs the baselines that are not recorded yet; returns the centralised model if there is one."""
        path = self.folder / "centralised.safetensors"
        evidence = self.experiment.plan.evidence
        expected = int(evidence.centralised) + len(self.experiment.devices) * int(evidence.alone)
        if len(self.log.of("baseline")) < expected:
            known = {record.body["name"] for record in self.log.of("baseline")}
            for name, reached, state, seconds in self._timed_baselines():
                if name == CENTRALISED:
                    save(state, path)
                if name not in known:
                    self.log.append("baseline", {"name": name, "accuracy": reached, "seconds": seconds})
                    self.progress("baseline", name=name, accuracy=reached)
        return load(path) if path.is_file() else None

    def _timed_baselines(self) -> Iterator[tuple[str, float, State, float]]:
        started = time.perf_counter()
        for name, reached, state in baselines(self.experiment):
            yield name, reached, state, time.perf_counter() - started
            started = time.perf_counter()

    def _attack(self, state: State, clean: State | None) -> None:
        path = self.folder / f"view-{EDGE}.safetensors"
        seen = load(path) if path.is_file() else {}
        judge = None
        if clean is not None:
            network = self.experiment.task.network()
            network.load_state_dict(clean)
            task = self.experiment.task
            judge = predictor(task, network, task.on_device.without_noise(), task.noise("judge"))
        done = {record.body["number"] for record in self.log.of("attack")}
        for number, attack in enumerate(self.experiment.plan.attack_parts):
            if number in done:
                continue
            started = time.perf_counter()
            outcome = leak(self.experiment, number, attack, state, seen, judge)
            self._keep_pictures(outcome.finding.name, outcome.pictures)
            body = {"number": number, "finding": outcome.finding.to_json(), "seconds": time.perf_counter() - started}
            self.log.append("attack", body)
            self.progress(
                "attack", name=outcome.finding.name, metrics=outcome.finding.metrics, floor=outcome.finding.floor
            )

    def _keep_pictures(self, name: str, pictures: dict[str, Tensor]) -> None:
        if pictures:
            (self.folder / "pictures").mkdir(exist_ok=True)
            save(pictures, self.folder / "pictures" / f"{name}.safetensors")


_SHOWN = ("round", "accuracy", "accuracy_with_noise", "loss", "seconds", "replies", "selected", "void")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object; a crash leaves the old file or the new one, never half of one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)
