"""The edge server of split training: it holds the head and sees features and labels."""

from __future__ import annotations

from torch import Tensor, nn

from privet.training.precision import Precision


class EdgeServer:
    """One device's session at the edge server.

    Args:
        head: the layers behind the cut; their gradients accumulate in place.
        precision: how it computes.
    """

    def __init__(self, head: nn.Sequential, precision: Precision) -> None:
        self.head, self.precision = head, precision

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
        assert received.grad is not None  # noqa: S101 - backward has just filled it
        return received.grad, loss.detach()
