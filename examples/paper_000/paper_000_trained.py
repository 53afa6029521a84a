"""The models and obfuscators that the figures of document 000 are measured on; trained once and kept in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from privet import parts
from privet.evidence.audit import Finding
from privet.fleet.fetch import data_folders
from privet.inference.obfuscation import Obfuscation, Trained, train_model
from privet.inference.obfuscators import UserModel
from privet.models.fitting import Fitting
from privet.randomness import seeded
from privet.study.obfuscate import (
    ATTACKERS,
    FITTING,
    LABEL_ONLY,
    applicable,
    evaluate,
    figures,
    label_only,
    reported,
)
from privet.study.obfuscation_views import Rows, Trial

DATA = {"mnist": {"name": "mnist"}, "cifar": {"name": "cifar10-jpeg"}}
PAIRS, EFFORT = 10_000, 0.5
"""Of the attackers in the frontier: half of what is usual."""

CACHE = data_folders("paper_000")[-1]
MODELS: Mapping[str, tuple[Mapping[str, Any], Fitting]] = {"mnist": ({"name": "lenet"}, FITTING)}
"""Data set -> the user's model and how it is trained; that of CIFAR-10 is trained by cifar_cloud.py."""

OBFUSCATORS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "mnist": {
        "ObfNet1": {"name": "obfnet1", "epochs": 12},
        "ObfNet2": {"name": "obfnet2", "epochs": 8},
        "bottleneck of 8": {"name": "bottleneck", "width": 8, "epochs": 4},
        "trained against an inverse": {"name": "adversarial", "strength": 20.0, "epochs": 4},
        "noise, sigma .3": {"name": "noised", "sigma": 0.3, "epochs": 4},
        "secret rotation": {"name": "secret-key", "epochs": 4},
        "prototype": {"name": "prototype"},
        "prototype, LeNet": {"name": "prototype", "student": "lenet", "epochs": 20, "learning_rate": 0.005},
    },
    "cifar": {
        "ObfNet1": {"name": "obfnet1", "epochs": 3},
        "convolutional": {"name": "convolutional", "epochs": 3},
        "prototype": {"name": "prototype", "student": {"name": "small-cnn", "maps": [32, 96, 192]}, "epochs": 20},
    },
}
"""Data set -> row of the figure -> the obfuscator's part table."""

CODED = {
    "posterior codes, 16": ("prototype", {"name": "posterior-codes", "most": 16}),
    "posterior codes, 64": ("prototype", {"name": "posterior-codes"}),
    "response, epsilon 5": ("prototype", {"name": "response"}),
}
"""Rows that take the student of another row, which costs no training."""


@cache
def rows(data: str) -> Rows:
    return Rows.of(parts.build("datasets", DATA[data]).load())


def user_model(data: str, seed: int) -> Trained:
    """Returns the model that everything is trained through, trained now or found in the cache."""
    folder = CACHE / f"{data}-{seed}" / "model"
    if not (folder / "model.json").is_file():
        table, fitting = MODELS[data]
        own = rows(data)
        rng = seeded(seed, "model")
        train_model(parts.build("models", table), own.inputs, own.labels, own.classes, fitting, rng).save(folder)
    return Trained.load(folder)


def trained(data: str, row: str, seed: int, count: int = 1) -> Obfuscation:
    """Returns the obfuscators of a row, trained now or found in the cache."""
    folder = _folder(data, row, seed, count)
    if not (folder / "obfuscator.json").is_file():
        own, model = rows(data), user_model(data, seed)
        if row in CODED:
            made = _coded(data, row, seed)
        else:
            part = parts.build("obfuscators", OBFUSCATORS[data][row])
            made = Obfuscation.train(part, model, own.inputs, own.labels, count, seeded(seed, "obfuscators"))
        dataclasses.replace(made, figures=figures(made, own)).save(folder)
    return Obfuscation.load(folder)


def evaluated(data: str, row: str, seed: int, records: int) -> dict[str, Any]:
    """Returns the report of all attackers on a row, each made now or found in the cache."""
    made, trial = trained(data, row, seed), Trial(PAIRS, records, effort=EFFORT, seed=seed)
    told = {"obfuscator": parts.to_table(made.obfuscator), "trial": dataclasses.asdict(trial)}

    def kept(name: str) -> Path:
        if name == LABEL_ONLY:  # it sees nothing of the obfuscator
            return CACHE / f"{data}-{seed}" / f"{name}-{_digest(told['trial'])}.json"
        return (
            _folder(data, row, seed, 1)
            / f"{name}-{_digest(told | {'attacker': dataclasses.asdict(ATTACKERS[name])})}.json"
        )

    names = list(applicable(made))
    missing = tuple(name for name in names if not kept(name).is_file())
    found = evaluate(made, rows(data), dataclasses.replace(trial, attackers=missing))
    if not kept(LABEL_ONLY).is_file():
        found.append(label_only(made, rows(data), trial))
    for one in found:
        kept(one.name).write_text(json.dumps(one.to_json()))
    findings = {name: Finding(**json.loads(kept(name).read_text())) for name in (*names, LABEL_ONLY)}
    return reported(made, [findings[name] for name in names], findings[LABEL_ONLY])


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _coded(data: str, row: str, seed: int) -> Obfuscation:
    basis, table = CODED[row]
    source, own = trained(data, basis, seed), rows(data)
    student = parts.to_table(source.obfuscator)["student"]
    part, model = parts.build("obfuscators", table | {"student": student}), user_model(data, seed)
    sides = part.coded(source.sides[0], UserModel(model.network, own.inputs, own.labels, own.classes))
    return Obfuscation(part, model, (sides,))


def _folder(data: str, row: str, seed: int, count: int) -> Path:
    return CACHE / f"{data}-{seed}" / f"{row} x {count}".replace(" ", "-").replace(",", "")
