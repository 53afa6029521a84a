"""An engine in which some devices see all updates of a round before they send their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from privet.engines.channel import Keep
from privet.engines.contract import Engine, Message, Reply, Work
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.device import Device
from privet.randomness import Source, seeded
from privet.tensors import State


@dataclass(frozen=True)
class Colluding:
    """Asks through another engine and holds back what colluding devices send until all others have sent.

    Devices of one behaviour collude with one another. What they know is the strongest that an attacker could
    know; that the rest of the fleet answers before them costs them no modelled time.

    Attributes:
        engine: where the devices compute.
        seed: of what the colluding devices draw together.
    """

    engine: Engine
    seed: int = 0

    def ask(self, devices: Sequence[Device], work: Work, message: Message, keep: Keep | None = None) -> Iterator[Reply]:
        """Yields the replies of all others as they come, then those of the colluding devices."""
        colluders = {device.identity: device.behaviour for device in devices if device.behaviour.colludes}
        if not colluders:
            yield from self.engine.ask(devices, work, message, keep)
            return
        sent: dict[str, Reply] = {}
        for reply in self.engine.ask(devices, work, message, keep):
            sent.setdefault(reply.device, reply)
            if reply.device not in colluders:
                yield reply
        before = {name: reply.tensors["update"] for name, reply in sorted(sent.items()) if "update" in reply.tensors}
        for behaviour in dict.fromkeys(colluders.values()):
            group = [sent[name] for name, theirs in sorted(colluders.items()) if theirs == behaviour and name in sent]
            rng = seeded(self.seed, "together", message.round, repr(behaviour))
            _agree(behaviour, [reply for reply in group if reply.device in before], before, message.round, rng)
            yield from group


def _agree(behaviour: Behaviour, group: list[Reply], updates: State, number: int, rng: Source) -> None:
    """Puts into the replies of a group what it makes together of all updates of the round."""
    if not group:
        return
    own = torch.stack([reply.tensors["update"] for reply in group])
    fitting = [one for one in updates.values() if (one.shape, one.dtype) == (own[0].shape, own.dtype)]
    every = torch.stack([one for one in fitting if one.isfinite().all()] or list(own))
    for reply, update in zip(group, behaviour.together(own, every, number, rng), strict=True):
        reply.tensors = {**reply.tensors, "update": update.clone()}
