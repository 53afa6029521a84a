"""What each party of a run can attack with: the View for each target of an attack, and the truth to judge by.

The attacker's own rows are half of the test set; the other half are candidates that were not trained on.
Only honest devices are attacked: what a hostile one sends is not made from its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from privet.attacks.contract import Attack, Target
from privet.engines.view import View
from privet.errors import RunError
from privet.fleet.device import Device
from privet.mechanisms.chain import Chain
from privet.parts import name_of
from privet.randomness import seeded
from privet.study.experiment import Experiment
from privet.study.kept import Kept
from privet.study.references import clean_query, trainer, trainer_of_many
from privet.tensors import State
from privet.training.descent import batches
from privet.training.local import COORDINATOR
from privet.training.protocols.fedsgd import Fedsgd
from privet.training.protocols.split_federated import EDGE

ANYONE = "whoever has the global model"
CANDIDATES = 1000
"""Members, and as many others, that an attack on the model is asked about."""
ROWS = 16
"""Records that attacks on updates are asked to give back at most: from a mean over more nothing can be told apart."""
COMMON = 8
"""A column with at most so many values is an attribute as it is; of others, its quarter is one."""

PARTY: dict[Target, str] = {
    "features": EDGE,
    "members": ANYONE,
    "updates": COORDINATOR,
    "model": ANYONE,
    "property": COORDINATOR,
    "attribute": ANYONE,
}
"""Who sees what a target of an attack needs."""


@dataclass(frozen=True)
class Viewpoint:
    """A View and, for the judge only, the truth behind it.

    Attributes:
        view: what the attack gets.
        truth: originals, or which candidates are true; what it is depends on the target.
        labels: of the originals, where they have any.
        strangers: for ``attribute``, the same view of rows that were not trained on.
        strangers_truth: the truth behind it.
    """

    view: View
    truth: Tensor
    labels: Tensor
    strangers: View | None = None
    strangers_truth: Tensor | None = None


def viewpoint(experiment: Experiment, attack: Attack, kept: Kept) -> Viewpoint:
    """Returns the view that an attack needs, with the truth.

    Raises:
        RunError: the run kept no such view, or there is nothing in it to find out.
    """
    make: dict[Target, Callable[[], Viewpoint]] = {
        "features": lambda: _features(experiment, kept),
        "members": lambda: _members(experiment, kept),
        "updates": lambda: _updates(experiment, kept),
        "model": lambda: _model(experiment, kept),
        "property": lambda: _property(experiment, kept, int(getattr(attack, "label", 0))),
        "attribute": lambda: _attribute(experiment, kept),
    }
    return make[attack.target]()


def halves(experiment: Experiment) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns the attacker's own inputs and labels, and those of others that were not trained on either."""
    inputs, labels = experiment.test
    order = seeded(experiment.plan.seed, "halves of the test set").permutation(len(labels))
    own, outside = order[: len(order) // 2], order[len(order) // 2 :]
    return (inputs[own], labels[own]), (inputs[outside], labels[outside])


def _features(experiment: Experiment, kept: Kept) -> Viewpoint:
    seen = kept.features
    if not experiment.task.protocol.cuts:
        raise RunError(f"no features leave a device: {name_of(experiment.task.protocol)} does not cut the model")
    if EDGE not in experiment.plan.views.keep:
        raise _not_kept(EDGE)
    if not seen:
        raise RunError(
            "no honest device took part in the last round, so the edge server saw nothing to attack",
            do="run again, or set fleet.availability.name = 'always'",
        )
    (inputs, labels), _ = halves(experiment)
    task, releases = experiment.task, seen["features"].shape[1]
    noisy = [_release(experiment, kept.model, inputs, task.on_device) for _ in range(releases)]
    view = View(
        party=EDGE,
        seen={"features": seen["features"], "labels": seen["labels"]},
        knows={"inputs": inputs, "labels": labels, "features": torch.stack(noisy, 1)},
        release=lambda asked: _release(experiment, kept.model, asked, task.on_device.without_noise()),
        shape=experiment.data.shape,
        classes=experiment.data.classes,
    )
    return Viewpoint(view, task.inputs[seen["rows"]], task.labels[seen["rows"]])


@torch.no_grad()
def _release(experiment: Experiment, state: State, inputs: Tensor, mechanisms: Chain) -> Tensor:
    task = experiment.task
    front, _ = task.protocol.split(task.model, _network(experiment, state))
    front.train()  # as a device runs it
    noise, released = task.noise("attacker"), []
    # As a device does it in training: near-equal batches, since one of a single record can't be normalised.
    for rows in batches(len(inputs), task.protocol.batch_size):
        with task.precision.autocast():
            features = front(inputs[rows])
        released.append(mechanisms(features.flatten(1).float(), noise))
    return torch.cat(released)


def _members(experiment: Experiment, kept: Kept) -> Viewpoint:
    own, outside = halves(experiment)
    rows = _trained_on(experiment)
    members = rows[seeded(experiment.plan.seed, "members").permutation(len(rows))[: min(CANDIDATES, len(outside[1]))]]
    count, task = len(members), experiment.task
    view = View(
        party=ANYONE,
        seen={
            "inputs": torch.cat((task.inputs[members], outside[0][:count])),
            "labels": torch.cat((task.labels[members], outside[1][:count])),
        },
        knows={"inputs": own[0], "labels": own[1]},
        query=clean_query(experiment, kept.model),
        train=trainer(experiment),
        train_many=trainer_of_many(experiment),
        shape=experiment.data.shape,
        classes=experiment.data.classes,
    )
    return Viewpoint(view, torch.arange(len(view.seen["labels"])) < count, view.seen["labels"])


def _updates(experiment: Experiment, kept: Kept) -> Viewpoint:
    senders, taken = _senders(experiment, kept), 0
    few = []
    for device in sorted(senders, key=lambda device: device.examples):
        taken += device.examples
        if taken > ROWS:
            break
        few.append(device)
    if not few:
        least = min(device.examples for device in senders)
        raise RunError(
            f"every update is made from {least} rows or more, and from a mean over so many records none can be told",
            allowed=f"a device with {ROWS} rows or fewer",
            do="set fleet.examples_per_device, to see what fewer rows would give away",
        )
    rows = torch.cat([torch.from_numpy(device.shard) for device in few])
    task = experiment.task
    return Viewpoint(_of_coordinator(experiment, kept, few), task.inputs[rows], task.labels[rows])


def _property(experiment: Experiment, kept: Kept, label: int) -> Viewpoint:
    senders, labels = _senders(experiment, kept), experiment.task.labels
    truth = torch.tensor([bool((labels[torch.from_numpy(device.shard)] == label).any()) for device in senders])
    if truth.all() or not truth.any():
        raise RunError(
            f"{'every' if truth.all() else 'no'} device holds rows of class {label}, so there is nothing to tell apart",
            do="deal rows by label (fleet.partition.name = 'by-label'), or name another class",
        )
    return Viewpoint(_of_coordinator(experiment, kept, senders), truth, torch.zeros(0))


def _senders(experiment: Experiment, kept: Kept) -> list[Device]:
    if COORDINATOR not in experiment.plan.views.keep:
        raise _not_kept(COORDINATOR)
    if kept.updates and not kept.sent:
        raise RunError("the run did not keep the model that its updates started from", do="run the plan again")
    found = [device for device in experiment.honest if device.identity in kept.updates]
    if not found:
        raise RunError("no honest device's update was kept in the last round", do="run again, or ask more devices")
    return found


def _of_coordinator(experiment: Experiment, kept: Kept, devices: list[Device]) -> View:
    """Returns the coordinator's view of some updates as mean gradients at the model that was sent."""
    (inputs, labels), _ = halves(experiment)
    gradients = [-kept.updates[device.identity] / _steps(experiment, device) for device in devices]
    return View(
        party=COORDINATOR,
        seen={
            "gradients": torch.stack(gradients),
            "counts": torch.tensor([device.examples for device in devices]),
        },
        knows={"inputs": inputs, "labels": labels},
        query=clean_query(experiment, kept.sent),
        network=lambda: _network(experiment, kept.sent),
        shape=experiment.data.shape,
        classes=experiment.data.classes,
    )


def _steps(experiment: Experiment, device: Device) -> float:
    """Returns how far a constant gradient of 1 would have moved a device's model: exact for one step of descent."""
    how = experiment.task.protocol
    count = 1 if isinstance(how, Fedsgd) else how.epochs * -(-device.examples // how.batch_size)
    return how.learning_rate * sum((1 - how.momentum**step) / (1 - how.momentum) for step in range(1, count + 1))


def _model(experiment: Experiment, kept: Kept) -> Viewpoint:
    """The attacker lacks rows of the upper half of the classes, and wants to know what these look like."""
    (inputs, labels), _ = halves(experiment)
    classes, rows = experiment.data.classes, _trained_on(experiment)
    if classes < 2:
        raise RunError("the model knows one class only, so there is none that the attacker lacks")
    known = labels < (classes + 1) // 2
    view = View(
        party=ANYONE,
        seen={},
        knows={"inputs": inputs[known], "labels": labels[known]},
        query=clean_query(experiment, kept.model),
        network=lambda: _network(experiment, kept.model),
        shape=experiment.data.shape,
        classes=classes,
    )
    return Viewpoint(view, experiment.task.inputs[rows], experiment.task.labels[rows])


def _attribute(experiment: Experiment, kept: Kept) -> Viewpoint:
    if len(experiment.data.shape) != 1:
        raise RunError(
            f"records of shape {experiment.data.shape} have no columns of which one is an attribute",
            allowed="tables, whose records have one dimension",
        )
    members = _members(experiment, kept)
    (own, own_labels), _ = halves(experiment)
    column, values = _hidden(own, own_labels)

    def hide(inside: bool) -> tuple[View, Tensor]:
        rows = members.truth == inside
        inputs, labels = members.view.seen["inputs"][rows].clone(), members.view.seen["labels"][rows]
        truth = (inputs[:, column, None] - values).abs().argmin(1)
        inputs[:, column] = 0
        knows = {"inputs": own, "labels": own_labels, "columns": torch.tensor([column]), "candidates": values[:, None]}
        return replace(members.view, seen={"inputs": inputs, "labels": labels}, knows=knows), truth

    (view, truth), (strangers, theirs) = hide(True), hide(False)
    return Viewpoint(view, truth, view.seen["labels"], strangers, theirs)


def _hidden(own: Tensor, labels: Tensor) -> tuple[int, Tensor]:
    """Returns the column that says most about the label, and the values that it can take, (c,).

    A column of few values is preferred, being what people call an attribute; of another one, the means
    of its four quarters stand for its values.
    """
    named = [column for column in range(own.shape[1]) if 2 <= len(own[:, column].unique()) <= COMMON]
    varied = [column for column in range(own.shape[1]) if len(own[:, column].unique()) > 1]
    if not varied:
        raise RunError("no column of the records varies, so there is nothing to find out")

    def told(column: int) -> float:
        values = own[:, column].double()
        means = torch.stack([values[labels == label].mean() for label in labels.unique()])
        counts = torch.stack([(labels == label).sum() for label in labels.unique()])
        return float((counts * (means - values.mean()).square()).sum() / (values - values.mean()).square().sum())

    column = max(named or varied, key=told)
    values = own[:, column].unique()
    if len(values) > COMMON:
        values = torch.stack([part.mean() for part in own[:, column].sort().values.tensor_split(4)]).unique()
    return column, values


def _trained_on(experiment: Experiment) -> Tensor:
    return torch.cat([torch.from_numpy(device.shard) for device in experiment.honest])


def _network(experiment: Experiment, state: State) -> nn.Sequential:
    network = experiment.task.network()
    network.load_state_dict(state)
    return network.eval()


def _not_kept(party: str) -> RunError:
    return RunError(
        f"the view of {party} was not kept", do=f"add {party!r} to views.keep in the plan, and run it again"
    )
