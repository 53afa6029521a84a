"""Does a plan keep the document's constraints? Worked out from the owners alone, one segment at a time.

Nothing here is shared with the planners or with the pricing of plans: it is slow, obvious, and disagrees where either
is wrong.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from privet.inference.distributed.fleets import Remaining
from privet.inference.distributed.plans import Plan

Traffic = dict[tuple[int, int], int]
"""Bits, by sender and receiver."""
CLOSE = 1e-9
"""Relative difference at which two latencies are the same."""


def violations(plan: Plan, left: Remaining) -> list[str]:
    """Returns every constraint that a plan breaks, in words; none when it keeps all.

    Constraints (8b) to (8h) of the document, and four it forgets: the maps of one tensor are counted over all layers
    that hold them; every partial map is sent, and paid for; what a plan says it takes is what it takes; and its three
    latencies are those of its transfers.

    Args:
        plan: the plan.
        left: what every device had before it.
    """
    wrong = _assignment(plan) + _source(plan)
    if wrong:
        return wrong
    traffic = [{}, *(_traffic(plan, index) for index in range(1, len(plan.owners)))]
    return _limits(plan) + _resources(plan, left, traffic) + _latencies(plan, traffic)


def partial_maps(plan: Plan) -> list[tuple[str, int, int]]:
    """Returns, for each layer after a convolution that has a limit, what the document does not count.

    Returns:
        Name of the layer, Nf, and the most partial maps that one helper receives: one from each sender for each
        map that it holds.
    """
    found = []
    for index, (before, task) in enumerate(zip(plan.load.tasks, plan.load.tasks[1:], strict=False), start=1):
        limit = plan.load.limits[index]
        if before.kind != "convolution" or limit is None or plan.load.at_source[index]:
            continue
        senders = {int(owner) for owner in plan.owners[index - 1]}
        held = Counter(int(owner) for owner in plan.owners[index])
        found.append((task.name, limit, max(count * len(senders - {owner}) for owner, count in held.items())))
    return found


def _assignment(plan: Plan) -> list[str]:
    wrong = []
    for task, owners in zip(plan.load.tasks, plan.owners, strict=True):
        whole = 1 if task.kind == "linear" else task.segments
        if len(owners) != whole:
            wrong.append(f"(8e, 8g) {task.name}: {len(owners)} owners for {whole} segments")
        if any(not 0 <= int(owner) <= plan.fleet.helpers for owner in owners):
            wrong.append(f"(8e) {task.name}: an owner who is not there")
    return wrong


def _source(plan: Plan) -> list[str]:
    source, load, wrong = plan.fleet.helpers, plan.load, []
    linear = [index for index, task in enumerate(load.tasks) if task.kind == "linear"]
    wanted = {0, len(load.tasks) - 1} | ({linear[0]} if linear[0] < load.split else set())
    for index, (task, owners) in enumerate(zip(load.tasks, plan.owners, strict=True)):
        there = {int(owner) for owner in owners}
        if index in wanted and there != {source}:
            wrong.append(f"(8h) {task.name} belongs to the source")
        if index not in wanted and source in there:
            wrong.append(f"(8h) {task.name} does not belong to the source")
    return wrong


def _limits(plan: Plan) -> list[str]:
    source, wrong = plan.fleet.helpers, []
    seen: dict[tuple[int, int], set[int]] = defaultdict(set)
    for task, owners, limit in zip(plan.load.tasks, plan.owners, plan.load.limits, strict=True):
        if limit is None:
            continue
        for owner, count in Counter(int(each) for each in owners).items():
            if owner != source and count > limit:
                wrong.append(f"(8f) {task.name}: helper {owner} holds {count} maps, Nf is {limit}")
        if task.kind == "linear":
            continue
        for p, owner in enumerate(owners):
            seen[int(owner), task.tensor].add(p)
        for (owner, tensor), maps in seen.items():
            if tensor == task.tensor and owner != source and len(maps) > limit:
                wrong.append(f"(union) {task.name}: helper {owner} has seen {len(maps)} maps, Nf is {limit}")
    return wrong


def _resources(plan: Plan, left: Remaining, traffic: list[Traffic]) -> list[str]:
    work: dict[int, float] = defaultdict(float)
    held: dict[int, float] = defaultdict(float)
    sent: dict[int, float] = defaultdict(float)
    for task, owners in zip(plan.load.tasks, plan.owners, strict=True):
        for owner in owners:
            work[int(owner)] += task.multiplications
            held[int(owner)] += task.memory
    for transfers in traffic:
        for (sender, _), bits in transfers.items():
            sent[sender] += bits
    wrong = []
    columns = (("8c", "multiplications", work), ("8d", "bits", sent), ("8b", "memory", held))
    used = sorted(work)
    for name, field, spent in columns:
        had, claimed = getattr(left, field), getattr(plan.usage, field)
        for device in used:
            if spent[device] > had[device]:
                wrong.append(f"({name}) device {device}: {spent[device]:.0f} {field}, {had[device]:.0f} are left")
        if [int(device) for device in plan.usage.devices] != used or any(
            abs(spent[device] - float(claim)) > 0.5 for device, claim in zip(used, claimed, strict=True)
        ):
            wrong.append(f"(usage) the plan says otherwise about {field}")
    if round(sum(sent.values())) != plan.shared_bits:
        wrong.append(f"(partial sums) {sum(sent.values()):.0f} bits are sent, the plan says {plan.shared_bits}")
    return wrong


def _traffic(plan: Plan, index: int) -> Traffic:
    """Returns the bits from device to device before a layer, each map by itself (Eq. 6)."""
    before, task = plan.load.tasks[index - 1], plan.load.tasks[index]
    sending, receiving = [int(o) for o in plan.owners[index - 1]], [int(o) for o in plan.owners[index]]
    bits: dict[tuple[int, int], int] = defaultdict(int)
    senders = set(sending)
    for p in range(task.arriving):
        receiver = receiving[p] if len(receiving) > 1 else receiving[0]
        for sender in senders if before.kind == "convolution" else {sending[p]}:
            if sender != receiver:
                bits[sender, receiver] += 32 * before.values
    return bits


def _latencies(plan: Plan, traffic: list[Traffic]) -> list[str]:
    speed, rate = plan.fleet.speed.tolist(), plan.fleet.rate.tolist()
    totals = [0.0, 0.0, 0.0]
    for task, owners, bits in zip(plan.load.tasks, plan.owners, traffic, strict=True):
        air = {(i, j): sent / min(rate[i], rate[j]) for (i, j), sent in bits.items()}
        busy: dict[int, float] = defaultdict(float)
        heard: dict[int, float] = defaultdict(float)
        senders: dict[int, list[int]] = defaultdict(list)
        for (i, j), seconds in air.items():
            busy[i] += seconds
            heard[j] += seconds
            senders[j].append(i)
        ends: list[tuple[float, float, float]] = []
        for j, count in Counter(int(owner) for owner in owners).items():
            computing = count * task.multiplications / speed[j]
            pair = max((bits[i, j] / rate[i] for i in senders[j]), default=0.0)
            radio = max([heard[j], *(busy[i] for i in senders[j])])
            ends.append((pair + computing, radio + computing, computing))
        totals[0] += max(end[0] for end in ends)
        totals[1] += max(end[1] for end in ends)
        totals[2] += max(end[2] for end in ends) + sum(air.values())
    claimed = (plan.latency_s, plan.latency_nic_s, plan.latency_shared_s)
    names = ("Eq. 5", "one thing at a time", "one channel")
    return [
        f"(time) {name}: {total:.6f} s, the plan says {claim:.6f} s"
        for name, total, claim in zip(names, totals, claimed, strict=True)
        if abs(total - claim) > CLOSE * max(total, claim)
    ]
