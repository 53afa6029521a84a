"""Reference models: trained the way the run's model was, on rows of an attacker's choice, with no noise."""

from __future__ import annotations

import torch
from torch import Tensor

from privet.attacks.shadow import stream
from privet.attacks.stacked_mlp import Schedule, stackable, train_stacked
from privet.engines import Channel, Message, Reply
from privet.engines.view import Query, Train, TrainMany
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.device import Device
from privet.randomness import Source, seeded
from privet.study.baselines import train_alone
from privet.study.experiment import Experiment
from privet.tensors import State
from privet.training.evaluate import predictor
from privet.training.protocols.fedavg import Fedavg
from privet.training.protocols.split_federated import SplitFederated


def clean_query(experiment: Experiment, state: State) -> Query:
    """Returns what a model answers, noise left out."""
    task = experiment.task
    return predictor(task, state, task.quiet().on_device, seeded(0))


def trainer(experiment: Experiment) -> Train:
    """Returns how one reference model is trained."""

    def train(inputs: Tensor, labels: Tensor, rng: Source) -> Query:
        return clean_query(experiment, train_alone(experiment.task, inputs, labels, "reference", _path(rng)))

    return train


def trainer_of_many(experiment: Experiment) -> TrainMany:
    """Returns how many are trained: in one batched descent where the network allows it, else by the run's engine.

    The batched descent is for multilayer perceptrons under plain federated averaging, or under split
    training without mechanisms, which is the same descent. Other models are trained one a job, by as many
    workers as the plan's engine has.
    """
    task = experiment.task.quiet()
    plain = type(task.protocol) is Fedavg or (type(task.protocol) is SplitFederated and not task.on_device.mechanisms)
    if plain and stackable(task.network()):
        how = task.protocol
        schedule = Schedule(how.rounds, how.local_epochs, how.batch_size, how.learning_rate, how.momentum)
        return lambda inputs, labels, kept, rng: train_stacked(
            task.network(), inputs, labels, kept, schedule, rng.child("references")
        )

    def train_many(inputs: Tensor, labels: Tensor, kept: Tensor, rng: Source) -> Query:
        paths = {f"reference-{number}": _path(stream(rng, number)) for number in range(len(kept))}

        def work(device: Device, message: Message, channel: Channel) -> Reply:
            rows = torch.from_numpy(device.shard)
            state = train_alone(experiment.task, inputs[rows], labels[rows], "reference", paths[device.identity])
            return Reply(device.identity, 0, tensors=state)

        rows = (mine.nonzero().flatten().numpy() for mine in kept)
        jobs = [Device(name, experiment.edge, mine, Always(), Honest()) for name, mine in zip(paths, rows, strict=True)]
        replies = experiment.coordinator.engine.ask(jobs, work, Message(0, {}))
        models = [clean_query(experiment, reply.tensors) for reply in replies]
        return lambda asked: torch.stack([model(asked) for model in models])

    return train_many


def _path(rng: Source) -> int:
    return int(rng.integers(1 << 31, 1)[0])
