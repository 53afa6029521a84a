"""What comes back from a device, read: nothing in it is trusted, and what can't be read is missing, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Message as Mail
from torch import tensor

from privet.engines.channel import Traffic
from privet.engines.contract import Reply
from privet.engines.flower.wire import from_records
from privet.engines.packing import unpack_all
from privet.errors import PrivetError

ROUND = "round"
"""What stands at the coordinator for a device's memory, which never leaves it: of which round it is."""

VECTORS = 4
"""Vectors of the model's size that an update holds at most, when it is unpacked."""

PARTIES = ("coordinator", "edge-server")
"""Who may stand at the other end of a device's traffic."""


def size_of(mail: Mail) -> int:
    """Returns the bytes of the letter in a mail; 0 if there is none."""
    try:
        found = from_records(mail.content)
    except (PrivetError, ValueError):
        return 0
    return len(found.head) + len(found.tensors)


def _traffic(entry: Mapping[str, Any], identity: str, round: int) -> Traffic:
    """Returns what a device says that it sent or received; what it says of other devices is refused."""
    ends = str(entry["sender"]), str(entry["receiver"])
    if any(end not in (identity, *PARTIES) for end in ends):
        raise ValueError("traffic of somebody else")
    return Traffic(*ends, str(entry["kind"])[:64], round, abs(int(entry["messages"])), abs(int(entry["bytes"])))


def read_reply(identity: str, mail: Mail, round: int, values: int) -> Reply:
    """Returns the reply in a device's mail; what can't be read is missing, with the reason.

    Args:
        identity: of the device in the run.
        mail: what came.
        round: that it was asked for.
        values: in the model.
    """
    if mail.has_error():
        return Reply(identity, round, missing=f"no answer: {mail.error.reason or mail.error.code}"[:300])
    try:
        found = from_records(mail.content)
        head = found.fields()
        if head.get("device") != identity:
            return Reply(identity, round, missing="malformed: it answers for another device")
        if missing := str(head["missing"])[:300]:
            return Reply(identity, round, missing=missing, refusal=str(head.get("refused", ""))[:40])
        packed, seen = found.states("tensors", "seen")
        return Reply(
            identity,
            int(head["round"]),
            tensors=unpack_all(packed, VECTORS * values),
            seen=seen,
            fields={str(name): float(value) for name, value in head["fields"].items()},
            traffic=[_traffic(entry, identity, round) for entry in head["traffic"]],
            base=str(head["base"]),
            kept={ROUND: tensor(round)} if head["kept"] else {},
        )
    except (PrivetError, KeyError, ValueError, TypeError, AttributeError) as error:
        return Reply(identity, round, missing=f"malformed: {error}"[:300])
