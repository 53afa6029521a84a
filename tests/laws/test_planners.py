"""Laws of planners: every plan keeps every constraint, takes nothing twice, and comes out the same again."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privet import parts
from privet.fleet.profile import find_profile
from privet.inference.distributed.constraints import violations
from privet.inference.distributed.fleets import Fleet, Remaining, fleet_of, named_fleet
from privet.inference.distributed.networks import described, paper_network
from privet.inference.distributed.planners import Planner, contract
from privet.inference.distributed.plans import Plan, Rejection
from privet.inference.distributed.table_i import Row
from privet.inference.distributed.workload import Workload, workload

NAMES = parts.names("planners")
SMALL = {"exact": {"seconds": 5.0, "within": 0.5}}
PROFILES = ("raspberry-pi-3", "lg-nexus-5", "stm32h7")


def planner(name: str) -> Planner:
    return parts.build("planners", {"name": name, **SMALL.get(name, {})})


def tiny() -> Workload:
    """Two convolutions in a row, a stride, two linear layers: what the document's networks don't have."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 3, 5),
        nn.ReLU(),
        nn.Linear(5, 4),
        nn.Linear(4, 3),
    )
    rows = (Row("one", 4, (0.9, 0.5, 0.1)), Row("two", 6, (0.3, 0.2)))
    return workload(described(module, (1, 17, 15), "tiny"), 0.5, rows)


LOADS = [workload(paper_network("lenet", weights=False), tolerance) for tolerance in (0.3, 0.4, 0.8)]
MORE = [*LOADS, tiny(), workload(paper_network("cifar", weights=False), 0.6)]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """A few devices of odd speeds, links and memories, some of them nearly useless."""
    made = []
    for number in range(draw(st.integers(1, 7)) + 1):
        base = find_profile(draw(st.sampled_from(PROFILES)))
        scale = st.sampled_from((1.0, 1.0, 0.5, 0.03, 0.001))
        made.append(
            dataclasses.replace(
                base,
                name=f"device-{number}",
                multiplications_per_second=base.multiplications_per_second * draw(scale),
                link_bits_per_second=base.link_bits_per_second * draw(scale),
                memory_bytes=max(1, int(base.memory_bytes * draw(scale))),
            )
        )
    return fleet_of(made[:-1], made[-1], period=draw(st.sampled_from((10.0, 0.1, 0.004))))


def checked(answer: Plan | Rejection, left: Remaining) -> None:
    if isinstance(answer, Rejection):
        assert answer.reason
        assert answer.spent is None
        return
    assert violations(answer, left) == []
    assert 0 < answer.latency_s <= answer.latency_nic_s * (1 + 1e-9)
    assert answer.latency_nic_s <= answer.latency_shared_s * (1 + 1e-9)
    after = left.without(answer.usage)
    assert min(after.multiplications.min(), after.bits.min(), after.memory.min()) >= 0


@pytest.mark.parametrize("name", ["distprivacy", "fused"])
@settings(max_examples=60, derandomize=True)
@given(fleet=fleets(), which=st.lists(st.sampled_from(MORE), min_size=1, max_size=4))
def test_requests_one_after_the_other_keep_every_constraint(name: str, fleet: Fleet, which: list[Workload]) -> None:
    left = fleet.fresh()
    for load in which:
        answer = planner(name)(load, left)
        checked(answer, left)
        if isinstance(answer, Plan):
            left = left.without(answer.usage)


@settings(max_examples=12, derandomize=True)
@given(fleet=fleets(), load=st.sampled_from([*LOADS, tiny()]))
def test_the_exact_planner_keeps_every_constraint_and_loses_to_nobody(fleet: Fleet, load: Workload) -> None:
    left = fleet.fresh()
    best = planner("exact")(load, left)
    checked(best, left)
    for name in ("distprivacy", "fused"):
        other = planner(name)(load, left)
        if isinstance(best, Plan) and isinstance(other, Plan):
            assert best.latency_s <= other.latency_s * 2.01  # it stops within half of its bound
        elif isinstance(other, Plan):
            assert "was not found within" in best.reason


@pytest.mark.parametrize("name", NAMES)
def test_the_same_question_has_the_same_answer_and_leaves_what_is_left_alone(name: str) -> None:
    left = named_fleet("paper:6").fresh()
    before = [getattr(left, field).copy() for field in ("multiplications", "bits", "memory")]
    one, two = (planner(name).place(LOADS[1], left) for _ in range(2))
    assert isinstance(one, Plan)
    assert isinstance(two, Plan)
    assert all(np.array_equal(a, b) for a, b in zip(one.owners, two.owners, strict=True))
    after = [getattr(left, field) for field in ("multiplications", "bits", "memory")]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_kept_until_something_is_taken(name: str) -> None:
    fleet = named_fleet("paper:6")
    left, ask = fleet.fresh(), planner(name)
    answer = ask(LOADS[1], left)
    assert isinstance(answer, Plan)
    assert ask(LOADS[1], fleet.fresh()) is answer
    assert ask(LOADS[2], left) is not answer
    assert ask(LOADS[1], left.without(answer.usage)) is not answer
    assert ask(LOADS[1], named_fleet("paper:6").fresh()) is not answer


def test_only_so_many_answers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "KEPT", 1)
    monkeypatch.setattr(contract, "_kept", OrderedDict())
    left, ask = named_fleet("paper:6").fresh(), planner("fused")
    first = ask(LOADS[1], left)
    ask(LOADS[2], left)
    assert len(contract._kept) == 1
    assert ask(LOADS[1], left) is not first


@pytest.mark.parametrize("name", NAMES)
def test_the_image_and_the_answer_never_leave_the_source(name: str) -> None:
    fleet = named_fleet("paper:6")
    answer = planner(name)(LOADS[0], fleet.fresh())
    assert isinstance(answer, Plan)
    for index in (0, -1):
        assert set(answer.owners[index]) == {fleet.helpers}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["multiplications", "bits", "memory"])
def test_a_source_without_resources_rejects_and_hands_nothing_on(name: str, field: str) -> None:
    fleet = named_fleet("paper:6")
    starved = getattr(fleet, field).copy()
    starved[-1] = 10.0
    left = dataclasses.replace(fleet.fresh(), **{field: starved})
    assert isinstance(planner(name).place(LOADS[1], left), Rejection)


@pytest.mark.parametrize("name", NAMES)
def test_one_helper_is_not_enough_for_a_tolerance_that_needs_two(name: str) -> None:
    assert isinstance(planner(name)(LOADS[1], named_fleet("paper:1").fresh()), Rejection)
