"""The folder of a run: begun whole or not at all, paid for once, held by one process, gone on with by its own plan."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from privet.errors import RunError
from privet.governance.budget import Book, Budget
from privet.inference.obfuscation import WEIGHTS, Trained
from privet.ledger import Log
from privet.models.cost import parameters
from privet.models.imported import Given
from privet.study.experiment import Experiment
from privet.tensors import State, digest, save


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; the lock ends with the process, however that ends."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another process is at work in {folder}", do="wait for it, or end it") from None
        yield


def begin_folder(experiment: Experiment, out: Path | str | None, given: list[str]) -> Path:
    """Makes the folder of a run with its plan and first record, and pays for it; leaves nothing when it can't.

    Args:
        experiment: what will be done.
        out: the folder; ``runs/<name>-<time>-<plan>`` when None.
        given: names of the things that were passed in code, in place of the plan's.

    Raises:
        RunError: the folder exists already.
    """
    plan = experiment.plan
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S.%f")[:-3]
    folder = Path(out) if out else Path("runs") / f"{plan.name}-{stamp}-{plan.digest[:8]}"
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{folder} exists already", do="give another folder with --out, or --resume it") from None
    try:
        (folder / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
        log = Log(folder / "records.jsonl")
        log.append("plan", _identity(experiment, given) | {"release": secrets.token_hex(16)})
        _pay(experiment, log)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # without its first record nothing could resume it
        raise
    return folder


def _pay(experiment: Experiment, log: Log) -> None:
    """Charges each device's budget for the whole run, before it begins; a run that goes on has paid already."""
    privacy, owed = experiment.plan.privacy, experiment.owed
    if privacy.budget_book is None or owed is None or owed.event is None or privacy.budget_epsilon is None:
        return
    names = [device.identity for device in experiment.devices]
    budgets = [
        Budget(name, privacy.purpose, privacy.budget_epsilon, privacy.delta, privacy.budget_unit) for name in names
    ]
    release = log.of("plan")[0].body["release"]
    with Book(Path(privacy.budget_book), budgets) as book:
        book.spend_each(release, names, privacy.purpose, owed.event, unit=privacy.budget_unit)
        spent = max(book.spent(name, privacy.purpose) for name in names)
    paid = {"book": privacy.budget_book, "purpose": privacy.purpose, "unit": privacy.budget_unit}
    log.append("budget", paid | {"epsilon_spent": spent, "epsilon": privacy.budget_epsilon})


def _identity(experiment: Experiment, given: list[str]) -> dict[str, Any]:
    from privet import __version__

    return {
        "version": __version__,
        "plan_digest": experiment.plan.digest,
        "precision": str(experiment.task.precision),
        "parameters": parameters(experiment.task.network()),
        "devices": {device.identity: device.examples for device in experiment.devices},
        "data": experiment.data.name,
        "data_digest": _data_digest(experiment),
        "given": given,
    }


def _data_digest(experiment: Experiment) -> str:
    """Returns the sha256 of all rows and of which device holds which."""
    data = experiment.data
    names = ("train_inputs", "train_labels", "test_inputs", "test_labels")
    rows = {name: torch.from_numpy(getattr(data, name)) for name in names}
    shards = {device.identity: torch.from_numpy(device.shard) for device in experiment.devices}
    return digest(rows | shards)


def go_on(experiment: Experiment, folder: Path, log: Log, given: list[str]) -> None:
    """Records that a run goes on, once it is known to be a run of this plan and these rows."""
    begun = log.of("plan")
    if not begun or begun[0].body["plan_digest"] != experiment.plan.digest:
        raise RunError(f"{folder} is a run of another plan", do="resume it with its own plan.toml")
    now = _identity(experiment, given)
    for key in ("data_digest", "devices", "parameters", "given"):
        if key in begun[0].body and begun[0].body[key] != now[key]:
            raise RunError(f"{folder} was begun with other {_BEGUN_WITH[key]}", do="bring the same again, or run anew")
    if not log.of("budget"):
        _pay(experiment, log)  # it was stopped between its first record and this one
    log.append("resumed", {"rounds": len(log.of("round")), "precision": now["precision"]})


_BEGUN_WITH = {
    "data_digest": "rows",
    "devices": "devices",
    "parameters": "models",
    "given": "things passed in code (data, partition, model)",
}


def keep_model(experiment: Experiment, state: State, folder: Path, log: Log) -> None:
    """Writes the global model and, where it answers inputs by itself, how it is built.

    It does not where a mechanism other than noise stands between its stages, or where only code builds it.
    """
    task = experiment.task
    if isinstance(task.model, Given) or (task.protocol.cuts and task.on_device.without_noise().mechanisms):
        save(state, folder / WEIGHTS)
        return
    network = task.network()
    network.load_state_dict(state)
    about: dict[str, Any] = {"plan": experiment.plan.digest, "reach": float(task.inputs.abs().max())}
    if "data" not in log.of("plan")[0].body["given"]:
        about["data"] = experiment.plan.to_table()["data"]
    Trained(task.model, network.eval(), task.shape, task.classes, about).save(folder)


def keep_pictures(folder: Path, name: str, pictures: dict[str, Tensor]) -> None:
    """Keeps an attack's pictures with the run, in place of those of the same name."""
    if pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        save(pictures, folder / "pictures" / f"{name}.safetensors")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object; a crash leaves the old file or the new one, never half of one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)
