"""``privet place``: who computes which part of a network, so that no helper holds too much of it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.output import FloatRange, json_option, print_json

if TYPE_CHECKING:
    from privet.inference.distributed.fleets import Fleet
    from privet.inference.distributed.planners import Planner
    from privet.inference.distributed.workload import Workload

MODELS = "lenet, cifar, vgg16 or vgg19"


@click.command()
@click.option("--model", required=True, metavar="NAME", help=f"The document's network: {MODELS}.")
@click.option(
    "--fleet",
    "fleet_name",
    required=True,
    metavar="FLEET",
    help="paper:N is N helpers (RPi3, LG Nexus 5, STM32H7, and again); mix:PROFILE=N,... so many of each profile.",
)
@click.option(
    "--ssim", type=FloatRange(), default=0.4, show_default=True, help="Tolerated similarity of a recovered image."
)
@click.option(
    "--planner", "planner_name", default="fused", show_default=True, metavar="PART", help="Who plans: see privet parts."
)
@click.option("--literal", is_flag=True, help="With the planner distprivacy: count as the document prints it.")
@click.option("--requests", type=int, metavar="N", help="Simulate N requests, three in each period of 10 s on average.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which arrivals.")
@json_option
def place(
    model: str,
    fleet_name: str,
    ssim: float,
    planner_name: str,
    literal: bool,
    requests: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Plan one inference over many helpers, as the document on distributed inference has it.

    Its promise is Table I: how well an image is recovered from some of a layer's maps. We measured otherwise: one map
    can be enough. See the page on distributed inference before you rely on it.
    """
    from privet import parts
    from privet.inference.distributed.fleets import named_fleet
    from privet.inference.distributed.networks import paper_network
    from privet.inference.distributed.workload import workload

    load = workload(paper_network(model, weights=False), ssim)
    fleet = named_fleet(fleet_name)
    planner = parts.build("planners", {"name": planner_name} | ({"literal": True} if literal else {}))
    found = _one(load, fleet, planner) if requests is None else _many(load, fleet, planner, requests, seed)
    said = {"model": model, "fleet": fleet_name, "ssim": ssim, "planner": planner_name, **found}
    if as_json:
        print_json(said)
    else:
        click.echo("\n".join(_lines(said)))


def _one(load: Workload, fleet: Fleet, planner: Planner) -> dict[str, Any]:
    import time

    from privet.inference.distributed.constraints import partial_maps, violations
    from privet.inference.distributed.plans import Rejection

    left = fleet.fresh()
    start = time.perf_counter()
    answer = planner(load, left)
    seconds = time.perf_counter() - start
    if isinstance(answer, Rejection):
        nothing = dict.fromkeys(("latency_s", "latency_nic_s", "latency_shared_s"), math.nan)
        local = load.multiplications / float(fleet.speed[-1])
        return {
            **nothing,
            "shared_bits": 0,
            "rejected": True,
            "devices_used": 0,
            "planning_s": seconds,
            "local_s": local,
            "run_locally": bool(load.memory <= fleet.memory[-1]),
            "reason": answer.reason,
        }
    received = [most / limit for _, limit, most in partial_maps(answer)]
    return {
        "latency_s": answer.latency_s,
        "latency_nic_s": answer.latency_nic_s,
        "latency_shared_s": answer.latency_shared_s,
        "shared_bits": answer.shared_bits,
        "rejected": False,
        "devices_used": answer.devices_used,
        "planning_s": seconds,
        "local_s": answer.local_s,
        "run_locally": answer.run_locally,
        "partial_maps_per_limit": max(received, default=0.0),
        "violations": violations(answer, left),
    }


def _many(load: Workload, fleet: Fleet, planner: Planner, requests: int, seed: int) -> dict[str, Any]:
    from privet.inference.distributed.simulator import simulate

    found = dataclasses.asdict(simulate([load], fleet, planner, requests, seed=seed))
    local = load.multiplications / float(fleet.speed[-1])
    share = found["run_locally_share"]
    return found | {
        "rejected": found["served"] == 0,
        "local_s": local,
        "run_locally": share is None or share >= 0.5,
    }


def _lines(said: dict[str, Any]) -> list[str]:
    lines = [f"{said['model']} on {said['fleet']}, tolerated SSIM {said['ssim']:g}, planner {said['planner']}"]
    if "requests" in said:
        lines.append(f"{said['requests']} requests: {100 * said['rejected_share']:.1f} % rejected for good")
        if said["served"]:
            lines.append(f"mean latency: {said['mean_latency_s']:.4g} s (Eq. 5, with waiting)")
            lines.append(f"mean shared data: {said['mean_shared_bits'] / 1e6:.4g} Mbit")
    elif said["rejected"]:
        lines.append(f"rejected: {said['reason']}; give more helpers or a higher --ssim")
    else:
        lines += [
            f"latency: {said['latency_s']:.4g} s by Eq. 5, {said['latency_nic_s']:.4g} s when a radio does one thing "
            f"at a time, {said['latency_shared_s']:.4g} s on one shared channel",
            f"shared data: {said['shared_bits'] / 1e6:.4g} Mbit between {said['devices_used']} helpers and the source",
            f"planned in {1000 * said['planning_s']:.3g} ms",
            f"not counted by the document: a helper receives {said['partial_maps_per_limit']:.3g} partial maps for "
            "each map that its limit allows",
        ]
        lines += [f"breaks a constraint: {line}" for line in said["violations"][:3]]
    if said["run_locally"]:
        lines.append(f"run locally: the source alone takes {said['local_s']:.4g} s and shows nobody anything")
    return lines
