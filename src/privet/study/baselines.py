"""What federation is compared with: every device alone, and all rows in one place."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

import numpy as np
import torch

from privet.engines import Channel, Message, Reply
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.randomness import seeded
from privet.study.experiment import Experiment
from privet.tensors import State, clone
from privet.training import Task
from privet.training.contract import Lesson
from privet.training.evaluate import accuracy, predictor
from privet.training.local import drawing

CENTRALISED = "centralised"


def train_alone(task: Task, rows: torch.Tensor, labels: torch.Tensor, *path: str | int) -> State:
    """Trains the task's model on some inputs and labels for as many epochs as the fleet trains; returns its state.

    Nothing leaves whoever trains alone, so noise is left out; normalisation stays, being part of
    the model.

    Args:
        task: the fleet's task.
        rows: inputs, shape (n, ...).
        labels: shape (n,).
        path: names the stream of shuffles.
    """
    quiet, rng = task.quiet(), seeded(task.seed, "alone", *path)
    bench, channel = quiet.bench(), Channel("alone", 0)
    with drawing(rng.child("layers")):
        for _ in range(task.protocol.rounds):
            bench.descent.reset()
            quiet.protocol.train(Lesson(bench, rows, labels, quiet.on_device, rng, rng, channel))
    return clone(bench.network.state_dict())


def baselines(experiment: Experiment, skip: Container[str] = ()) -> Iterator[tuple[str, float, State]]:
    """Yields name, test accuracy and state of the centralised model, then of each device alone.

    The centralised model learns from the true labels of all rows that the fleet holds; so does each
    device alone, hostile or not: what it could have had by staying at home.

    Args:
        experiment: the experiment.
        skip: names of baselines that are known already.
    """
    task, (inputs, labels) = experiment.task, experiment.test

    def work(device: Device, message: Message, channel: Channel) -> Reply:
        rows = torch.from_numpy(device.shard)
        state = train_alone(task, task.inputs[rows], task.labels[rows], device.identity)
        predict = predictor(task, state, task.quiet().on_device, seeded(0))
        reached = accuracy(predict, inputs, labels)
        keep = state if device.identity == CENTRALISED else {}
        return Reply(device.identity, 0, tensors=keep, fields={"accuracy": reached})

    learners: list[Device] = []
    if experiment.plan.evidence.centralised:
        everything = np.sort(np.concatenate([device.shard for device in experiment.devices]))
        learners.append(Device(CENTRALISED, experiment.edge, everything, Always(), Honest()))
    if experiment.plan.evidence.alone:
        learners += [replace(device, availability=Always(), behaviour=Honest()) for device in experiment.devices]
    wanted = [learner for learner in learners if learner.identity not in skip]
    for reply in experiment.coordinator.engine.ask(wanted, work, Message(0, {})):
        yield reply.device, float(reply.fields["accuracy"]), reply.tensors
