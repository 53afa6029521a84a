"""Tries to refute what a finished run claims, and records the outcome with the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from privet.accounting import Guarantee, Relation, Sensitivity, Unit
from privet.errors import InputError, RunError
from privet.evidence.canaries import Steps, refute_training
from privet.evidence.claims import CONFIDENCE, Refutation, nothing
from privet.evidence.observed_steps import observed_steps
from privet.evidence.reading import load_metrics
from privet.evidence.report import write_report
from privet.evidence.worst_pair import Before, refute_chain
from privet.ledger import Log
from privet.mechanisms.chain import Chain
from privet.mechanisms.randomised_response import RandomisedResponse
from privet.randomness import Source, seeded
from privet.study.experiment import Experiment, prepare
from privet.study.plan import Plan
from privet.study.run_folder import write_json
from privet.training.contract import Promise
from privet.training.protocols.dp_sgd import DpSgd
from privet.training.protocols.feature_release import FeatureRelease

TRIALS = 1000
"""Tested trials on either side of a pair; they can show an epsilon of at most about 5."""


def audit_claims(folder: Path | str, *, trials: int = TRIALS, seed: int | None = None) -> list[Refutation]:
    """Tests every formal claim of a finished run, and the reading of a coordinate's epsilon as a record's.

    The mechanisms are those of the run's plan, the claims those that the run printed. All lower bounds
    hold together with 95 % confidence. The outcome becomes a record of the run and a section of its
    report.

    Args:
        folder: of a finished run.
        trials: tested on either side, for each claim.
        seed: of the noise; without it, noise comes from where it came from in the run.

    Returns:
        One entry a claim, the worst first: the refuted before the others, then by how near the lower
        bound comes to the claim.

    Raises:
        RunError: the folder is missing, damaged, unfinished, or was given data or a model in code.
    """
    folder = Path(folder)
    stored = load_metrics(folder)
    log = Log(folder / "records.jsonl") if (folder / "records.jsonl").is_file() else None
    if log is None or not log.of("plan"):
        raise RunError(f"{folder} has no records of a run", do="give the folder of a finished run")
    if given := log.of("plan")[0].body["given"]:
        raise RunError(
            f"{folder} was given {', '.join(given)} in code, so its plan alone does not say what was released",
            do="call privet.study.refutation.refute with an experiment prepared from the same objects",
        )
    experiment = prepare(Plan.of_run(folder, log.of("plan")[0].body["plan_digest"]))
    source = seeded(seed, "audit") if seed is not None else experiment.task.noise("audit")
    found = refute(experiment, [_guarantee(row) for row in stored.get("guarantees") or ()], trials=trials, rng=source)
    rows = [one.to_json() for one in found]
    log.append("claim", {"claims": rows, "trials": trials, "seed": seed})
    kept = {key: value for key, value in stored.items() if key not in ("run", "plan")}
    write_json(folder / "metrics.json", {"run": str(folder)} | kept | {"claims": rows})
    write_report(folder)
    return found


def refute(experiment: Experiment, claims: list[Guarantee], *, trials: int, rng: Source) -> list[Refutation]:
    """Tests claims against the mechanisms of an experiment; see :func:`audit_claims`."""
    tests = [claim for claim in claims if claim.formal]
    tests += [_read_for_the_record(claim) for claim in tests if claim.unit == "coordinate"]
    none = [
        nothing(claim.claim, claim.unit, claim.relation, claim.delta, "nothing is claimed, so nothing can be refuted")
        for claim in claims
        if not claim.formal
    ]
    each = 1 - (1 - CONFIDENCE) / max(1, len(tests))
    found = [_test(experiment, claim, trials, each, rng.child(place)) for place, claim in enumerate(tests)]
    # Each bound was made at a higher confidence, so that all hold together with the one that is stated.
    return sorted((replace(one, confidence=CONFIDENCE) for one in found), key=_worst_first) + none


def _read_for_the_record(claim: Guarantee) -> Guarantee:
    words = f"a reader takes epsilon {claim.epsilon:.4g} for the whole record: {claim.claim}"
    return replace(claim, claim=words, unit="record")


def _test(experiment: Experiment, claim: Guarantee, trials: int, confidence: float, rng: Source) -> Refutation:
    """Tests one claim by what its protocol releases; says so where no test here fits."""
    promise, plan = experiment.promise, experiment.plan
    arriving = Sensitivity(claim.unit, claim.relation, dimension=promise.dimension)
    fields: dict[str, Any] = {"rng": rng, "trials": trials, "confidence": confidence}
    chain = plan.on_device
    if isinstance(plan.protocol, DpSgd):
        return _training(plan.protocol, promise, claim, fields)
    if isinstance(plan.protocol, FeatureRelease) and claim.claim.startswith("the label"):
        if plan.protocol.label_epsilon is None:
            return _untested(claim, "labels pass no mechanism")
        chain = Chain((RandomisedResponse(plan.protocol.label_epsilon),))
        arriving = replace(arriving, dimension=experiment.task.classes)
    elif "global model" in claim.claim and not plan.protocol.cuts:
        hidden = promise.absent_is_zero and claim.relation == "add-or-remove-one"
        fields |= {"entering": _combined(experiment), "rate": promise.cohort.rate if hidden else 1.0}
        chain, arriving = plan.on_server, promise.combine(promise.on_device.bound(arriving), promise.devices)
    if any(mechanism.remembers for mechanism in chain.mechanisms):
        return _untested(claim, "there is no test yet for noise that depends on that of earlier rounds")
    try:
        return refute_chain(chain, arriving, claim, alone=", if " in claim.claim, **fields)
    except InputError as error:
        return _untested(claim, error.wrong)


def _untested(claim: Guarantee, why: str) -> Refutation:
    none = nothing(claim.claim, claim.unit, claim.relation, claim.delta, f"not tested: {why}")
    return replace(none, claimed_epsilon=claim.epsilon)


def _training(protocol: DpSgd, promise: Promise, claim: Guarantee, fields: dict[str, Any]) -> Refutation:
    """Tests a training of records with canaries on a device as small as the fleet's smallest."""
    if protocol.clipping == "adaptive":
        return _untested(claim, "there is no test yet for adaptive clipping")
    rows, rounds = min(promise.examples), promise.cohort.participations(protocol.rounds)
    together = protocol.noise == "distributed"
    noise = protocol.noise_multiplier * (math.sqrt(promise.devices / protocol.shares) if together else 1.0)
    steps = Steps(rows, protocol.rate(rows), noise, protocol.clipping_norm)
    sums = observed_steps(protocol, rounds, promise.devices)
    return refute_training(sums, steps, claim, **fields)


def _combined(experiment: Experiment) -> tuple[Before, int]:
    """Returns what devices and aggregator make of updates, without noise, and how many updates there are."""
    quiet, combine = experiment.plan.on_device.without_noise(), experiment.plan.aggregator

    def enter(updates: Tensor) -> Tensor:
        silent = seeded(0)  # nothing is drawn from it
        return combine(quiet(updates, silent), torch.ones(len(updates))).float()[None]

    return enter, max(1, experiment.promise.devices)


def _worst_first(found: Refutation) -> tuple[bool, float]:
    claimed = found.claimed_epsilon or 0.0
    nearness = found.lower_bound / claimed if claimed else math.inf
    return not found.refuted, -nearness


def _guarantee(row: Mapping[str, Any]) -> Guarantee:
    try:
        epsilon = row["epsilon"]
        return Guarantee(
            claim=str(row["claim"]),
            unit=_one_of(row["unit"], get_args(Unit)),
            relation=_one_of(row["relation"], get_args(Relation)),
            epsilon=math.inf if epsilon is None else float(epsilon),
            delta=float(row["delta"]),
            releases=int(row["releases"]),
            accountant=str(row.get("accountant", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"metrics.json holds a guarantee that can't be read ({error!r})", do="run the plan again"
        ) from None


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
    return value
