"""The figures of a run, as a function of its records."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from privet.ledger import Log
from privet.study.baselines import CENTRALISED
from privet.study.costs import of_run, to_target
from privet.study.experiment import Experiment

_ROUND = (
    "round",
    "accuracy",
    "accuracy_with_noise",
    "backdoor_success",
    "loss",
    "seconds",
    "modelled_seconds",
    "replies",
    "selected",
    "missing",
    "void",
    "staleness",
)


def metrics(experiment: Experiment, log: Log) -> dict[str, Any]:
    """Returns what ``metrics.json`` holds; ``None`` where the plan asked for no such figure."""
    plan, begun = experiment.plan, log.of("plan")[0]
    rounds = [record.body for record in log.of("round")]
    reached = {record.body["name"]: record.body["accuracy"] for record in log.of("baseline")}
    centralised = reached.pop(CENTRALISED, None)
    costs = of_run(experiment, rounds)
    at_devices = [cost["sent"] + cost["received"] for cost in costs if cost["party"].startswith("device-")]
    last = rounds[-1]
    return {
        "name": plan.name,
        "version": begun.body["version"],
        "plan_digest": begun.body["plan_digest"],
        "started": begun.time,
        "seconds": _seconds(log),
        "reproducible": plan.reproducible,
        "precision": _precisions(log, begun.body["precision"]),
        "parameters": begun.body["parameters"],
        "digest": last["digest"],
        "accuracy": last["accuracy"],
        "accuracy_with_noise": last["accuracy_with_noise"],
        "accuracy_personal": _personal(last),
        "backdoor_success": last.get("backdoor_success"),
        "backdoor_floor": next((record.body.get("backdoor_success") for record in log.of("baseline")), None),
        "accuracy_alone": reached,
        "accuracy_alone_mean": sum(reached.values()) / len(reached) if reached else None,
        "accuracy_centralised": centralised,
        "rounds": [{key: body.get(key) for key in _ROUND} for body in rounds],
        "rejected": [entry for body in rounds for entry in body["rejected"]],
        "hostile": [device.identity for device in experiment.devices if device.behaviour.hostile],
        "guarantees": [entry.to_json() for entry in plan.protocol.guarantees(experiment.promise)],
        "budget": paid[-1].body if (paid := log.of("budget")) else None,
        "claims": audited[-1].body["claims"] if (audited := log.of("claim")) else None,
        "attacks": latest_attacks(log),
        "ledger": _ledger(log, rounds),
        "costs": costs,
        "bytes_per_device": sum(at_devices) / len(at_devices) if at_devices else 0.0,
        "wire": _wire(log),
        "to_target": to_target(experiment, rounds),
        "warnings": _warnings(experiment, rounds, begun.body) + _unattacked(log),
    }


def _wire(log: Log) -> dict[str, Any] | None:
    """Returns the bytes that crossed between machines, and those that packing saved; None in one process."""
    found = [record.body for record in log.of("wire")]
    return {key: sum(body.get(key, 0) for body in found) for key in ("sent", "received", "saved")} if found else None


def _personal(last: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the spread of the devices' own accuracies and each of them; None in runs of older versions."""
    found = last.get("accuracy_personal")
    return found | {"devices": last["accuracy_own"]} if found else None


def _ledger(log: Log, rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns what the ledger says in the end, and what it cost; None where there was none."""
    found, facts = log.of("ledger"), [body["ledger"] for body in rounds if body.get("ledger")]
    if not found:
        return None
    seconds = sum(one["seconds"] for one in facts)
    return found[-1].body | {
        "messages": sum(one["messages"] for one in facts),
        "bytes_posted": sum(one["bytes_posted"] for one in facts),
        "seconds": seconds,
        "share_of_rounds": seconds / sum(body["seconds"] for body in rounds),
    }


def latest_attacks(log: Log) -> list[dict[str, Any]]:
    """Returns the latest finding of each attack, in the order in which they were first made."""
    found = {(record.body["number"], record.body["finding"]["name"]): record for record in log.of("attack")}
    return [record.body["finding"] for record in found.values()]


def _unattacked(log: Log) -> list[str]:
    """Returns why attacks of the plan could not run, unless they could later."""
    done = {record.body["number"] for record in log.of("attack")}
    refused = {record.body["number"]: record.body for record in log.of("unattacked")}
    return [f"attack {body['name']} could not run: {body['why']}" for at, body in refused.items() if at not in done]


def _seconds(log: Log) -> float:
    """Returns how long the run worked; the time between an interruption and its resumption does not count."""
    total, before = 0.0, None
    for record in log.records:
        now = datetime.fromisoformat(record.time)
        afterwards = record.kind in ("resumed", "claim") or record.body.get("afterwards", False)
        if before is not None and not afterwards:
            total += (now - before).total_seconds()
        before = now
    return total


def _precisions(log: Log, first: str) -> str:
    """Returns how networks computed; a run that was resumed on a busier processor may have chosen otherwise."""
    later = [record.body.get("precision", first) for record in log.of("resumed")]
    return ", then ".join(dict.fromkeys([first, *later]))


def _warnings(experiment: Experiment, rounds: list[dict[str, Any]], begun: dict[str, Any]) -> list[str]:
    lines = [f"round {body['round']} is void: {body['void']}" for body in rounds if body["void"]]
    if experiment.task.couples_records:
        lines.append(
            "features are normalised over the batch: a single record can't be classified on its own, and one record"
            " changes the features of others"
        )
    if begun["given"]:
        lines.append(f"passed in code, so not described by the plan: {', '.join(begun['given'])}")
    return lines
