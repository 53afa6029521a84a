"""Federated averaging: devices train the whole model, the coordinator combines the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from privet.accounting import Guarantee
from privet.engines import Channel
from privet.mechanisms.chain import Chain
from privet.parts import Grade, part
from privet.randomness import Source
from privet.training.contract import Bench, Promise, Protocol
from privet.training.descent import batches
from privet.training.guarantees import of_updates


@part
class Fedavg(Protocol):
    """Each device trains the whole model on its own rows and sends the difference.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        2017, algorithm 1.
    """

    grade: ClassVar[Grade] = "measured"

    def train(
        self,
        bench: Bench,
        inputs: Tensor,
        labels: Tensor,
        mechanisms: Chain,
        rng: Source,
        noise: Source,
        channel: Channel,
    ) -> float:
        start = bench.descent.values.clone() if self.pull() else None
        loss = torch.zeros(())
        for _ in range(self.local_epochs):
            total = torch.zeros(())
            parts = batches(len(labels), self.batch_size, rng)
            for rows in parts:
                with bench.precision.autocast():
                    logits = bench.network(inputs[rows])
                loss = torch.nn.functional.cross_entropy(logits.float(), labels[rows])
                loss.backward()
                if start is not None:
                    bench.descent.gradients.add_(bench.descent.values - start, alpha=self.pull())
                bench.descent.step(self.learning_rate, self.momentum)
                total += loss.detach()
            loss = total / len(parts)
        return float(loss)

    def pull(self) -> float:
        """Returns how strongly a device is pulled back to the global model (FedProx's mu); 0 here."""
        return 0.0

    def guarantees(self, promise: Promise) -> Sequence[Guarantee]:
        return of_updates(promise, self.rounds)
