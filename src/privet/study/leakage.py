"""Running an attack on what its party saw, and judging what it found."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.attacks.contract import Attack, Reconstruction, Scores
from privet.engines.view import Query, View
from privet.evidence.audit import Finding, judge_membership, judge_reconstruction
from privet.evidence.verdicts import judge_attribute, judge_model, judge_property, judge_updates
from privet.parts import name_of
from privet.randomness import Source, seeded
from privet.study.experiment import Experiment
from privet.study.kept import Kept
from privet.study.references import clean_query
from privet.study.viewpoints import Viewpoint, viewpoint
from privet.tensors import State

_SHOWN = 10


@dataclass(frozen=True)
class Leak:
    """One attack's outcome.

    Attributes:
        finding: its judged figures.
        pictures: originals and reconstructions of a few records, uint8 (k, ...); empty for other attacks.
    """

    finding: Finding
    pictures: State


def leak(experiment: Experiment, number: int, attack: Attack, kept: Kept, judge: Query | None) -> Leak:
    """Runs one attack on what its party saw.

    Args:
        experiment: the experiment.
        number: position of the attack in the plan; names its random stream.
        attack: the attack.
        kept: what the run has kept.
        judge: a clean classifier that reads reconstructions; the global model when None.

    Raises:
        RunError: the run kept no view that this attack needs, or there is nothing in it to find out.
        InputError: the view lacks something that the attack needs.
    """
    case = viewpoint(experiment, attack, kept)
    name, reader = name_of(attack), judge or clean_query(experiment, kept.model)
    found = attack(case.view, seeded(experiment.plan.seed, "attack", number))
    if isinstance(found, Scores):
        return Leak(_judge_scores(name, attack, case, found, seeded(experiment.plan.seed, "strangers", number)), {})
    return _judge_reconstruction(name, attack, case, found, reader)


def _judge_scores(name: str, attack: Attack, case: Viewpoint, found: Scores, rng: Source) -> Finding:
    if attack.target == "property":
        return judge_property(name, case.view, found, case.truth)
    if attack.target == "attribute":
        return judge_attribute(name, case.view, found, case.truth, _on_strangers(attack, case, rng))
    return judge_membership(name, case.view, found, case.truth)


def _on_strangers(attack: Attack, case: Viewpoint, rng: Source) -> tuple[Scores, Tensor] | None:
    view: View | None = case.strangers
    if view is None or case.strangers_truth is None:
        return None
    found = attack(view, rng)
    assert isinstance(found, Scores)  # noqa: S101 - as it did on the members
    return found, case.strangers_truth


def _judge_reconstruction(name: str, attack: Attack, case: Viewpoint, found: Reconstruction, judge: Query) -> Leak:
    truth, guess = case.truth, found.inputs
    if attack.target == "updates":
        finding, guess = judge_updates(name, case.view, found, truth, case.labels, judge)
    elif attack.target == "model":
        finding, truth, guess = judge_model(name, case.view, found, truth, case.labels, judge)
    else:
        finding = judge_reconstruction(name, case.view, found, truth, case.labels, judge)
    pictures = {"originals": _pixels(truth[:_SHOWN]), "reconstructions": _pixels(guess[:_SHOWN])}
    return Leak(finding, pictures if truth.dim() == 4 else {})


def _pixels(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
