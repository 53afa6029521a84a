"""A helper: multiplies for sources, and holds their weights by address.

Methods of its service, for peers of the role ``source``:

``hello``
    how fast it is, and the highest mask number that it has seen of each of the source's keys.
``lacks``, ``put``
    which weights it has not got; one piece of weights.
``multiply``
    some rows of whole weights times a batch of words (blinded mode).
``segment``
    a piece of the published, unblinded mode: :mod:`privet.inference.distributed.segments`.
``echo``
    nothing, for measuring the way.

The answer to a call is its acknowledgement, and the only one that counts: it names the mask and the layer that it is
for.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from privet.errors import InputError, UnreachableError
from privet.inference.distributed.contents import Contents
from privet.inference.distributed.fixed_point import RINGS, Kernel
from privet.inference.distributed.messages import HEAD, LIMIT, field, packed, unpacked
from privet.inference.distributed.seen import Seen
from privet.inference.distributed.segments import computed, piece_of
from privet.transport.contract import Peer, Service
from privet.transport.grpc import Server
from privet.transport.identity import Identity

SOURCE, HELPER, PREPARER = "source", "helper", "preparer"
"""Roles in certificates. Only a preparer is asked for the products of masks, and it is asked for nothing else."""
WORKING = 1 << 30
"""Bytes that answers in the making may take together; more is turned away as busy."""
CALLS = 16
"""Calls that a helper answers at a time."""
_KEYS = 1024


class Helper:
    """One helper.

    Args:
        folder: where weights and the numbers that it saw are kept; made when absent.
        memory: the most bytes of weights in memory.
        party: what its record is called; "" keeps none.
    """

    def __init__(self, folder: Path, memory: int = 1 << 30, party: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.contents = Contents(folder / "weights", memory)
        self.seen = Seen(party) if party else None
        self._numbers = folder / "numbers.json"
        self._highest = self._remembered()
        self._guard, self._working = threading.Lock(), 0
        self._speed = speed(torch.float64)
        self.service: Service = {
            "hello": self._hello,
            "echo": lambda peer, body: b"",
            "lacks": self._lacks,
            "put": self._put,
            "multiply": self._multiply,
            "segment": self._segment,
        }

    def product(self, kernel: Kernel, values: Tensor) -> Tensor:
        """Returns the product of whole weights and centred values, both int64."""
        return kernel(values)

    def _remembered(self) -> dict[str, int]:
        if not self._numbers.exists():
            return {}
        try:
            known = json.loads(self._numbers.read_text())
            return {str(name): int(number) for name, number in known.items()}
        except (ValueError, AttributeError, TypeError):
            raise InputError(f"{self._numbers} is damaged", do="remove it; the numbers it saw are lost") from None

    def _hello(self, peer: Peer, body: bytes) -> bytes:
        own = f"{peer} "
        with self._guard:
            keys = {name.removeprefix(own): number for name, number in self._highest.items() if name.startswith(own)}
        return packed({"keys": keys, "speed": self._speed})

    def _lacks(self, peer: Peer, body: bytes) -> bytes:
        asked = field(unpacked(body)[0], "addresses", list)
        return packed({"addresses": [each for each in asked if self.contents.lacks(str(each))]})

    def _put(self, peer: Peer, body: bytes) -> bytes:
        end = 4 + min(int.from_bytes(body[:4], "little"), HEAD)
        head, _ = unpacked(body[:end])
        address, offset, total = field(head, "address", str), field(head, "offset", int), field(head, "total", int)
        return packed({"whole": self.contents.put(address, offset, total, body[end:])})

    def _multiply(self, peer: Peer, body: bytes) -> bytes:
        head, arrays = unpacked(body)
        if self.contents.lacks(address := field(head, "address", str)):
            return packed({"missing": address})
        if len(arrays) != 1 or head.get("ring") not in RINGS or not arrays[0].numel():
            raise InputError("this is no batch to multiply", allowed=f"one array, a ring of {', '.join(RINGS)}")
        ring, values = RINGS[head["ring"]], arrays[0]
        if values.is_floating_point() or int(values.max()) >= ring.modulus:
            raise InputError("the values are not of the ring")
        kernel = self.contents.kernel(address)
        first, last = field(head, "first", int), field(head, "last", int)
        if not 0 <= first < last <= len(kernel):
            raise InputError(f"rows {first} to {last}", allowed=f"0 to {len(kernel)}")
        refuse_shape(kernel, values)
        number, layer = field(head, "number", int), field(head, "layer", int)
        self._note(f"{peer} {field(head, 'key', str)[:64]}", number + len(values) - 1)
        if self.seen is not None:
            self.seen.add(f"layer{layer}.masked", number, values)
        with self._room(16 * len(body)):
            product = ring.reduced(self.product(kernel.rows(first, last), ring.centred(values)))
        return packed({"number": number, "layer": layer}, product)

    def _segment(self, peer: Peer, body: bytes) -> bytes:
        head, arrays = unpacked(body)
        address = head.get("address") or ""
        if address and self.contents.lacks(str(address)):
            return packed({"missing": address})
        piece = piece_of(head, arrays, self.contents.kernel(str(address)).weight if address else None)
        if self.seen is not None:
            number, name = field(head, "number", int), field(head, "layer", str)
            self.seen.add(f"{name}.received", number, arrays[0])
            maps = torch.tensor(piece.maps, dtype=torch.int64)
            self.seen.add(f"{name}.maps", number, maps.repeat(len(arrays[0]), 1))
        with self._room(16 * len(body)):
            return packed({}, computed(piece, *arrays))

    def _note(self, key: str, number: int) -> None:
        with self._guard:
            if number <= self._highest.get(key, -1):
                return
            if key not in self._highest and len(self._highest) >= _KEYS:
                self._highest.pop(next(iter(self._highest)))
            self._highest[key] = number
            # Replaced whole but not synced: a witness may lose its latest numbers in a power cut, never a source.
            part = self._numbers.with_suffix(".part")
            part.write_text(json.dumps(self._highest))
            os.replace(part, self._numbers)

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        with self._guard:
            if self._working + count > WORKING:
                raise UnreachableError("this helper is busy", do="ask another")
            self._working += count
        try:
            yield
        finally:
            with self._guard:
                self._working -= count


def refuse_shape(kernel: Kernel, values: Tensor) -> None:
    """Refuses a batch that some weights can't be multiplied with.

    Raises:
        InputError: its shape does not fit.
    """
    shape, window = values.shape[1:], kernel.weight.shape[1:]
    fits = len(shape) == len(window) and shape[0] == window[0]
    if len(window) == 3:
        fits = fits and all(
            side + 2 * pad >= step for side, pad, step in zip(shape[1:], kernel.padding, window[1:], strict=True)
        )
    if not fits:
        raise InputError(f"a batch of shape {tuple(values.shape)} does not fit these weights")


def speed(kind: torch.dtype) -> float:
    """Returns how many multiplications a second this process does in a convolution of middle size."""
    values, weight = torch.ones(1, 64, 16, 16, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.conv2d(values, weight, padding=1)
        best = min(best, time.perf_counter() - start)
    return values[0].numel() * 64 * 9 / best


def serve(helper: Helper, identity: Identity, address: str) -> Server:
    """Returns a server that lets sources of the same authority ask a helper, and nobody else.

    Args:
        helper: who answers.
        identity: who it is; a helper or a preparer.
        address: ``host:port``; port 0 takes a free one.

    Raises:
        InputError: the certificate has another role, or the address can't be listened at.
    """
    if identity.peer.role not in (HELPER, PREPARER):
        raise InputError(f"{identity.peer} is no helper", allowed=f"a certificate of the role {HELPER} or {PREPARER}")
    return Server(address, identity, helper.service, admit=lambda peer: peer.role == SOURCE, limit=LIMIT, calls=CALLS)
