"""Planning one inference over many helpers: costs by hand, Table I, the faults of the document, the simulation."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time

import numpy as np
import pytest
from torch import nn

from privet.errors import InputError, MissingExtraError
from privet.fleet.profile import find_profile
from privet.inference.distributed import planners
from privet.inference.distributed.constraints import partial_maps, violations
from privet.inference.distributed.cost import multiplications, tasks
from privet.inference.distributed.fleets import Fleet, fleet_of, named_fleet
from privet.inference.distributed.networks import described, paper_network
from privet.inference.distributed.planners.distprivacy import Distprivacy
from privet.inference.distributed.planners.exact import Exact
from privet.inference.distributed.planners.fused import Fused
from privet.inference.distributed.plans import Plan, Rejection, priced
from privet.inference.distributed.simulator import simulate
from privet.inference.distributed.table_i import TABLE, Row
from privet.inference.distributed.workload import Workload, workload


def load_of(name: str, tolerance: float) -> Workload:
    return workload(paper_network(name, weights=False), tolerance)


def plan_of(answer: Plan | Rejection) -> Plan:
    assert isinstance(answer, Plan)
    return answer


# Costs by hand


def test_multiplications_of_vgg16_by_hand() -> None:
    blocks = [(128, (3, 64, 64)), (64, (64, 128, 128)), (32, (128, 256, 256, 256)), (16, (256, 512, 512, 512))]
    blocks.append((8, (512, 512, 512, 512)))
    convolutions = sum(9 * a * b * side**2 for side, maps in blocks for a, b in itertools.pairwise(maps))
    linear = 512 * 4 * 4 * 4096 + 4096 * 4096 + 4096 * 196
    assert multiplications(paper_network("vgg16", weights=False)) == convolutions + linear == 5_062_279_168


def test_equations_2_3_and_4_for_lenet_by_hand() -> None:
    found = {task.name: task for task in tasks(paper_network("lenet", weights=False))}
    second = found["convolution2"]
    assert (second.segments, second.multiplications, second.memory) == (8, 25 * 16 * 10 * 10, 4 * 25 * 16)
    first = found["linear1"]
    assert (first.segments, first.arriving, first.multiplications, first.memory) == (1, 16, 48_000, 192_000)
    assert found["pooling2"].unit_bits == 32 * 5 * 5
    assert found["activation1"].multiplications == found["activation1"].memory == 0


def by_hand() -> tuple[Workload, Fleet, Plan]:
    """One convolution of two maps, one linear layer; two helpers hold one map each."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))
    load = workload(described(module, (1, 2, 2), "by hand"), 0.5, (Row("r", 2, (0.9, 0.1)),))
    pi, small = find_profile("raspberry-pi-3"), find_profile("stm32h7")
    fleet = fleet_of([pi, small], pi)
    owners = tuple(np.array(each) for each in ([2], [0, 1], [2], [2]))
    return load, fleet, priced(load, fleet, owners)


def test_the_three_latencies_by_hand() -> None:
    load, _, plan = by_hand()
    assert load.at_source == (True, False, True, True)
    fast, slow, pi = 72.2e6, 7.2e6, 560e6
    unit = 4 * 32  # one map of 2 x 2
    computing = (1 * 2 * 4 + 8 * 3 + 3 * 2) / pi
    assert plan.shared_bits == 4 * unit
    assert plan.latency_s == pytest.approx(computing + unit / fast + unit / slow)
    # The source's radio sends to both, one after the other; the small one's slow link counts on both sides.
    nic = computing + (unit / fast + unit / slow) + (unit / fast + unit / slow)
    assert plan.latency_nic_s == plan.latency_shared_s == pytest.approx(nic)
    assert plan.devices_used == 2
    assert plan.local_s == pytest.approx(computing)
    assert plan.run_locally


def test_the_documents_figures_of_vgg16_on_sixty_devices() -> None:
    load, left = load_of("vgg16", 0.4), named_fleet("paper:60").fresh()
    plan = plan_of(Distprivacy()(load, left))
    assert violations(plan, left) == []
    found = (plan.latency_s, plan.latency_nic_s, plan.latency_shared_s, plan.local_s)
    assert found == pytest.approx((2.55, 6.04, 44.84, 9.04), abs=0.005)
    assert plan.run_locally
    assert max(most / limit for _, limit, most in partial_maps(plan)) == 32


# Table I


def test_the_tables_limits() -> None:
    def blocks(name: str, tolerance: float) -> list[int]:
        return [row.most(tolerance) for row in TABLE[name]]

    assert blocks("cifar", 0.4) == [8, 16, 32]  # the document's own example; .41 counts as .4
    assert blocks("vgg16", 0.4) == [2, 4, 8, 512]
    assert blocks("vgg19", 0.8) == [32, 128, 256, 512]
    assert blocks("lenet", 0.4) == [4, 8]
    assert blocks("lenet", 0.8) == [4, 16]


def test_fewer_maps_never_tell_more() -> None:
    row = TABLE["vgg19"][3]  # all 512 maps .26, half of them .39
    assert row.at(512, running=False) == 0.26
    assert row.at(512) == 0.39
    assert row.most(0.3, running=False) == 512
    assert row.most(0.3) == 128
    assert row.at(3) == row.at(4)
    assert row.at(1) == 0.3
    for rows in TABLE.values():
        for each in rows:
            values = [each.at(count) for count in range(1, each.maps + 1)]
            assert values == sorted(values)


def test_only_the_layers_before_the_split_point_are_limited() -> None:
    for name in TABLE:
        for tolerance in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
            load = load_of(name, tolerance)
            assert all((limit is not None) == (index < load.split) for index, limit in enumerate(load.limits))
            assert load.at_source[load.first_linear] == (load.first_linear < load.split)
            assert load.at_source[0]
            assert load.at_source[-1]
    assert load_of("vgg19", 1.0).split == 1  # the image itself is protected at every tolerance


def test_wrong_tolerances_and_networks_nobody_measured() -> None:
    for tolerance in (0.0, -1.0, 1.01, float("nan"), float("inf")):
        with pytest.raises(InputError, match="tolerated SSIM"):
            load_of("lenet", tolerance)
    own = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(InputError, match="nobody measured"):
        workload(described(own, (1, 2, 2), "own"), 0.4)
    with pytest.raises(InputError, match="a first layer Conv2d"):
        tasks(described(own[1:], (1, 2, 4)))


# Faults of the document


def test_fault_the_literal_algorithm_admits_one_map_too_many() -> None:
    left = named_fleet("paper:4").fresh()
    load = load_of("lenet", 0.4)
    literal = plan_of(Distprivacy(literal=True)(load, left))
    said = violations(literal, left)
    assert any(line.startswith("(8f)") and "holds 5 maps, Nf is 4" in line for line in said)
    assert violations(plan_of(Distprivacy()(load, left)), left) == []


def test_fault_counting_per_layer_lets_a_helper_see_other_maps_of_the_same_tensor() -> None:
    load, fleet, plan = by_hand()
    assert violations(plan, fleet.fresh()) == []
    # Both maps pass through helper 0, one in each layer: within Nf a layer, all of them together.
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))
    load = workload(described(module, (1, 2, 2), "twice"), 0.5, (Row("r", 2, (0.9, 0.1)),))
    crossed = priced(load, fleet, tuple(np.array(each) for each in ([2], [0, 1], [1, 0], [2], [2])))
    said = violations(crossed, fleet.fresh())
    assert len(said) == 2
    assert all(line.startswith("(union)") for line in said)


def test_fault_a_request_that_fails_keeps_what_it_took() -> None:
    fleet = named_fleet("paper:60")
    load = load_of("vgg19", 0.4)
    literal, mended = Distprivacy(literal=True)(load, fleet.fresh()), Distprivacy()(load, fleet.fresh())
    assert isinstance(literal, Rejection)
    assert isinstance(mended, Rejection)
    assert mended.spent is None
    assert literal.spent is not None
    assert literal.spent.bits.sum() > 9e8
    left = fleet.fresh().without(literal.spent)
    assert left.bits.sum() < fleet.bits.sum()


def test_fault_memory_of_the_wrong_layer() -> None:
    # The source pays for the first convolution (800 bytes), and for the linear layers what the activations before
    # them weigh: nothing.
    load, fleet = load_of("lenet", 0.4), named_fleet("paper:4")
    memory = fleet.memory.copy()
    memory[-1] = 800 + 192_000 + 3_359  # one byte less than its three layers weigh
    left = dataclasses.replace(fleet.fresh(), memory=memory)
    literal = plan_of(Distprivacy(literal=True).place(load, left))
    assert "(8b) device 4: 196160 memory, 196159 are left" in violations(literal, left)
    assert isinstance(Distprivacy().place(load, left), Rejection)


@pytest.mark.parametrize("literal", [False, True])
def test_fault_the_else_branch_never_hands_the_image_to_a_helper(literal: bool) -> None:
    load, fleet = load_of("lenet", 0.4), named_fleet("paper:4")
    able = fleet.multiplications.copy()
    able[-1] = load.tasks[0].multiplications - 1.0
    answer = Distprivacy(literal=literal).place(load, dataclasses.replace(fleet.fresh(), multiplications=able))
    assert isinstance(answer, Rejection)
    assert answer.reason == "the source is not free for segment 1 of 1 of convolution1"
    # As printed, line 9 is false for the first layer, and line 13 asks the helpers, who have room.
    printed_line_9 = load.tasks[0].multiplications <= able[-1]
    assert not printed_line_9
    assert (able[:-1] >= load.tasks[0].multiplications).all()


def test_fault_the_printed_comparisons_with_the_split_point_contradict_each_other() -> None:
    """(8h) as printed, "SP <= l", keeps the first linear layer where nothing needs it, and gives it away elsewhere."""
    for name, tolerance, needed in (("vgg16", 0.4, False), ("cifar", 0.4, True), ("lenet", 0.4, True)):
        load = load_of(name, tolerance)
        linear, split = load.first_linear + 1, load.split + 1  # the document counts layers from 1
        assert load.at_source[load.first_linear] is needed
        assert (split <= linear) is not needed  # (8h)
        assert (linear < split) is needed  # condition 3
    # At the split point itself (8f) and condition 4 limit, (8h) frees, condition 3 does not protect.
    at = split
    assert at <= split
    assert not at > split
    assert split <= at
    assert not at < split


def test_fault_vgg19_at_04_is_infeasible_by_its_own_table() -> None:
    assert TABLE["vgg19"][2].most(0.4) == 1
    load = load_of("vgg19", 0.4)
    for size, planner in ((60, Distprivacy()), (255, Fused())):
        assert isinstance(planner(load, named_fleet(f"mix:lg-nexus-5={size}").fresh()), Rejection)
    left = named_fleet("mix:lg-nexus-5=256").fresh()
    assert violations(plan_of(Fused()(load, left)), left) == []


def test_fault_two_devices_at_08_is_false_for_cars() -> None:
    row = TABLE["vgg16"][0]
    assert row.at(32) > 0.81
    assert row.maps // row.most(0.8) == 16
    load = load_of("vgg16", 0.8)
    assert isinstance(Fused()(load, named_fleet("mix:lg-nexus-5=15").fresh()), Rejection)
    assert isinstance(Fused()(load, named_fleet("mix:lg-nexus-5=16").fresh()), Plan)


def test_fault_the_nexus_would_have_912_by_the_documents_own_formula() -> None:
    assert 4 * 2.28e9 / 10 == 912e6
    assert find_profile("lg-nexus-5").multiplications_per_second == 800e6
    assert "912 million" in find_profile("lg-nexus-5").source
    assert find_profile("raspberry-pi-3").multiplications_per_second == 4 * 1.4e9 / 10


# The checker


def spoilt(plan: Plan, **changed: object) -> Plan:
    return dataclasses.replace(plan, **changed)


def test_the_checker_sees_every_kind_of_wrong_plan() -> None:
    load, fleet, plan = by_hand()
    left = fleet.fresh()

    def said(owners: list[list[int]]) -> str:
        return "; ".join(violations(priced(load, fleet, tuple(np.array(each) for each in owners)), left))

    assert "(8h) convolution" not in said([[2], [0, 1], [2], [2]])
    assert "(8h) 0 belongs to the source" in said([[0], [0, 1], [2], [2]])
    assert "(8h) 3 belongs to the source" in said([[2], [0, 1], [0], [2]])
    assert "(8h) 1 does not belong to the source" in said([[2], [2, 1], [2], [2]])
    assert "(8f) 1: helper 0 holds 2 maps, Nf is 1" in said([[2], [0, 0], [2], [2]])
    assert "an owner who is not there" in "; ".join(
        violations(spoilt(plan, owners=(*plan.owners[:1], np.array([0, 7]), *plan.owners[2:])), left)
    )
    assert "1 owners for 2 segments" in "; ".join(
        violations(spoilt(plan, owners=(*plan.owners[:1], np.array([0]), *plan.owners[2:])), left)
    )
    assert "(partial sums) 512 bits" in violations(spoilt(plan, shared_bits=1), left)[0]
    assert "(time) one channel" in violations(spoilt(plan, latency_shared_s=1.0), left)[0]
    usage = dataclasses.replace(plan.usage, bits=plan.usage.bits * 2)
    assert "(usage) the plan says otherwise about bits" in violations(spoilt(plan, usage=usage), left)[0]
    for field, name in (("multiplications", "8c"), ("bits", "8d"), ("memory", "8b")):
        nothing = dataclasses.replace(left, **{field: np.zeros(3)})
        assert any(line.startswith(f"({name}) device 2") for line in violations(plan, nothing))


# How good, how fast


@pytest.mark.parametrize("tolerance", [0.4, 0.8])
@pytest.mark.parametrize("helpers", [4, 6, 8, 12])
def test_fused_is_within_one_percent_of_the_optimum(tolerance: float, helpers: int) -> None:
    load, left = load_of("lenet", tolerance), named_fleet(f"paper:{helpers}").fresh()
    best = plan_of(Exact()(load, left))
    assert violations(best, left) == []
    fast = plan_of(Fused()(load, left))
    assert violations(fast, left) == []
    assert best.latency_s * 0.999 <= fast.latency_s <= best.latency_s * 1.01


def test_algorithm_1_is_far_above_the_optimum() -> None:
    for tolerance, helpers, above in ((0.4, 4, 1.26), (0.8, 12, 3.05)):
        load, left = load_of("lenet", tolerance), named_fleet(f"paper:{helpers}").fresh()
        best, greedy = plan_of(Exact()(load, left)), plan_of(Distprivacy()(load, left))
        assert greedy.latency_s / best.latency_s == pytest.approx(above, abs=0.01)


def test_ten_thousand_devices_are_planned_in_milliseconds_and_keep_every_constraint() -> None:
    left = named_fleet("paper:10000").fresh()
    for small in (load_of("cifar", 0.4), load_of("lenet", 0.8)):
        assert violations(plan_of(Fused()(small, left)), left) == []
    load = load_of("vgg19", 0.8)
    Fused()(load, left)
    cached = min(_timed(lambda: Fused()(load, left)) for _ in range(50))
    assert cached <= 50e-6
    planner = Fused()
    for _ in range(12):
        left = left.without(plan_of(planner.place(load, left)).usage)
    # Loose, because other work may share the processor; the benchmark has the goal of 10 ms.
    assert min(_timed(lambda: planner.place(load, left)) for _ in range(5)) <= 0.05


def _timed(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def test_many_kinds_of_devices_are_planned_too() -> None:
    base, draw = find_profile("raspberry-pi-3"), np.random.default_rng(0)
    made = [
        dataclasses.replace(base, name=f"d{n}", multiplications_per_second=s * 1e8, link_bits_per_second=r * 1e7)
        for n, (s, r) in enumerate(draw.uniform(1, 9, (300, 2)))
    ]
    left = fleet_of(made).fresh()
    load = load_of("vgg16", 0.4)
    for _ in range(3):
        plan = plan_of(Fused().place(load, left))
        assert violations(plan, left) == []
        left = left.without(plan.usage)


def test_a_helper_that_is_far_faster_runs_all_that_it_may_alone() -> None:
    nexus, server = find_profile("lg-nexus-5"), find_profile("edge-server")
    fast = dataclasses.replace(server, multiplications_per_second=1e12, link_bits_per_second=72.2e6)
    load, left = load_of("vgg16", 0.8), fleet_of([*[nexus] * 16, fast]).fresh()
    plan = plan_of(Fused()(load, left))
    assert violations(plan, left) == []
    alone = [set(owners.tolist()) == {16} for owners in plan.owners]
    assert alone.index(True) >= load.split
    assert all(alone[alone.index(True) : -1])
    # Where it has no room for the convolutions, they are spread.
    memory = left.memory.copy()
    memory[16] = 210e6
    plan = plan_of(Fused().place(load, dataclasses.replace(left, memory=memory)))
    assert violations(plan, left) == []
    assert plan.usage.memory[16] <= 210e6


def test_linear_layers_go_to_several_helpers_where_one_has_no_room_and_nowhere_where_none_has() -> None:
    load = load_of("vgg16", 0.8)
    nexus = find_profile("lg-nexus-5")
    left = fleet_of([dataclasses.replace(nexus, memory_bytes=140_000_000)] * 20).fresh()
    plan = plan_of(Fused()(load, left))
    assert violations(plan, left) == []
    first, second = load.first_linear, load.first_linear + 2
    assert plan.owners[first][0] != plan.owners[second][0]
    answer = Fused()(load, named_fleet("mix:stm32h7=20").fresh())
    assert isinstance(answer, Rejection)
    assert answer.reason == "no helper is free for linear1"


def test_a_network_whose_helpers_have_nothing_to_do_stays_at_the_source() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 3))
    load = workload(described(module, (1, 2, 2), "short"), 0.5, (Row("r", 2, (0.9, 0.1)),))
    left = named_fleet("paper:2").fresh()
    for planner in (Fused(), Distprivacy(), Exact()):
        plan = plan_of(planner(load, left))
        assert violations(plan, left) == []
        assert plan.devices_used == plan.shared_bits == 0


def test_without_or_tools_the_exact_planner_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ortools", "ortools.sat", "ortools.sat.python"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'privet\[planner\]'"):
        Exact().place(load_of("lenet", 0.4), named_fleet("paper:4").fresh())


def test_the_exact_planner_says_when_time_is_up() -> None:
    answer = Exact(seconds=0.001).place(load_of("cifar", 0.4), named_fleet("paper:12").fresh())
    assert isinstance(answer, Rejection)
    assert "0.001 s" in answer.reason


# Fleets


def test_the_documents_fleet_repeats_three_devices_and_has_a_pi_as_source() -> None:
    fleet = named_fleet("paper:4")
    assert fleet.speed.tolist() == [560e6, 800e6, 40e6, 560e6, 560e6]
    assert fleet.rate.tolist() == [72.2e6, 72.2e6, 7.2e6, 72.2e6, 72.2e6]
    assert fleet.bits.tolist() == [rate * 10 for rate in fleet.rate]
    assert fleet.slower.tolist() == [1, 0, 3, 2]
    assert named_fleet("mix:stm32h7=2,phone=1").helpers == 3


@pytest.mark.parametrize(
    "name",
    ["", "paper", "paper:", "paper:0", "paper:x", "paper:999999", "mix:", "mix:stm32h7", "mix:phone,stm32h7=1", "x:3"],
)
def test_wrong_fleets_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as error:
        named_fleet(name)
    assert "paper:N" in error.value.advice()
    assert "\n" not in error.value.advice()


def test_fleets_need_helpers_and_time() -> None:
    with pytest.raises(InputError, match="at least one helper"):
        fleet_of([])
    with pytest.raises(InputError, match="the period is 0"):
        fleet_of([find_profile("phone")], period=0)


# The simulation


class Fixed(planners.Planner):
    """Rejects the first ``no`` tries."""

    def __init__(self, no: int) -> None:
        self.no, self.seen = no, []

    def __hash__(self) -> int:
        return id(self)

    def __call__(self, load: Workload, left: object) -> Plan | Rejection:
        self.seen.append(left.version)
        if len(self.seen) <= self.no:
            return Rejection("no")
        return PLAN

    def place(self, load: Workload, left: object) -> Plan | Rejection:
        raise AssertionError


LOAD, FLEET, PLAN = by_hand()


def test_a_rejected_request_waits_for_whole_periods_and_gives_up_after_three_retries() -> None:
    moment = np.random.default_rng(0).exponential(1 / 3)
    for rejected in range(4):
        found = simulate([LOAD], FLEET, Fixed(rejected), 1)
        wait = 0.0 if rejected == 0 else (int(moment) + rejected - moment) * 10
        assert found.mean_latency_s == pytest.approx(wait + PLAN.latency_s)
        assert found.mean_eq5_s == PLAN.latency_s
        assert found.retried_share == (rejected > 0)
    never = simulate([LOAD], FLEET, Fixed(4), 1)
    assert (never.served, never.rejected_share, never.mean_latency_s) == (0, 1.0, None)


def test_capacities_are_taken_within_a_period_and_whole_again_in_the_next() -> None:
    asked = Fixed(0)
    simulate([LOAD], FLEET, asked, 30)
    assert asked.seen.count(b"") >= 5
    assert len(set(asked.seen)) >= 4


def test_what_a_rejected_request_keeps_is_gone_for_the_others() -> None:
    class Keeping(Fixed):
        def __call__(self, load: Workload, left: object) -> Plan | Rejection:
            super().__call__(load, left)
            return Rejection("no", PLAN.usage)

    keeping = Keeping(0)
    found = simulate([LOAD], FLEET, keeping, 20, retries=0)
    assert found.rejected_share == 1.0
    assert found.retried_share == 0.0
    assert len(set(keeping.seen)) > 1


def test_three_requests_a_period_on_average_and_all_networks_alike() -> None:
    asked = Fixed(0)
    other = dataclasses.replace(LOAD)
    found = simulate([LOAD, other], FLEET, asked, 3000)
    assert found.served == 3000
    assert asked.seen.count(b"") == pytest.approx(1000 * (1 - np.exp(-3)), rel=0.05)


def test_the_simulation_of_the_command() -> None:
    found = simulate([load_of("lenet", 0.4)], named_fleet("paper:12"), Fused(), 320)
    assert found.rejected_share == 0
    assert found.mean_latency_s == pytest.approx(0.001, rel=0.01)
    assert found.mean_shared_bits is not None
    assert found.run_locally_share == 1.0  # LeNet is never worth distributing
    with pytest.raises(InputError, match="nothing to simulate"):
        simulate([], named_fleet("paper:12"), Fused())
