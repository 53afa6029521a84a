"""Sums of clipped per-record gradients: time against Opacus with ghost clipping, memory against plain training.

Opacus is no dependency of Privet. To compare with it, install it beside and not into the environment::

    pip install 'opacus==1.6.*' --no-deps --target opacus-only
    PYTHONPATH=opacus-only python -m benchmarks per_record

Without it the time is set against plain training, of which Opacus takes 2.7 times.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from privet.models.contract import Model
from privet.models.lenet import Lenet
from privet.models.mlp import Mlp
from privet.training.per_record import PerRecord
from privet.training.precision import Precision

SHAPE, BATCH, PAIRS, STEPS, LIMIT = (1, 28, 28), 64, 11, 25, 1.0
MODELS: tuple[tuple[str, Model], ...] = (("LeNet", Lenet()), ("MLP 784-128-10", Mlp()))

Step = Callable[[], object]


def ours(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> Step:
    """Returns one private step but for the noise, laid out in memory as Privet's local step does."""
    Precision(channels_last=True).lay_out(network)
    gradients = PerRecord(network, SHAPE)

    def step() -> None:
        gradients.add(gradients.features(inputs), labels, LIMIT)
        network.zero_grad(set_to_none=False)

    return step


def plain(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> Step:
    """Returns one ordinary step but for the move."""

    def step() -> None:
        nn.functional.cross_entropy(network(inputs), labels).backward()
        network.zero_grad(set_to_none=False)

    return step


def opacus(network: nn.Sequential, inputs: Tensor, labels: Tensor) -> Step:
    """Returns the same private step by Opacus's ghost clipping."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        network, max_grad_norm=LIMIT, use_ghost_clipping=True, loss_reduction="mean"
    )
    optimiser = DPOptimizerFastGradientClipping(
        torch.optim.SGD(network.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=LIMIT,
        expected_batch_size=len(labels),
        loss_reduction="mean",
    )
    criterion = DPLossFastGradientClipping(wrapped, optimiser, nn.CrossEntropyLoss(reduction="mean"), "mean")

    def step() -> None:
        criterion(wrapped(inputs), labels).backward()
        optimiser.zero_grad()

    return step


def seconds(step: Step) -> float:
    """Returns the CPU seconds of some steps."""
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return time.process_time() - start


def ratio(first: Step, second: Step) -> float:
    """Returns the median of the first's time over the second's, side by side."""
    return statistics.median([seconds(first) / seconds(second) for _ in range(PAIRS + 2)][2:])


def peak(step: Step) -> int:
    """Returns the most bytes of tensors that a step holds at once, besides what it found."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def main() -> None:
    """Prints one line of JSON for each model and figure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    inputs, labels = torch.rand(BATCH, *SHAPE), torch.randint(0, 10, (BATCH,))
    for name, model in MODELS:
        made = [build(model.build(SHAPE, 10), inputs, labels) for build in (ours, plain)]
        row = {"name": f"clipped per-record sum, {name}, memory against plain training", "goal": 1.2}
        print(json.dumps(row | {"ratio": round(peak(made[0]) / peak(made[1]), 3)}), flush=True)
        row = {"name": f"clipped per-record sum, {name}, CPU time against Opacus ghost clipping", "goal": 0.5}
        plainly = round(ratio(*made), 2)
        try:
            theirs = opacus(model.build(SHAPE, 10), inputs, labels)
        except ImportError:
            sys.stderr.write(f"opacus is not installed; see {__file__}\n")
            row = {"name": f"clipped per-record sum, {name}, CPU time against plain training", "goal": 1.5}
            print(json.dumps(row | {"ratio": plainly, "opacus": "is not installed"}), flush=True)
            continue
        found = round(ratio(made[0], theirs), 3)
        print(json.dumps(row | {"ratio": found, "against plain training": plainly}), flush=True)


if __name__ == "__main__":
    main()
