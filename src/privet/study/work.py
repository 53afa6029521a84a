"""What a device elsewhere is asked for: names and fields of parts, and a few numbers; nothing in it is code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from privet.errors import PlanError, RefusedError
from privet.models import Model
from privet.models.cost import parameters
from privet.models.imported import Imported
from privet.parts import to_table
from privet.study.experiment import Experiment
from privet.tensors import size_in_bytes
from privet.training.cohort import Cohort

RELEASE = re.compile(r"[0-9a-f]{32}")
"""Names a run towards devices; 16 bytes from the operating system, in its first record."""

_FIELDS = {
    *("release", "purpose", "unit", "relation", "delta", "rounds", "devices", "rate", "separation", "seed"),
    *("model", "training", "on_device", "on_server", "aggregation", "shape", "classes", "precision"),
    *("reproducible", "coupled", "parameters", "bytes"),
}


def work_of(experiment: Experiment, release: str) -> dict[str, Any]:
    """Returns the table that asks a device for its share of a run: parts by name and fields, and a few numbers.

    Args:
        experiment: of the run.
        release: names the run; a budget is charged once for it.

    Raises:
        PlanError: devices elsewhere can't do what the plan asks for.
    """
    plan, task, promise = experiment.plan, experiment.task, experiment.promise
    if not getattr(type(task.model), "__is_part__", False) or isinstance(task.model, Imported):
        raise PlanError(
            "model.name: devices run no code that Privet does not ship, and this model is other code",
            do="take a shipped model, or leave out --engine flower",
        )
    if task.protocol.personalises:
        raise PlanError(
            f"training.name: the flower engine does not run {to_table(task.protocol)['name']} yet",
            allowed="protocols that make one model for all",
            do="take training.name = 'fedavg', or leave out --engine flower",
        )
    if task.protocol.asynchronous and any(device.behaviour.colludes for device in experiment.devices):
        raise PlanError(
            "fleet.hostile: devices that collude wait for one another, and nobody waits in this training",
            do="take training.name = 'fedavg', or other behaviours",
        )
    network = task.network()
    return {
        "release": release,
        "purpose": plan.privacy.purpose,
        "unit": plan.privacy.budget_unit,
        "relation": promise.relation,
        "delta": promise.delta,
        "rounds": task.protocol.rounds,
        "devices": promise.devices,
        "rate": promise.cohort.rate,
        "separation": promise.cohort.separation,
        "model": to_table(task.model),
        "training": to_table(task.protocol),
        "on_device": [to_table(one) for one in task.on_device.mechanisms],
        "on_server": [to_table(one) for one in plan.on_server.mechanisms],
        "aggregation": to_table(plan.aggregator),
        "shape": list(task.shape),
        "classes": task.classes,
        "precision": asdict(task.precision),
        "seed": task.seed,
        "reproducible": task.reproducible,
        "coupled": task.coupled,
        "parameters": parameters(network),
        "bytes": size_in_bytes(network.state_dict().values()),
    }


def checked(head: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns the work and its round, once both are of the right form.

    Raises:
        RefusedError: they are not.
    """
    work, number = head.get("work"), head.get("round")
    if not isinstance(work, dict) or not isinstance(work.get("release"), str) or not RELEASE.fullmatch(work["release"]):
        raise RefusedError("malformed work")
    if set(work) != _FIELDS or not {"device", "base", "taken", "keep"} <= set(head):
        raise RefusedError("malformed work: it has other fields", do="take the same version on both sides")
    if not isinstance(number, int) or not 1 <= number <= int(work["rounds"]):
        raise RefusedError(f"round {number!r} of {work['rounds']}")
    cohort = Cohort(1.0, int(work["separation"]))
    if cohort.separation < 1 or cohort.turn(str(head["device"])) != number % cohort.separation:
        raise RefusedError(f"it is not this device's turn in round {number}")
    return work, number


def check_size(model: Model, work: Mapping[str, Any]) -> None:
    """Refuses a model that is larger than the work says, before any memory is taken for it.

    Raises:
        RefusedError: it is of another size.
    """
    shape, classes = tuple(int(one) for one in work["shape"]), int(work["classes"])
    with torch.device("meta"):
        found = size_in_bytes(model.build(shape, classes).state_dict().values())
    if found != work["bytes"]:
        raise RefusedError(f"the model has {found} bytes, and the work says {work['bytes']}")
