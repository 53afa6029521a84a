"""The contract of private inference: what leaves is sealed, somebody evaluates it sealed, and only its owner opens it.

A network is answered in several such exchanges where only a part of it can be evaluated sealed: one for each linear
layer in :mod:`privet.inference.distributed.blinded`, whose owner computes what lies between.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Inference(Protocol):
    """One exchange between the owner of a value and whoever evaluates."""

    def seal(self, value: Tensor) -> Tensor:
        """Returns the message that may leave; a sealed exchange can't seal again.

        Args:
            value: inputs (batch, ...).

        Raises:
            RefusedError: it has sealed something before.
        """

    def evaluate(self, message: Tensor) -> Tensor:
        """Returns the answer to a message; needs nothing that the owner keeps to itself."""

    def open(self, message: Tensor) -> Tensor:
        """Returns the outputs (batch, ...) in an answer."""


def answered(exchange: Inference, value: Tensor) -> Tensor:
    """Returns the outputs for a value, everything in this process."""
    return exchange.open(exchange.evaluate(exchange.seal(value)))
