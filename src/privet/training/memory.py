"""What a run remembers between rounds besides the model: flat names, state in and state out.

``aggregator.<x>`` is the combining rule's, ``server.<x>`` the protocol's at the coordinator, and
``device.<identity>.<x>`` what a device keeps for itself. In a simulated fleet the coordinator's process
holds all three; the last crosses no channel and is never metered.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from privet.tensors import State

AGGREGATOR, SERVER, DEVICE = "aggregator", "server", "device"


def of_device(identity: str) -> str:
    """Returns the owner's name of what a device keeps."""
    return f"{DEVICE}.{identity}"


def by_owner(memory: Mapping[str, Tensor]) -> dict[str, State]:
    """Returns what is remembered as one state an owner, under the names that the owner gave it."""
    owners: dict[str, State] = {}
    for name, value in memory.items():
        words = 2 if name.startswith(f"{DEVICE}.") else 1
        *owner, own = name.split(".", words)
        owners.setdefault(".".join(owner), {})[own] = value
    return owners


def joined(owners: Mapping[str, Mapping[str, Tensor]]) -> State:
    """Returns the memory whose :func:`by_owner` is ``owners``, leaving out who remembers nothing."""
    return {f"{owner}.{name}": value for owner, state in owners.items() for name, value in state.items()}
