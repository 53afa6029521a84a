"""Backdoor success: how often a trigger makes a model answer what the adversary wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from privet.fleet.behaviours.contract import Behaviour


def backdoor_success(
    behaviours: Iterable[Behaviour], predict: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor
) -> float | None:
    """Returns the share of triggered rows of other classes that a model answers as the target.

    Args:
        behaviours: of the fleet; the worst of their triggers counts.
        predict: from inputs (n, ...) to logits (n, classes).
        inputs, labels: test rows; where a trigger is natural only those that carry it count.

    Returns:
        The share, None where no behaviour has a trigger or no row of another class carries it.
    """
    shares = []
    for behaviour in dict.fromkeys(behaviours):
        found = behaviour.trigger(inputs)
        if found is not None and bool((rows := found.carries & (labels != found.target)).any()):
            shares.append(float((predict(found.inputs[rows]).argmax(1) == found.target).double().mean()))
    return max(shares, default=None)
