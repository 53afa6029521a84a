"""An experiment: the parts of a plan built and joined, ready for an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from privet.accounting import Guarantee
from privet.engines import InProcess
from privet.engines.colluding import Colluding
from privet.engines.in_process import threads
from privet.errors import DataError, PartError, RefusedError
from privet.fleet.availability.always import Always
from privet.fleet.behaviours.honest import Honest
from privet.fleet.build import build_fleet
from privet.fleet.data import Data, checked
from privet.fleet.device import Device
from privet.fleet.profile import Profile, find_profile
from privet.models import Model
from privet.models.cost import multiplications
from privet.models.imported import Given
from privet.randomness import seeded
from privet.study.plan import Plan
from privet.tensors import flatten
from privet.training import Coordinator, LocalStep, Task
from privet.training.cohort import Cohort
from privet.training.contract import Promise
from privet.training.descent import batches
from privet.training.local import COORDINATOR, drawing
from privet.training.precision import Precision, choose


@dataclass(frozen=True, eq=False)
class Experiment:
    """A plan whose parts are built and joined.

    Attributes:
        plan: what to do.
        data: the rows.
        devices: the fleet.
        edge: profile of the edge server.
        task: what the local step needs.
        coordinator: the round loop.
        promise: what guarantees are derived from.
        owed: the guarantee that counts against the plan's budget; None where the plan sets none.
        head_multiplications: for one record's forward pass at the edge server.
    """

    plan: Plan
    data: Data
    devices: Sequence[Device]
    edge: Profile
    task: Task
    coordinator: Coordinator
    promise: Promise
    owed: Guarantee | None
    head_multiplications: int

    @property
    def honest(self) -> list[Device]:
        """The devices that do what the plan says."""
        return [device for device in self.devices if not device.behaviour.hostile]

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """Test inputs and labels."""
        return torch.from_numpy(self.data.test_inputs), torch.from_numpy(self.data.test_labels)


def prepare(
    plan: Plan,
    *,
    data: Data | None = None,
    partition: Sequence[np.ndarray] | None = None,
    model: Callable[..., nn.Module] | None = None,
    secret: bytes | None = None,
) -> Experiment:
    """Builds an experiment; nothing is written.

    Args:
        plan: what to do.
        data: rows to use in place of the plan's data set.
        partition: rows of each device to use in place of the plan's partition.
        model: a function of ``shape`` and ``classes`` that returns a torch module, in place of the
            plan's model.
        secret: of the run that is resumed; a fresh one if None.

    Raises:
        InputError: something in the plan, data, partition or model can't be used.
        RefusedError: what the plan guarantees exceeds its budget.
    """
    rows = checked(data) if data is not None else plan.dataset.load()
    devices = build_fleet(
        data=rows,
        devices=plan.fleet.devices,
        profile=find_profile(plan.fleet.profile),
        partition=partition if partition is not None else plan.partition,
        availability=plan.availability,
        hostile=plan.hostile,
        examples_per_device=plan.fleet.examples_per_device,
        rng=seeded(plan.seed, "partition"),
    )
    devices, trusted = _set_aside(plan, rows, devices)
    held = _held(plan, rows, devices)
    task, head, coupled = _task(plan, held, plan.model_part if model is None else Given(model))
    task = task if secret is None else replace(task, secret=secret)
    _refuse_lone_rows(task, devices, rows)
    settings = plan.engine
    cohort = Cohort(settings.device_sampling_rate, settings.separation)
    engine = Colluding(InProcess(settings.workers, plan.seed, single_thread=plan.reproducible), plan.seed)
    promise = Promise(
        on_device=plan.on_device,
        on_server=plan.on_server,
        dimension=dimension(task) * plan.protocol.vectors,
        delta=plan.privacy.delta,
        relation=plan.privacy.relation,
        devices=max(settings.minimum_replies, plan.aggregator.minimum()),
        combine=plan.aggregator.bound,
        coupled=plan.protocol.batch_size if coupled else 1,
        cohort=cohort,
        absent_is_zero=plan.aggregator.absent_is_zero,
        examples=tuple(device.examples for device in devices),
    )
    return Experiment(
        plan=plan,
        data=rows,
        devices=devices,
        edge=find_profile(plan.fleet.edge_server),
        task=task,
        coordinator=Coordinator(
            engine,
            LocalStep(task),
            devices,
            plan.aggregator,
            plan.on_server,
            settings.minimum_replies,
            settings.deadline,
            cohort,
            trusted,
        ),
        promise=promise,
        owed=_owed(plan, promise),
        head_multiplications=head,
    )


def _held(plan: Plan, data: Data, devices: Sequence[Device]) -> Data:
    """Returns the rows as the devices hold them: those of the first ones with what the plan says is wrong with them."""
    groups = [(group.imperfection, group.devices) for group in plan.fleet.imperfect]
    if not groups:
        return data
    inputs, labels = torch.from_numpy(data.train_inputs.copy()), torch.from_numpy(data.train_labels.copy())
    spoils = (imperfection for imperfection, count in groups for _ in range(count))
    for device, imperfection in zip(devices, spoils, strict=False):  # the others' rows are as they should be
        own = torch.from_numpy(device.shard)
        rng = seeded(plan.seed, "imperfect", device.identity)
        inputs[own], labels[own] = imperfection.spoil(inputs[own], labels[own], data.classes, rng)
    return replace(data, train_inputs=inputs.numpy(), train_labels=labels.numpy())


def _set_aside(plan: Plan, data: Data, devices: list[Device]) -> tuple[list[Device], Device | None]:
    """Returns the devices without the rows that the coordinator keeps for a rule that trusts its own, and their holder.

    Raises:
        DataError: a device would be left without rows.
    """
    wanted = plan.aggregator.trusts
    if not wanted:
        return devices, None
    own = np.sort(seeded(plan.seed, "trusted").permutation(len(data.train_labels)).numpy()[:wanted])
    left = [replace(device, shard=np.setdiff1d(device.shard, own)) for device in devices]
    for device in left:
        if not device.examples:
            raise DataError(
                f"{device.identity} has no rows left once the coordinator has set {wanted} aside",
                do="lower the rows that the rule trusts, or take fewer devices",
            )
    return left, Device(COORDINATOR, find_profile(plan.fleet.edge_server), own, Always(), Honest())


def _owed(plan: Plan, promise: Promise) -> Guarantee | None:
    """Returns the guarantee that counts against the plan's budget: the dearest formal one of its unit.

    Raises:
        RefusedError: it exceeds the budget, or nothing is guaranteed to the budget's unit.
    """
    budget, unit = plan.privacy.budget_epsilon, plan.privacy.budget_unit
    if budget is None:
        return None
    derived = plan.protocol.guarantees(promise)
    dearest = max(
        (one for one in derived if one.unit == unit and one.formal), key=lambda one: one.epsilon, default=None
    )
    if dearest is None:
        raise RefusedError(
            f"nothing in the plan guarantees any epsilon per {unit}",
            allowed=f"at most {budget:g}, privacy.budget_epsilon",
            do="add mechanisms that bound and noise, or name another privacy.budget_unit",
        )
    if dearest.epsilon > budget:
        raise RefusedError(
            f"epsilon {dearest.epsilon:.4g} per {unit} for {dearest.claim}",
            allowed=f"at most {budget:g}, privacy.budget_epsilon",
            do="add noise, train for fewer rounds, or raise the budget",
        )
    return dearest


def _task(plan: Plan, data: Data, model: Model) -> tuple[Task, int, bool]:
    """Returns the task, the multiplications of the head, and whether the front mixes the records of a batch."""
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    task = Task(
        model=model,
        protocol=plan.protocol,
        on_device=plan.on_device,
        inputs=inputs,
        labels=labels,
        classes=data.classes,
        precision=Precision(),
        multiplications=0,
        seed=plan.seed,
        reproducible=plan.reproducible,
    )
    network = task.network()
    _refuse_misfit(plan, task, network)
    batch = batches(len(labels), plan.protocol.batch_size)[0]
    with threads(1 if plan.engine.workers > 1 or plan.reproducible else None):
        precision = choose(plan.engine.precision, network, inputs[batch], labels[batch], reproducible=plan.reproducible)
    front, _ = plan.protocol.split(model, network)
    whole, device = multiplications(network, data.shape), multiplications(front, data.shape)
    coupled = model.couples_records or mixes(task, front)
    task = replace(task, precision=precision, multiplications=device, coupled=coupled or mixes(task, network))
    return task, whole - device, coupled


def _refuse_misfit(plan: Plan, task: Task, network: nn.Sequential) -> None:
    """Refuses a user's module that can't take these inputs, or that noise on its update would spoil.

    Raises:
        PartError: the module is not for this data or this plan.
    """
    try:
        with torch.no_grad(), drawing(seeded(0)):
            logits = network(task.inputs[[0, -1]])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PartError(f"the model can't take inputs of shape {task.shape}: {error}", do="check model.name") from error
    if not isinstance(logits, Tensor) or logits.shape != (2, task.classes):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise PartError(f"the model makes {got} of two inputs", allowed=f"logits of shape (2, {task.classes})")
    plan.protocol.fits(network)
    noisy = any(mechanism.adds_noise for mechanism in (*plan.on_server.mechanisms, *plan.on_device.mechanisms))
    if noisy and not plan.protocol.cuts and (buffers := [name for name, _ in network.named_buffers()]):
        raise PartError(
            f"the model keeps {buffers[0]!r}, which noise on updates would spoil",
            do="normalise by nn.GroupNorm or nn.LayerNorm, which keep nothing, or leave the noise out",
        )


def mixes(task: Task, network: nn.Module) -> bool:
    """Tells by trial whether a network, as it trains, lets one record move what it makes of another."""
    made = []
    for other in (task.inputs[-1], task.inputs[-1] + 1):
        with torch.no_grad(), drawing(seeded(0)):
            made.append(network(torch.stack((task.inputs[0], other)))[0].float())
    return not torch.allclose(made[0], made[1], rtol=1e-4, atol=1e-6, equal_nan=True)


def _refuse_lone_rows(task: Task, devices: Sequence[Device], data: Data) -> None:
    """Refuses rows that would leave a batch of one where a batch is normalised.

    Raises:
        DataError: a device or the test set has too few rows, or an odd number for batches of two.
    """
    if not task.couples_records:
        return
    held = {device.identity: device.examples for device in devices}
    if task.protocol.cuts:
        held |= {"the test set": len(data.test_labels)}
    for who, rows in held.items():
        if min(len(batch) for batch in batches(rows, task.protocol.batch_size)) < 2:
            raise DataError(
                f"{who} has {rows} row{'s' * (rows != 1)}, which leaves a batch of one; a batch is normalised here",
                allowed="2 rows or more, and a training.batch_size of 3 or more where rows are odd",
                do="normalise over the sample, deal rows more evenly, or take fewer devices",
            )


def dimension(task: Task) -> int:
    """Returns how many values a vector that leaves a device has: of an update, or of one record's features."""
    network = task.network()
    if not task.protocol.cuts:
        return len(flatten(network.state_dict()))
    front, _ = task.protocol.split(task.model, network)
    with torch.no_grad():
        return int(front(task.inputs[:2]).flatten(1).shape[1])
