"""What the mechanisms of a plan guarantee, derived per protocol and stated with its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dp_accounting.dp_event import DpEvent, SelfComposedDpEvent

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


def of_updates(promise: Promise, releases: int) -> Sequence[Guarantee]:
    """Derives what noised updates guarantee for a whole device.

    Args:
        promise: the plan's mechanisms, and the dimension of an update.
        releases: rounds.
    """
    device = _unit(promise, "device")
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
        event = promise.on_server.event(promise.combine(promise.on_device.bound(device), promise.devices))
        claim = "one device's part in the global model, against whoever sees only global models"
        stated.append(_state(promise, claim, "device", event, releases))
    return stated


def _unit(promise: Promise, unit: Unit) -> Sensitivity:
    return Sensitivity(unit, promise.relation, dimension=promise.dimension, vectors=1)


def _state(promise: Promise, claim: str, unit: Unit, event: DpEvent, releases: int) -> Guarantee:
    return guarantee(claim, event, _unit(promise, unit), promise.delta, releases)


def _none(claim: str, promise: Promise, releases: int) -> Guarantee:
    return Guarantee(claim, "record", promise.relation, math.inf, promise.delta, releases, "none")
