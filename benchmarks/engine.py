"""The in-process engine against the bare training loop: CPU time, side by side, at three fleet sizes."""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import torch
from torch import nn

from privet.aggregation.mean import Mean
from privet.engines import InProcess
from privet.fleet.availability.always import Always
from privet.fleet.build import build_fleet
from privet.fleet.data import Data
from privet.fleet.partitions.iid import Iid
from privet.fleet.profile import find_profile
from privet.mechanisms.chain import Chain
from privet.models.lenet import Lenet
from privet.randomness import seeded
from privet.tensors import State, clone
from privet.training import Coordinator, LocalStep, Task
from privet.training.precision import Precision
from privet.training.protocols.fedavg import Fedavg

SIZES = ((10, 600), (100, 60), (1000, 6))
PAIRS = 7


def bare(task: Task, shards: list[np.ndarray]) -> None:
    """Federated averaging as one would write it by hand: load, train, average."""
    network = task.network()
    state = clone(network.state_dict())
    total = {name: torch.zeros_like(value) for name, value in state.items()}
    rows = sum(len(shard) for shard in shards)
    for shard in shards:
        network.load_state_dict(state)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        inputs, labels = task.inputs[shard], task.labels[shard]
        order = torch.randperm(len(shard))
        for start in range(0, len(shard), 64):
            batch = order[start : start + 64]
            loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for name, value in network.state_dict().items():
            total[name] += value * (len(shard) / rows)


def fleet_of(devices: int, examples: int) -> tuple[Coordinator, State, Task]:
    """Returns a round loop over so many devices with so many rows of random pixels each."""
    generator = np.random.default_rng(0)
    inputs = generator.random((6000, 1, 28, 28), dtype=np.float32)
    labels = generator.integers(0, 10, 6000)
    task = Task(
        model=Lenet(),
        protocol=Fedavg(rounds=1),
        on_device=Chain(),
        inputs=torch.from_numpy(inputs),
        labels=torch.from_numpy(labels),
        classes=10,
        precision=Precision(),
        multiplications=1,
        seed=1,
        reproducible=True,
    )
    fleet = build_fleet(
        data=Data(inputs, labels, inputs[:10], labels[:10], 10, "random pixels"),
        devices=devices,
        profile=find_profile("phone"),
        partition=Iid(),
        availability=Always(),
        hostile=[],
        examples_per_device=examples,
        rng=seeded(1),
    )
    coordinator = Coordinator(InProcess(), LocalStep(task), fleet, Mean(), Chain())
    return coordinator, clone(task.network().state_dict()), task


def main() -> None:
    """Prints one line of JSON for each size of fleet."""
    torch.set_num_threads(1)
    for devices, examples in SIZES:
        coordinator, state, task = fleet_of(devices, examples)
        shards = [device.shard for device in coordinator.devices]
        ratios = []
        for _ in range(PAIRS + 1):
            start = time.process_time()
            bare(task, shards)
            middle = time.process_time()
            for _round in coordinator.rounds(state, 1, 1, seeded(1)):
                pass
            ratios.append((time.process_time() - middle) / (middle - start))
        ratio = statistics.median(ratios[1:])
        name = f"in-process engine against the bare loop, {devices} devices x {examples} rows, CPU time"
        print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": 1.05}), flush=True)


if __name__ == "__main__":
    main()
