"""How work and answers look on Flower's wire: JSON that is signed, and tensors as safetensors; no code, no pickle.

Flower cuts the tensors into chunks named by their content, so that a broken transfer goes on where it broke and the
global model is stored once for all devices of a round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from privet.errors import RunError
from privet.tensors import State, from_bytes, to_bytes

LONGEST_HEAD = 1_000_000
"""Bytes of JSON above which nothing is parsed."""


@dataclass(frozen=True)
class Letter:
    """What crosses in one direction.

    Attributes:
        head: canonical JSON: names and fields, and ``tensors``, the sha256 of the tensors' bytes.
        tensors: safetensors bytes.
        signature: of the head; empty on what devices send, whose connection names them.
    """

    head: bytes
    tensors: bytes
    signature: bytes = b""

    def fields(self) -> dict[str, Any]:
        """Returns the head's table.

        Raises:
            RunError: it is no JSON table, or the tensors are not those that it names.
        """
        if len(self.head) > LONGEST_HEAD:
            raise RunError(f"a head of {len(self.head)} bytes", allowed=f"{LONGEST_HEAD}")
        try:
            table = json.loads(self.head)
        except (ValueError, RecursionError):
            raise RunError("the head is no JSON") from None
        if not isinstance(table, dict):
            raise RunError("the head is no table")
        if table.get("tensors") != hashlib.sha256(self.tensors).hexdigest():
            raise RunError("the tensors are not those that the head names")
        return table

    def states(self, *names: str) -> list[State]:
        """Returns the states that :func:`letter` was given, by name.

        Raises:
            RunError: the bytes are not safetensors, or hold something else.
        """
        found: dict[str, State] = {name: {} for name in names}
        for path, value in from_bytes(self.tensors).items():
            owner, _, name = path.partition("/")
            if owner not in found:
                raise RunError(f"unknown tensors: {owner[:64]}")
            found[owner][name] = value
        return list(found.values())


def letter(fields: Mapping[str, Any], **states: Mapping[str, Tensor]) -> Letter:
    """Returns the unsigned letter that carries fields and states."""
    tensors = to_bytes({f"{owner}/{name}": value for owner, state in states.items() for name, value in state.items()})
    return Letter(head_of(fields, tensors), tensors)


def head_of(fields: Mapping[str, Any], tensors: bytes) -> bytes:
    """Returns the head for fields and the tensors' bytes, as canonical JSON."""
    table = {**fields, "tensors": hashlib.sha256(tensors).hexdigest()}
    return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def to_records(letter: Letter) -> RecordDict:
    """Returns a letter as Flower's records."""
    array = Array(dtype="uint8", shape=(len(letter.tensors),), stype="safetensors", data=letter.tensors)
    config = ConfigRecord({"head": letter.head, "signature": letter.signature})
    return RecordDict({"privet": config, "tensors": ArrayRecord({"tensors": array})})


def from_records(records: RecordDict) -> Letter:
    """Returns the letter in Flower's records.

    Raises:
        RunError: something is missing or of a wrong type.
    """
    try:
        config, arrays = records.config_records["privet"], records.array_records["tensors"]
        head, signature, tensors = config["head"], config["signature"], arrays["tensors"].data
    except (KeyError, AttributeError) as error:
        raise RunError(f"malformed: no {error}") from None
    if not (isinstance(head, bytes) and isinstance(signature, bytes) and isinstance(tensors, bytes)):
        raise RunError("malformed: a field of a wrong type")
    return Letter(head, tensors, signature)
