"""The edge server of split training: it holds the head, and sees features and labels.

A round of one device is a session: the head comes, batches of features go up and gradients come down, the head goes
back. A session in this process is :class:`Session`; one at an edge server is the same object behind
:class:`privet.study.edge.RemoteEdge`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from privet.tensors import State
from privet.training.descent import Descent
from privet.training.precision import Precision


class Edge(Protocol):
    """Where the head of a device's model is trained."""

    def open(self, head: State) -> None:
        """Begins a round from the values of a head."""

    def train(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Learns from one batch; returns the loss's gradient with respect to the features, and the loss."""

    def close(self) -> State:
        """Ends the round and returns the head's values."""


class Session:
    """One device's session at the edge server.

    Args:
        head: the layers behind the cut, laid out as ``precision`` wants; trained in place.
        precision: how it computes.
        learning_rate, momentum: of its gradient descent, fresh in every round.
    """

    def __init__(self, head: nn.Sequential, precision: Precision, learning_rate: float, momentum: float) -> None:
        self.head, self.precision = head, precision
        self._descent, self._live = Descent(head.parameters()), head.state_dict()
        self._rate, self._momentum = learning_rate, momentum

    def open(self, head: State) -> None:
        """Begins a round from the values of a head, all of its names and no other."""
        with torch.no_grad():
            for name, value in self._live.items():
                value.copy_(head[name])
        self._descent.reset()

    def train(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Learns from one batch.

        Args:
            features: what the device released, shape (b, ...), float32.
            labels: shape (b,), in the clear.

        Returns:
            The loss's gradient with respect to the features, of their shape, and the loss.
        """
        received = features.detach().requires_grad_()
        with self.precision.autocast():
            logits = self.head(received)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        self._descent.step(self._rate, self._momentum)
        assert received.grad is not None  # noqa: S101 - backward has just filled it
        return received.grad, loss.detach()

    def close(self) -> State:
        """Ends the round and returns the head's values, which are the session's own memory."""
        return dict(self._live)
