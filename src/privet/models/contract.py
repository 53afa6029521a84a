"""The contract of a model: stages in order, some of whose ends are cut points."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import ClassVar

from torch import nn

from privet.errors import PartError
from privet.parts import Part, name_of


class Model(Part):
    """An architecture that can be cut in two: a front on the device and a head at the edge.

    Attributes:
        cut_points: names of the stages after which it may be cut, the default first; empty when it
            can't be.
    """

    cut_points: ClassVar[tuple[str, ...]] = ()

    @property
    def couples_records(self) -> bool:
        """Whether the output for one input depends on the other inputs of its batch."""
        return False

    @abstractmethod
    def build(self, shape: tuple[int, ...], classes: int) -> nn.Sequential:
        """Returns a freshly initialised network of named stages.

        Args:
            shape: shape of one input, for example (1, 28, 28).
            classes: number of outputs (logits).

        Raises:
            PartError: the model can't take inputs of this shape.
        """

    def cut(self, network: nn.Sequential, at: str | None = None) -> tuple[nn.Sequential, nn.Sequential]:
        """Returns the front (up to and with stage ``at``) and the head; both share the network's tensors.

        Raises:
            PartError: the model has no such cut point.
        """
        at = at or (self.cut_points[0] if self.cut_points else "")
        if at not in self.cut_points:
            raise PartError(
                f"{name_of(self)} can't be cut at {at!r}", allowed=", ".join(self.cut_points) or "no cut at all"
            )
        stages = list(network.named_children())
        end = [name for name, _ in stages].index(at) + 1
        return nn.Sequential(OrderedDict(stages[:end])), nn.Sequential(OrderedDict(stages[end:]))


def refuse_shape(model: Model, shape: tuple[int, ...], allowed: str) -> PartError:
    """Returns the error that says which input shapes a model takes."""
    return PartError(f"{name_of(model)} can't take inputs of shape {shape}", allowed=allowed)
