"""A local epoch of the smart-home CNN in the measured precision against the plain float32 loop."""

from __future__ import annotations

import json
import statistics
import time

import torch
from torch import nn

from privet.models.smart_home_cnn import SmartHomeCnn
from privet.training.descent import Descent, batches
from privet.training.precision import Precision, choose

ROWS, PAIRS = 1280, 5


def plain(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Trains for one epoch as one would write it by hand."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for batch in torch.randperm(ROWS).split(64):
        loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def ours(
    network: nn.Module, descent: Descent, precision: Precision, inputs: torch.Tensor, labels: torch.Tensor
) -> None:
    """Trains for one epoch as Privet's local step does."""
    for batch in batches(ROWS, 64):
        with precision.autocast():
            logits = network(inputs[batch])
        nn.functional.cross_entropy(logits.float(), labels[batch]).backward()
        descent.step(0.01, 0.9)


def main() -> None:
    """Prints one line of JSON for each size of kernel."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(ROWS, 1, 28, 28), torch.randint(0, 10, (ROWS,))
    for kernel in (3, 5):
        model = SmartHomeCnn(kernel=kernel)
        reference, network = model.build((1, 28, 28), 10), model.build((1, 28, 28), 10)
        precision = choose("auto", network, inputs[:64], labels[:64], reproducible=False)
        precision.lay_out(network)
        descent, ratios = Descent(network.parameters()), []
        for _ in range(PAIRS + 1):
            start = time.perf_counter()
            plain(reference, inputs, labels)
            middle = time.perf_counter()
            ours(network, descent, precision, inputs, labels)
            ratios.append((time.perf_counter() - middle) / (middle - start))
        ratio = statistics.median(ratios[1:])
        name = (
            f"local epoch of the smart-home CNN ({kernel} x {kernel}) in {precision} against plain float32, wall time"
        )
        print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": 0.65}), flush=True)


if __name__ == "__main__":
    main()
