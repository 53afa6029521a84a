"""What a run has kept that can be attacked, checked against what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from privet.errors import RunError
from privet.ledger import Log
from privet.study.experiment import Experiment
from privet.tensors import State, digest, load
from privet.training.local import COORDINATOR
from privet.training.protocols.split_federated import EDGE

SENT = "sent"
"""The global model that devices were sent in the last round, where the coordinator's view is kept."""


@dataclass(frozen=True)
class Kept:
    """What is left of a run to attack.

    Attributes:
        model: the final global model.
        features: what :func:`seen_rows` returns; empty if the edge server's view was not kept.
        updates: by device, what it sent in the last round; empty if the coordinator's view was not kept.
        sent: the global model that the updates started from.
    """

    model: State
    features: State = field(default_factory=dict)
    updates: State = field(default_factory=dict)
    sent: State = field(default_factory=dict)


def seen_rows(experiment: Experiment, seen: Mapping[str, State]) -> State:
    """Returns what the edge server saw of honest devices in the last round, with the rows of the training set.

    Args:
        experiment: the experiment.
        seen: what each device's channel kept: ``features`` (k, releases, d), ``labels`` (k, releases).
    """
    kept = [(device, seen[device.identity]) for device in experiment.honest if device.identity in seen]
    if not kept:
        return {}
    return {
        "features": torch.cat([state["features"] for _, state in kept]),
        "labels": torch.cat([state["labels"][:, 0] for _, state in kept]),
        "rows": torch.cat([torch.from_numpy(device.shard[: len(state["labels"])]) for device, state in kept]),
    }


def read_kept(folder: Path, log: Log, model: State) -> Kept:
    """Returns what a run's folder holds of its last round.

    Args:
        folder: of the run.
        log: its records.
        model: the final global model.

    Raises:
        RunError: a file is missing, or is not what was recorded.
    """
    digests = log.of("round")[-1].body.get("views", {})
    parties = [party for party in (EDGE, COORDINATOR, SENT) if party in digests]
    views = {party: recorded(folder, f"view-{party}", digests[party]) for party in parties}
    return Kept(model, views.get(EDGE, {}), views.get(COORDINATOR, {}), views.get(SENT, {}))


def recorded(folder: Path, name: str, expected: str | None) -> State:
    """Loads tensors of a run, and refuses them if they are not those that were recorded.

    Raises:
        RunError: the file is missing, or is not what was recorded.
    """
    state = load(folder / f"{name}.safetensors")
    if expected is not None and digest(state) != expected:
        raise RunError(f"{name} in {folder} is not what was recorded", do="run it again")
    return state
