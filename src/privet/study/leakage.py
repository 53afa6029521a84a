"""Assembling what each party saw, and running the plan's attacks on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Scores
from privet.engines.view import Query, View
from privet.errors import RefusedError
from privet.evidence.audit import Finding, judge_membership, judge_reconstruction
from privet.parts import name_of
from privet.randomness import Source, seeded
from privet.study.baselines import train_alone
from privet.study.experiment import Experiment
from privet.tensors import State
from privet.training.descent import batches
from privet.training.evaluate import predictor
from privet.training.protocols.split_federated import EDGE

MEMBERSHIP = "whoever has the global model"
CANDIDATES = 1000


@dataclass(frozen=True)
class Leak:
    """One attack's outcome.

    Attributes:
        finding: its judged figures.
        pictures: originals and reconstructions of a few records, uint8 (k, ...); empty for other attacks.
    """

    finding: Finding
    pictures: State


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


def leak(experiment: Experiment, number: int, attack: Attack, state: State, seen: State, judge: Query | None) -> Leak:
    """Runs one attack of the plan on what its party saw.

    The attacker holds half of the test set; the other half are candidates that were not trained on.

    Args:
        experiment: the experiment.
        number: position of the attack in the plan; names its random stream.
        attack: the attack.
        state: the final global model.
        seen: what :func:`seen_rows` returned.
        judge: a clean classifier that reads reconstructions; the global model when None.

    Raises:
        RefusedError: there is nothing to attack, because no honest device took part.
    """
    query = _query(experiment, state)
    rng = seeded(experiment.plan.seed, "attack", number)
    if attack.target == "features":
        return _invert(experiment, attack, state, seen, judge or query, rng)
    return _infer_membership(experiment, attack, query, rng)


def _query(experiment: Experiment, state: State) -> Query:
    task = experiment.task
    return predictor(task, state, task.quiet().on_device, seeded(0))


def _halves(experiment: Experiment) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    inputs, labels = experiment.test
    order = seeded(experiment.plan.seed, "halves of the test set").permutation(len(labels))
    own, outside = order[: len(order) // 2], order[len(order) // 2 :]
    return (inputs[own], labels[own]), (inputs[outside], labels[outside])


def _invert(experiment: Experiment, attack: Attack, state: State, seen: State, judge: Query, rng: Source) -> Leak:
    if not seen:
        raise RefusedError(
            "no honest device took part in the last round, so the edge server saw nothing to attack",
            do="run again, or set fleet.availability.name = 'always'",
        )
    (inputs, labels), _ = _halves(experiment)
    truth = experiment.task.inputs[seen["rows"]]
    view = View(
        party=EDGE,
        seen={"features": seen["features"], "labels": seen["labels"]},
        knows={"inputs": inputs, "labels": labels, "features": _release(experiment, state, inputs, seen)},
        shape=experiment.data.shape,
        classes=experiment.data.classes,
    )
    guess = attack(view, rng)
    assert isinstance(guess, Reconstruction)  # noqa: S101 - attacks on features reconstruct
    finding = judge_reconstruction(name_of(attack), view, guess, truth, seen["labels"], judge)
    pictures = {"originals": _pixels(truth[:10]), "reconstructions": _pixels(guess.inputs[:10])}
    return Leak(finding, pictures if truth.dim() == 4 else {})


@torch.no_grad()
def _release(experiment: Experiment, state: State, inputs: Tensor, seen: State) -> Tensor:
    task, releases = experiment.task, seen["features"].shape[1]
    network = task.network()
    network.load_state_dict(state)
    front, _ = task.protocol.split(task.model, network)
    noise, chunks = task.noise("attacker"), []
    # As a device does it in training: near-equal batches, since one of a single record can't be normalised.
    for rows in batches(len(inputs), task.protocol.batch_size):
        with task.precision.autocast():
            features = front(inputs[rows])
        chunks.append(features.flatten(1).float())
    return torch.stack([torch.cat([task.on_device(chunk, noise) for chunk in chunks]) for _ in range(releases)], dim=1)


def _infer_membership(experiment: Experiment, attack: Attack, query: Query, rng: Source) -> Leak:
    own, outside = _halves(experiment)
    count = min(CANDIDATES, len(outside[1]))
    rows = torch.cat([torch.from_numpy(device.shard) for device in experiment.honest])
    members = rows[seeded(experiment.plan.seed, "members").permutation(len(rows))[:count]]
    count = len(members)
    task = experiment.task
    view = View(
        party=MEMBERSHIP,
        seen={
            "inputs": torch.cat((task.inputs[members], outside[0][:count])),
            "labels": torch.cat((task.labels[members], outside[1][:count])),
        },
        knows={"inputs": own[0], "labels": own[1]},
        query=query,
        train=_trainer(experiment),
        shape=experiment.data.shape,
        classes=experiment.data.classes,
    )
    scores = attack(view, rng)
    assert isinstance(scores, Scores)  # noqa: S101 - attacks on the model score candidates
    truth = torch.arange(2 * count) < count
    return Leak(judge_membership(name_of(attack), view, scores, truth), {})


def _trainer(experiment: Experiment) -> Callable[[Tensor, Tensor, Source], Query]:
    def train(inputs: Tensor, labels: Tensor, rng: Source) -> Query:
        path = int(rng.integers(1 << 31, 1)[0])
        return _query(experiment, train_alone(experiment.task, inputs, labels, "reference", path))

    return train


def _pixels(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
