"""Each device's own accuracy: of the model that it uses, on test rows in the proportion of its own labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from privet.engines import Channel, Message, Reply
from privet.fleet.availability.always import Always
from privet.fleet.device import Device
from privet.randomness import seeded
from privet.study.experiment import Experiment
from privet.tensors import State
from privet.training import LocalStep
from privet.training.evaluate import predictor
from privet.training.memory import by_owner, of_device


def own_accuracies(
    experiment: Experiment, state: State, memory: State, round: int, answers: Tensor
) -> dict[str, float]:
    """Returns the accuracy of every honest device's own model, by identity.

    A device's test rows are the test set's in the proportion of its own true labels: each class counts with its
    share of the device's rows, which is what a draw of such rows gives in the mean. A class that the test set lacks
    counts for nothing. Where the protocol makes no models of a device's own, everybody uses the global one.

    Args:
        experiment: the experiment.
        state: the global model.
        memory: what the run remembers besides.
        round: after which round.
        answers: the global model's classes of the test inputs, shape (n,).
    """
    task, (inputs, labels) = experiment.task, experiment.test
    if not task.protocol.personalises:
        return {device.identity: _on_own(answers, labels, device, experiment) for device in experiment.honest}
    owners, step, quiet = by_owner(memory), LocalStep(task), task.on_device.without_noise()
    kept = {one.identity: owners.get(of_device(one.identity), {}) for one in experiment.honest}

    def work(device: Device, message: Message, channel: Channel) -> Reply:
        predict = predictor(task, step.personal(device, message, channel), quiet, seeded(0))
        reached = _on_own(predict(inputs).argmax(1), labels, device, experiment)
        return Reply(device.identity, round, fields={"accuracy": reached})

    devices = [replace(device, availability=Always()) for device in experiment.honest]
    replies = experiment.coordinator.engine.ask(devices, work, Message(round, state, memory=kept))
    return {reply.device: float(reply.fields["accuracy"]) for reply in replies if not reply.missing}


def _on_own(answers: Tensor, labels: Tensor, device: Device, experiment: Experiment) -> float:
    classes, own = experiment.task.classes, torch.from_numpy(experiment.data.train_labels[device.shard])
    rows = labels.bincount(minlength=classes)
    right = labels[answers == labels].bincount(minlength=classes)
    weights = own.bincount(minlength=classes).double() * (rows > 0)
    return float((weights * right / rows.clamp_min(1)).sum() / weights.sum().clamp_min(1))


def spread(accuracies: Mapping[str, float]) -> dict[str, Any] | None:
    """Returns ``mean``, ``worst``, ``worst_device`` and ``quartiles`` (three) of the devices' own accuracies."""
    if not accuracies:
        return None
    values = torch.tensor(list(accuracies.values()), dtype=torch.float64)
    worst = min(accuracies, key=lambda identity: accuracies[identity])
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return {
        "mean": float(values.mean()),
        "worst": accuracies[worst],
        "worst_device": worst,
        "quartiles": values.quantile(quarters).tolist(),
    }
