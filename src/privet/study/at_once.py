"""All devices of a round in one go, for studies of many small runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from privet.engines import Keep, Message, Reply, Work
from privet.errors import InputError
from privet.fleet.device import Device
from privet.models.mlp import Mlp
from privet.randomness import seeded
from privet.tensors import State
from privet.training import Task
from privet.training.protocols.fedsgd import Fedsgd


class AtOnce:
    """Computes one gradient step of an MLP for all devices together; several times faster than one after the other.

    The updates are those of the local step to rounding: :class:`~privet.training.protocols.fedsgd.Fedsgd` without
    mechanisms, in float32. All devices are there in every round, and nothing is metered or modelled.

    Args:
        task: of an MLP with one hidden layer that trains by FedSGD.

    Raises:
        InputError: the task is another one.
    """

    def __init__(self, task: Task) -> None:
        plain = type(task.protocol) is Fedsgd and not task.on_device.mechanisms
        if not (plain and isinstance(task.model, Mlp) and len(task.model.hidden) == 1):
            raise InputError("only one step of an MLP with one hidden layer is computed at once", do="run the plan")
        self.task = task
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields one reply a device, in the order given; ``work`` and ``keep`` are not looked at."""
        rows = [self._trained_on(device, message.round) for device in devices]
        updates = -self.task.protocol.learning_rate * gradients(message.tensors, rows)
        for device, update in zip(devices, updates, strict=True):
            own = seeded(self.task.seed, "device", device.identity, message.round)
            sent = device.behaviour.update(update, message.round, own.child("update"))
            reply = Reply(device.identity, message.round, base=message.base)
            if sent is None:
                reply.missing = "silent"
            else:
                reply.tensors = {"update": sent}
            yield reply

    def _trained_on(self, device: Device, number: int) -> tuple[Tensor, Tensor]:
        """Returns the device's inputs, flat, and its labels, as it behaves in this round."""
        if device.identity not in self._rows:
            shard = torch.from_numpy(device.shard)
            self._rows[device.identity] = self.task.inputs[shard], self.task.labels[shard]
        inputs, labels = self._rows[device.identity]
        if device.behaviour.hostile:
            own = seeded(self.task.seed, "device", device.identity, number)
            inputs, labels = device.behaviour.examples(inputs, labels, self.task.classes, own.child("behaviour"))
        return inputs.flatten(1), labels


def gradients(state: State, rows: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns each device's gradient of the mean cross-entropy, shape (devices, d), values in order of their names.

    Args:
        state: of an MLP with one hidden layer.
        rows: each device's inputs (n, features) and labels (n,).
    """
    bias, weight = state["linear1.bias"], state["linear1.weight"]
    out_bias, out_weight = state["logits.bias"], state["logits.weight"]
    inputs = torch.cat([one for one, _ in rows])
    sizes = [len(labels) for _, labels in rows]
    hidden = torch.addmm(bias, inputs, weight.T).relu_()
    error = torch.addmm(out_bias, hidden, out_weight.T).softmax(1)
    error[torch.arange(len(inputs)), torch.cat([labels for _, labels in rows])] -= 1
    error /= torch.cat([torch.full((size, 1), float(size)) for size in sizes])
    below = (error @ out_weight) * (hidden > 0)
    found = []
    for x, h, e, b in zip(*(value.split(sizes) for value in (inputs, hidden, error, below)), strict=True):
        found.append(torch.cat((b.sum(0), (b.T @ x).flatten(), e.sum(0), (e.T @ h).flatten())))
    return torch.stack(found)
