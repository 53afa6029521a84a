"""Federated averaging on Flower's simulation, written as its users write it; benchmarks/fleet.py measures it.

``python -m benchmarks._flower_simulation DEVICES ROWS ROUNDS``: the model, rows, and schedule of benchmarks/engine.py.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor, nn

from privet.models.lenet import Lenet

DEVICES, ROWS, ROUNDS = (int(one) for one in sys.argv[1:4])

client, server = ClientApp(), ServerApp()


def rows_of(device: int) -> tuple[Tensor, Tensor]:
    """Returns a device's inputs and labels, drawn for it alone."""
    generator = np.random.default_rng(device)
    inputs = generator.random((ROWS, 1, 28, 28), dtype=np.float32)
    return torch.from_numpy(inputs), torch.from_numpy(generator.integers(0, 10, ROWS))


def network() -> nn.Sequential:
    """Returns the model, untrained."""
    return Lenet().build((1, 28, 28), 10)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Trains one local epoch."""
    torch.set_num_threads(1)
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = rows_of(int(context.node_config["partition-id"]))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order = torch.randperm(ROWS)
    for start in range(0, ROWS, 64):
        batch = order[start : start + 64]
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": ROWS})}
    return Message(RecordDict(content), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Asks all devices in every round."""
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=DEVICES, min_available_nodes=DEVICES)
    done = strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=ROUNDS)
    if set(done.train_metrics_clientapp) != set(range(1, ROUNDS + 1)):
        raise RuntimeError("a round is missing")


if __name__ == "__main__":
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=DEVICES,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
