"""Checks across the parts of a plan: combinations that would fail, or break a promise silently."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import get_args

from dp_accounting.dp_event import NonPrivateDpEvent

from privet import parts
from privet.accounting import Sensitivity, Unit
from privet.aggregation.shared import LEAST
from privet.crypto.shamir import MAX_HOLDERS
from privet.errors import PartError, PlanError, nearest
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.mechanisms.contract import Mechanism
from privet.models.imported import Imported
from privet.parts import name_of
from privet.study.sections import Contents
from privet.study.sharing import FEWEST
from privet.training.contract import Protocol

PARTIES = ("edge-server", "coordinator")
"""Parties whose view a plan can keep."""


def check(plan: Contents) -> None:
    """Refuses a plan whose parts contradict each other.

    Raises:
        PlanError: the first contradiction, in the order of :data:`CHECKS`.
    """
    for contradictions in CHECKS:
        for error in contradictions(plan):
            raise error


def _profiles(plan: Contents) -> Iterator[PlanError]:
    for key in ("profile", "edge_server"):
        try:
            find_profile(getattr(plan.fleet, key))
        except PartError as error:
            yield PlanError(f"fleet.{key}: {error.wrong}", allowed=error.allowed, do=error.do)


def _hostile(plan: Contents) -> Iterator[PlanError]:
    hostile = sum(group.devices for group in plan.fleet.hostile)
    if hostile >= plan.fleet.devices:
        yield PlanError(
            f"fleet.hostile: {hostile} hostile devices in a fleet of {plan.fleet.devices}",
            allowed=f"at most {plan.fleet.devices - 1}",
            do="raise fleet.devices or make fewer of them hostile",
        )


def _imperfect(plan: Contents) -> Iterator[PlanError]:
    imperfect = sum(group.devices for group in plan.fleet.imperfect)
    honest = plan.fleet.devices - sum(group.devices for group in plan.fleet.hostile)
    if imperfect > honest:
        yield PlanError(
            f"fleet.imperfect: {imperfect} devices with imperfect rows, of {honest} honest ones",
            allowed=f"at most {honest}",
            do="raise fleet.devices, or let fewer devices be imperfect",
        )


def _budget(plan: Contents) -> Iterator[PlanError]:
    if plan.privacy.budget_book is not None and plan.privacy.budget_epsilon is None:
        yield PlanError(
            "privacy.budget_book keeps a budget, and the plan sets none", do="set privacy.budget_epsilon as well"
        )


def _enough_updates(plan: Contents) -> Iterator[PlanError]:
    devices, rule = plan.fleet.devices, plan.aggregation
    if rule.minimum() > devices:
        field = "byzantine" if hasattr(rule, "byzantine") else "name"
        yield PlanError(
            f"aggregation.{field}: {name_of(rule)} needs at least {rule.minimum()} devices, fleet.devices is {devices}",
            do="raise fleet.devices, or take another rule",
        )
    if plan.engine.minimum_replies > devices:
        yield PlanError(
            f"engine.minimum_replies: {plan.engine.minimum_replies} is more than fleet.devices",
            allowed=f"at most {devices}",
            do="lower it",
        )


def _cut(plan: Contents) -> Iterator[PlanError]:
    if not plan.training.cuts:
        return
    wanted, points = getattr(plan.training, "cut", None), plan.model.cut_points
    if wanted is None and not points:
        other = "set training.cut" if isinstance(plan.model, Imported) else "take another model"
        yield PlanError(
            f"model.name: {name_of(plan.model)} names no cut point, {name_of(plan.training)} cuts the model",
            do=f"{other}, or training.name = 'fedavg'",
        )
    elif wanted is not None and points and wanted not in points:
        yield PlanError(
            f"training.cut: {name_of(plan.model)} can't be cut at {wanted!r}",
            allowed=", ".join(points),
            do=nearest(wanted, points),
        )


def _normalisation(plan: Contents) -> Iterator[PlanError]:
    for key, mechanism in _mechanisms(plan):
        name = name_of(mechanism)
        if "normalisation" not in name:
            continue
        if key.startswith("mechanisms.on_server") or not plan.training.cuts:
            yield PlanError(
                f"{key}.name: {name} changes a batch of features; "
                + ("the server has none" if "on_server" in key else f"{name_of(plan.training)} sends updates"),
                do="take clip instead" + ("" if "on_server" in key else ", or training.name = 'split-federated'"),
            )
        batch, most = plan.training.batch_size, getattr(mechanism, "batch_size", math.inf)
        if getattr(mechanism, "over", "batch") == "batch" and not 2 <= batch <= most:
            yield PlanError(
                f"{key}.batch_size: {name} over batches of {batch} rows (training.batch_size)",
                allowed=f"2 to {most} rows" if batch > 1 else "at least 2 rows",
                do="leave batch_size out, so that it follows training" if batch > 1 else "raise training.batch_size",
            )


def _noise_after_bound(plan: Contents) -> Iterator[PlanError]:
    for side, start in (("on_device", _unbounded), ("on_server", _combined)):
        arriving = [start(plan, unit) for unit in get_args(Unit)]
        for place, mechanism in enumerate(getattr(plan.mechanisms, side)):
            if _is_noise(mechanism) and not any(_costs(mechanism, one) for one in arriving):
                yield PlanError(
                    f"mechanisms.{side}.{place}.name: nothing before this {name_of(mechanism)} bounds what it "
                    "covers, so it guarantees nothing",
                    do="put a bound before it, for example clip or bounded-normalisation",
                )
            arriving = [mechanism.bound(one) for one in arriving]


def _unbounded(plan: Contents, unit: Unit) -> Sensitivity:
    return Sensitivity(unit, plan.privacy.relation)


def _combined(plan: Contents, unit: Unit) -> Sensitivity:
    """Returns what arrives at the server's mechanisms; features bounded on the device bound no update."""
    sensitivity = _unbounded(plan, unit)
    if plan.training.cuts:
        return sensitivity
    return plan.aggregation.bound(Chain(plan.mechanisms.on_device).bound(sensitivity), plan.fleet.devices)


def _who_is_there(plan: Contents) -> Iterator[PlanError]:
    """Refuses server noise for devices that come and go where the number of replies tells who is there."""
    noised = any(map(_is_noise, plan.mechanisms.on_server)) and plan.privacy.relation == "add-or-remove-one"
    if noised and not plan.aggregation.absent_is_zero:
        yield PlanError(
            f"aggregation.name: {name_of(plan.aggregation)} lets the number of replies tell whether a device was "
            "added or removed",
            allowed="name = 'mean' with expected = the devices expected in a round",
            do="set it, or privacy.relation = 'replace-one'",
        )
    elif plan.aggregation.absent_is_zero and plan.engine.minimum_replies > 1:
        yield PlanError(
            "engine.minimum_replies: a void round would tell how many devices were there, which "
            "aggregation.expected hides",
            allowed="1",
            do="leave one of the two out",
        )


def _cohort(plan: Contents) -> Iterator[PlanError]:
    if plan.engine.separation > plan.training.rounds:
        yield PlanError(
            f"engine.separation: with {plan.training.rounds} rounds some devices would never have their turn",
            allowed=f"at most {plan.training.rounds}, training.rounds",
            do="lower it or raise training.rounds",
        )
    if plan.engine.separation > 1 and plan.engine.device_sampling_rate < 1:
        yield PlanError(
            "engine.separation: devices that take turns are not sampled by chance",
            allowed="one of engine.separation and engine.device_sampling_rate",
            do="leave one of the two out",
        )


def _asynchronous(plan: Contents) -> Iterator[PlanError]:
    """Refuses what needs rounds where every device pushes in its own time."""
    if not plan.training.asynchronous:
        return
    name, rule, engine = name_of(plan.training), plan.aggregation, plan.engine
    wrong = {
        "aggregation": name_of(rule) != "mean" or rule.absent_is_zero or getattr(rule, "equal_weights", False),
        "mechanisms.on_server": bool(plan.mechanisms.on_server),
        "engine.device_sampling_rate": engine.device_sampling_rate < 1,
        "engine.separation": engine.separation > 1,
        "engine.minimum_replies": engine.minimum_replies > 1,
    }
    for key in (key for key, is_wrong in wrong.items() if is_wrong):
        yield PlanError(
            f"{key}: {name} has no rounds in which updates meet, each is added as it comes",
            allowed="the mean by rows of all devices, and nothing on the server",
            do=f"leave {key} out, or set training.name = 'fedavg'",
        )


def _ledger(plan: Contents) -> Iterator[PlanError]:
    """Refuses what miners can't work out again from the updates alone, and more liars than they stand."""
    ledger, rule, training = plan.ledger, plan.aggregation, plan.training
    if not ledger.miners:
        return
    shared = ledger.updates == "shared"
    part, divisor = ("quarter", 4) if shared else ("third", 3)
    lying, most = sum(group.miners for group in ledger.hostile), (ledger.miners - 1) // divisor
    if lying > most:
        yield PlanError(
            f"ledger.hostile: {lying} of {ledger.miners} miners lie, and they would agree on nothing",
            allowed=f"at most {most}, less than a {part}",
            do="raise ledger.miners or make fewer of them hostile",
        )
    if shared and not FEWEST <= ledger.miners <= MAX_HOLDERS:
        yield PlanError(
            f"ledger.updates: {ledger.miners} miners can't share updates so that one of them may lie",
            allowed=f"{FEWEST} to {MAX_HOLDERS}",
            do="change ledger.miners",
        )
    if shared and plan.fleet.devices < LEAST:
        yield PlanError(
            f"fleet.devices: the sum of {plan.fleet.devices} shared updates is never opened", allowed=f"{LEAST} or more"
        )
    wrong_lie = "drops-update" if shared else "wrong-shares"
    if any(group.behaviour == wrong_lie for group in ledger.hostile):
        yield PlanError(
            f"ledger.hostile: no miner can do {wrong_lie} with updates = {ledger.updates!r}",
            do="choose another behaviour",
        )
    if ledger.h > ledger.gamma_max:
        yield PlanError("ledger.h is above ledger.gamma_max", allowed=f"at most {ledger.gamma_max}", do="lower it")
    fields, name = parts.to_table(rule), name_of(rule)
    plain = name == "mean" and fields.get("equal_weights") and not rule.absent_is_zero
    if not plain and not (name == "multi-krum" and fields.get("selected") is None):
        yield PlanError(
            f"aggregation: miners can't agree on {name} as it is set",
            allowed="multi-krum without selected, or mean with equal_weights = true: on a ledger devices count alike",
            do="change it, or set ledger.miners = 0",
        )
    if plan.fleet.devices > _PLACES:
        yield PlanError(f"fleet.devices: too many for a ledger's task, {plan.fleet.devices}", allowed=f"{_PLACES}")
    wrong = {
        "mechanisms.on_server": bool(plan.mechanisms.on_server),
        "training.name": training.asynchronous
        or training.vectors > 1
        or type(training).serve is not Protocol.serve
        or type(training).shared is not Protocol.shared,
    }
    for key in (key for key, is_wrong in wrong.items() if is_wrong):
        yield PlanError(
            f"{key}: the next model must follow from the updates alone, so that every miner finds the same",
            do=f"leave {key.removesuffix('.name')} as it is by default, or set ledger.miners = 0",
        )


_PLACES = 1 << 12
"""Most devices of a ledger's task."""


def _is_noise(mechanism: Mechanism) -> bool:
    return _costs(mechanism, Sensitivity("coordinate").bounded(linf=1.0))


def _costs(mechanism: Mechanism, sensitivity: Sensitivity) -> bool:
    return not isinstance(mechanism.event(sensitivity), NonPrivateDpEvent)


def _views(plan: Contents) -> Iterator[PlanError]:
    for place, party in enumerate(plan.views.keep):
        if party not in PARTIES:
            yield PlanError(
                f"views.keep.{place}: no party called {party!r}",
                allowed=", ".join(PARTIES),
                do=nearest(party, PARTIES),
            )
        elif party == "edge-server" and not plan.training.cuts:
            yield PlanError(
                f"views.keep.{place}: the edge server sees nothing, {name_of(plan.training)} has none",
                allowed="coordinator, or nothing",
                do="set training.name = 'split-federated' or leave it out",
            )


def _attacks(plan: Contents) -> Iterator[PlanError]:
    for place, attack in enumerate(plan.attacks):
        where, name = f"attacks.{place}.name", name_of(attack)
        party = _SEEN_BY.get(attack.target)
        if attack.target == "features" and not plan.training.cuts:
            yield PlanError(
                f"{where}: {name} needs features, {name_of(plan.training)} sends none",
                do="set training.name = 'split-federated' or leave the attack out",
            )
        elif party is not None and party not in plan.views.keep:
            yield PlanError(
                f"{where}: {name} needs what the {party.replace('-', ' ')} saw", do=f"set views.keep = ['{party}']"
            )


_SEEN_BY = {"features": "edge-server", "updates": "coordinator", "property": "coordinator"}
"""Whose view must be kept for a target of an attack; the others need the model only."""


def _mechanisms(plan: Contents) -> Iterator[tuple[str, Mechanism]]:
    for side in ("on_device", "on_server"):
        for place, mechanism in enumerate(getattr(plan.mechanisms, side)):
            yield f"mechanisms.{side}.{place}", mechanism


CHECKS: tuple[Callable[[Contents], Iterator[PlanError]], ...] = (
    _profiles,
    _hostile,
    _imperfect,
    _budget,
    _enough_updates,
    _cut,
    _normalisation,
    _noise_after_bound,
    _who_is_there,
    _cohort,
    _asynchronous,
    _ledger,
    _attacks,
    _views,
)
"""Every check, in the order in which contradictions are named."""
