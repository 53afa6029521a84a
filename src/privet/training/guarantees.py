"""What the mechanisms of a plan guarantee, derived per protocol and stated with its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dp_accounting.dp_event import (
    ComposedDpEvent,
    DpEvent,
    NonPrivateDpEvent,
    RandomizedResponseDpEvent,
    SelfComposedDpEvent,
)

from privet.accounting import Guarantee, Sensitivity, Unit
from privet.accounting.accountants import guarantee
from privet.training.contract import Promise


def of_features(promise: Promise, releases: int) -> Sequence[Guarantee]:
    """Derives what noisy features guarantee, from the document's claim to the whole truth.

    The document's epsilon protects one value of one record's features in one release. A record has
    ``dimension`` such values and is released once an epoch. Where a mechanism normalises over the
    batch, one record also moves the other rows.

    Args:
        promise: the plan's mechanisms, and the dimension of a feature vector.
        releases: local epochs x rounds.

    References:
        Zhao et al., sections II.B, IV.C and VI.A.
    """
    chain, dimension = promise.on_device, promise.dimension
    coordinate = _unit(promise, "coordinate")
    record = replace(_unit(promise, "record"), vectors=promise.coupled, spread=promise.coupled > 1)
    one_value = chain.event(coordinate)
    one_record = chain.event(record)
    stated = [_state(promise, "one value of one record's features, in one release", "coordinate", one_value, 1)]
    if promise.coupled > 1 or chain.couples_records:
        own = SelfComposedDpEvent(one_value, dimension)
        claim = "all features of one record, if normalising over the batch moved no other record's"
        stated.append(_state(promise, claim, "record", own, releases))
        claim = "all features of one record, with the other records of its batch that it moves"
    else:
        claim = "all features of one record"
    stated.append(_state(promise, claim, "record", one_record, releases))
    stated.append(_none("the label of one record, which travels to the edge server in the clear", promise, releases))
    stated.append(_none("the front's uploaded weights, whose gradients meet the raw inputs", promise, releases))
    return stated


def of_released_features(promise: Promise, label_epsilon: float | None) -> Sequence[Guarantee]:
    """Derives what features and labels guarantee that are released once, with a front that does not train.

    Always stated for replaced records: each record's features are a row of their own, so the number of a
    device's records is seen. What the edge server makes of a release is post-processing: the head, however
    long it trains, costs nothing more, and no gradient ever returns to the raw inputs.

    Args:
        promise: the plan's mechanisms, and the dimension of a feature vector.
        label_epsilon: of the randomised response on the label; None where labels travel in the clear.

    References:
        Kairouz, Oh, Viswanath, The Composition Theorem for Differential Privacy, ICML 2015, theorem 3.1
        (randomised response between two answers loses at least as much as anything of its epsilon).
    """
    fixed = replace(promise, relation="replace-one")
    record = replace(_unit(fixed, "record"), vectors=promise.coupled, spread=promise.coupled > 1)
    features, label = promise.on_device.event(record), _answer(label_epsilon)
    both = "features and label of one record, and all that is ever trained on them"
    return [
        _state(fixed, "the features of one record, against the edge server", "record", features, 1),
        _state(fixed, "the label of one record, against the edge server", "record", label, 1),
        _state(fixed, both, "record", ComposedDpEvent([features, label]), 1),
    ]


def _answer(epsilon: float | None) -> DpEvent:
    return NonPrivateDpEvent() if epsilon is None else RandomizedResponseDpEvent(2 / (1 + math.exp(epsilon)), 2)


def of_updates(promise: Promise, rounds: int) -> Sequence[Guarantee]:
    """Derives what noised updates guarantee for a whole device.

    Sampling the devices amplifies only against whoever does not learn who was asked, only for devices
    that are added or removed, and only where an absent device counts as an update of 0: else the
    cohort's size tells who was there.

    Args:
        promise: the plan's mechanisms, and the dimension of an update.
        rounds: of the run.
    """
    device, cohort = _unit(promise, "device"), promise.cohort
    releases = cohort.participations(rounds)
    stated = [
        _state(
            promise,
            "one device's update, against the coordinator",
            "device",
            promise.on_device.event(device),
            releases,
        )
    ]
    if promise.on_server.mechanisms:
        combined = promise.combine(promise.on_device.bound(device), promise.devices)
        claim = "one device's part in the global model, against whoever sees only global models"
        whole = promise.on_server.run_event(combined, rounds, cohort.separation)
        amplifies = promise.absent_is_zero and promise.relation == "add-or-remove-one"
        if cohort.rate < 1 and amplifies and not any(one.remembers for one in promise.on_server.mechanisms):
            whole = cohort.sampled(promise.on_server.event(combined), rounds)
            claim = f"{claim}: {cohort.words()}"
        stated.append(replace(guarantee(claim, whole, device, promise.delta, 1), releases=releases))
    return stated


def _unit(promise: Promise, unit: Unit) -> Sensitivity:
    return Sensitivity(unit, promise.relation, dimension=promise.dimension, vectors=1)


def _state(promise: Promise, claim: str, unit: Unit, event: DpEvent, releases: int) -> Guarantee:
    return guarantee(claim, event, _unit(promise, unit), promise.delta, releases)


def _none(claim: str, promise: Promise, releases: int) -> Guarantee:
    return Guarantee(claim, "record", promise.relation, math.inf, promise.delta, releases, "none")
