"""What each party sent, received, computed and drew, from the records of the rounds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from privet.study.experiment import Experiment
from privet.training import Round
from privet.training.local import COORDINATOR
from privet.training.protocols.split_federated import EDGE


def of_round(experiment: Experiment, done: Round) -> dict[str, Any]:
    """Returns one round's costs: bytes by party, modelled and measured seconds by device.

    A device's modelled seconds are its computing and its transfers, one after the other; the edge
    server works through all devices' batches on one profile; the round lasts until both are done,
    and no longer than the deadline for the devices.
    """
    parties: dict[str, dict[str, float]] = defaultdict(lambda: {"sent": 0, "received": 0})
    trained: dict[str, int] = defaultdict(int)
    for entry in done.traffic:
        trained[entry.receiver] += entry.messages if entry.kind == "global model" else 0
        parties[entry.sender]["sent"] += entry.bytes
        parties[entry.receiver]["received"] += entry.bytes
    edge_seconds = 0.0
    for device in experiment.devices:
        if device.identity not in parties:
            continue
        times = max(1, trained[device.identity])  # whoever pushes in its own time may train twice in a round, or not
        parties[device.identity]["compute_seconds"] = times * experiment.task.compute_seconds(device)
        parties[device.identity]["measured_seconds"] = done.device_seconds.get(device.identity, 0.0)
        steps = 3 * experiment.head_multiplications * device.examples * experiment.task.protocol.local_epochs
        edge_seconds += experiment.edge.compute_seconds(steps)
    if EDGE in parties:
        parties[EDGE]["compute_seconds"] = edge_seconds
    deadline = experiment.coordinator.deadline
    waits = min(max(done.delays.values(), default=0.0), math.inf if deadline is None else deadline)
    lasts = max(edge_seconds, waits)
    return {"parties": {name: parties[name] for name in sorted(parties)}, "modelled_seconds": lasts}


def of_run(experiment: Experiment, rounds: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the whole run's costs by party, devices first, in joules too."""
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for body in rounds:
        for party, figures in body["parties"].items():
            for name, value in figures.items():
                totals[party][name] += value
    profiles = {device.identity: device.profile for device in experiment.devices} | {EDGE: experiment.edge}
    costs = []
    for party in [*profiles, COORDINATOR]:
        if party not in totals:
            continue
        figures, profile = totals[party], profiles.get(party)
        compute = figures["compute_seconds"]
        transfer = profile.transfer_seconds(figures["sent"] + figures["received"]) if profile else 0.0
        costs.append(
            {
                "party": party,
                "profile": profile.name if profile else None,
                "sent": int(figures["sent"]),
                "received": int(figures["received"]),
                "compute_seconds_modelled": compute,
                "transfer_seconds_modelled": transfer,
                "joules": profile.joules(compute, transfer) if profile else None,
                "seconds_measured": figures["measured_seconds"],
            }
        )
    return costs


def to_target(experiment: Experiment, rounds: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns what it cost until the plan's target accuracy was first reached; None where the plan names none.

    Returns:
        ``accuracy`` (the target), ``measured`` (which accuracy: ``global`` or ``personal``), and ``round``,
        ``seconds`` (modelled), ``bytes_per_device`` and ``joules_per_device`` (modelled), None if it was not reached.
    """
    target, personal = experiment.plan.evidence.target_accuracy, experiment.plan.protocol.personalises
    if target is None:
        return None
    found: dict[str, Any] = {"accuracy": target, "measured": "personal" if personal else "global"}
    for place, body in enumerate(rounds):
        if (body["accuracy_personal"]["mean"] if personal else body["accuracy"]) >= target:
            until, count = rounds[: place + 1], len(experiment.devices)
            costs = [cost for cost in of_run(experiment, until) if cost["party"] not in (EDGE, COORDINATOR)]
            return found | {
                "round": body["round"],
                "seconds": sum(one["modelled_seconds"] for one in until),
                "bytes_per_device": sum(cost["sent"] + cost["received"] for cost in costs) / count,
                "joules_per_device": sum(cost["joules"] for cost in costs) / count,
            }
    return found | dict.fromkeys(("round", "seconds", "bytes_per_device", "joules_per_device"))
