"""Section III of the document: requests arrive at random, are planned one after the other, and wait when they can't be.

Left open by the document, and chosen here: a period lasts 10 s; capacities (speed and rate times the period, memory)
are whole again at its beginning; a request that is rejected tries again at the beginning of the next periods, three
times at most; one source asks for everything; each request is for one of the networks, all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from privet.errors import InputError
from privet.inference.distributed.fleets import PERIOD, Fleet
from privet.inference.distributed.planners.contract import Planner
from privet.inference.distributed.plans import Plan
from privet.inference.distributed.workload import Workload

REQUESTS = 320
ARRIVALS = 3.0
"""Requests a period, on average."""
RETRIES = 3
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """What became of the requests of a simulation; a mean is None when none was served.

    Attributes:
        requests: how many arrived.
        served: how many were answered.
        rejected_share: share of those that never were.
        retried_share: share of those that had to try again.
        mean_latency_s: seconds from arrival to answer, waiting included, by Eq. 5; of the served.
        mean_eq5_s: the same without waiting.
        mean_latency_nic_s: without waiting, each radio one thing at a time.
        mean_latency_shared_s: without waiting, all on one channel.
        mean_shared_bits: bits between devices.
        total_latency_s: sum of the latencies of the served, waiting included.
        total_shared_bits: sum of their bits.
        run_locally_share: share of the served whose source alone would have been as fast on one shared channel.
    """

    requests: int
    served: int
    rejected_share: float
    retried_share: float
    mean_latency_s: float | None
    mean_eq5_s: float | None
    mean_latency_nic_s: float | None
    mean_latency_shared_s: float | None
    mean_shared_bits: float | None
    total_latency_s: float
    total_shared_bits: int
    run_locally_share: float | None


@dataclass
class _Request:
    load: Workload
    arrived: float  # in periods
    tries: int = 0


def simulate(
    loads: Sequence[Workload],
    fleet: Fleet,
    planner: Planner,
    requests: int = REQUESTS,
    *,
    arrivals: float = ARRIVALS,
    retries: int = RETRIES,
    seed: int = 0,
) -> Outcome:
    """Simulates requests that arrive as a Poisson process.

    Args:
        loads: what requests ask for; each request asks for one of them, all alike.
        fleet: who is there.
        planner: who plans.
        requests: how many arrive.
        arrivals: how many arrive in a period, on average.
        retries: how often a rejected request tries again.
        seed: which arrivals and networks.

    Raises:
        InputError: a number is out of range.
    """
    if not 1 <= requests <= MOST_REQUESTS or not arrivals > 0 or retries < 0 or not loads:
        raise InputError(
            "nothing to simulate", allowed=f"1 to {MOST_REQUESTS} requests, arrivals above 0, retries from 0"
        )
    draw = np.random.default_rng(seed)
    moments = np.cumsum(draw.exponential(1 / arrivals, requests))
    wanted = draw.integers(len(loads), size=requests)
    coming = [_Request(loads[which], float(at)) for at, which in zip(moments, wanted, strict=True)][::-1]
    waiting: list[_Request] = []
    served: list[tuple[float, Plan]] = []
    retried, period = 0, 0
    while coming or waiting:
        if not waiting:
            period = int(coming[-1].arrived)
        queue = [*waiting]
        while coming and coming[-1].arrived < period + 1:
            queue.append(coming.pop())
        waiting, left = [], fleet.fresh()
        for request in queue:
            request.tries += 1
            answer = planner(request.load, left)
            if isinstance(answer, Plan):
                left = left.without(answer.usage)
                wait = max(0.0, period - request.arrived) * PERIOD if request.tries > 1 else 0.0
                served.append((wait + answer.latency_s, answer))
                continue
            if answer.spent is not None:
                left = left.without(answer.spent)
            retried += request.tries == 1
            if request.tries <= retries:
                waiting.append(request)
        period += 1
    return _outcome(requests, retried if retries else 0, served)


def _outcome(requests: int, retried: int, served: list[tuple[float, Plan]]) -> Outcome:
    plans = [plan for _, plan in served]

    def mean(values: Sequence[float]) -> float | None:
        return fmean(values) if values else None

    return Outcome(
        requests=requests,
        served=len(served),
        rejected_share=1 - len(served) / requests,
        retried_share=retried / requests,
        mean_latency_s=mean([seconds for seconds, _ in served]),
        mean_eq5_s=mean([plan.latency_s for plan in plans]),
        mean_latency_nic_s=mean([plan.latency_nic_s for plan in plans]),
        mean_latency_shared_s=mean([plan.latency_shared_s for plan in plans]),
        mean_shared_bits=mean([plan.shared_bits for plan in plans]),
        total_latency_s=sum(seconds for seconds, _ in served),
        total_shared_bits=sum(plan.shared_bits for plan in plans),
        run_locally_share=mean([plan.run_locally for plan in plans]),
    )
