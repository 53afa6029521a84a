"""Number format and memory layout of training, chosen by what this processor is fast at."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Choice = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Precision:
    """How a network computes; its parameters and all that crosses a channel stay float32.

    Attributes:
        bfloat16: whether convolutions and linear layers multiply in bfloat16 (autocast).
        channels_last: whether image tensors lie with channels innermost.
    """

    bfloat16: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        return ("bfloat16" if self.bfloat16 else "float32") + (", channels last" if self.channels_last else "")

    def lay_out(self, network: nn.Module) -> nn.Module:
        """Puts a network's parameters into the memory layout, in place, and returns it."""
        return network.to(memory_format=torch.channels_last) if self.channels_last else network  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context in which forward passes run."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16)


def choose(choice: Choice, network: nn.Module, inputs: Tensor, labels: Tensor, *, reproducible: bool) -> Precision:
    """Returns the precision of a run.

    ``auto`` times one training step of each format that the processor has in hardware and takes the
    fastest; in a reproducible run it takes float32, whatever the clock says.

    Args:
        choice: what the plan says.
        network: the network, left unchanged.
        inputs, labels: one batch.
        reproducible: whether the run must give the same bits again.
    """
    images = inputs.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in network.modules())
    if choice != "auto":
        return Precision(bfloat16=choice == "bfloat16", channels_last=images)
    if reproducible or not images:
        return Precision(channels_last=images)
    candidates = [Precision(), Precision(channels_last=True)]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        candidates.append(Precision(bfloat16=True, channels_last=True))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    seconds = dict.fromkeys(candidates, float("inf"))
    for _ in range(5):  # in turn, so that a busy moment of the machine hits all of them
        for precision in candidates:
            seconds[precision] = min(seconds[precision], _step_seconds(precision, network, inputs, labels))
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.load_state_dict(state)
    return min(seconds, key=lambda precision: seconds[precision])


def _step_seconds(precision: Precision, network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    precision.lay_out(network)
    start = time.perf_counter()
    for _ in range(2):
        with precision.autocast():
            loss = nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
    network.zero_grad(set_to_none=True)
    return time.perf_counter() - start
