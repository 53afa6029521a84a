"""One product, shared out over helpers: late ones are hedged, lost ones replaced, liars found and never asked again.

Each helper gets rows in proportion to how fast it has been. Whose answer is late has its rows asked of another as well,
and the first answer counts; whose call fails is left alone for a while; where nobody is left, the source multiplies.
The whole answer is checked at once; only when that fails is each part checked, which names the liar, and its rows
are asked anew. So a failure costs at most one layer again. Products are exact: whoever computes a row, it is the same.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from privet.errors import InputError, PrivetError, UnreachableError
from privet.inference.distributed.contents import PIECE, address_of, whole_content
from privet.inference.distributed.fixed_point import FixedLayer, Ring
from privet.inference.distributed.freivalds import check_of
from privet.inference.distributed.messages import field, packed, unpacked
from privet.inference.distributed.standings import OUTSTANDING, Outcome, Part, Standings
from privet.transport.contract import Client, Peer

PATIENCE, LEAST_PATIENCE = 0.4, 0.1
"""Seconds until a late answer is hedged: at first, besides three times what its work should take; and at least, where
it is three times what a layer usually takes."""
TIMEOUT = 10.0


class Sharing:
    """Helpers of one source, for the linear layers of one network.

    Args:
        clients: the ways to them.
        layers: linear layers in whole numbers.
        ring: what sums are modulo.
        key: names the key of the masks.
        speeds: multiplications a second of each helper, where known.
    """

    def __init__(
        self,
        clients: Mapping[Peer, Client],
        layers: Sequence[FixedLayer],
        ring: Ring,
        key: str,
        speeds: Mapping[Peer, float] | None = None,
    ) -> None:
        self.clients, self.layers, self.ring, self._key = dict(clients), tuple(layers), ring, key
        self.standings = Standings(self.clients, speeds or {})
        self._giving = {peer: threading.Lock() for peer in self.clients}
        self._checks = [check_of(layer.kernel, ring) for layer in self.layers]
        self._addresses = [address_of(whole_content(layer.kernel)) for layer in self.layers]
        self._usual: dict[tuple[int, int], float] = {}
        self._pool = ThreadPoolExecutor(max(1, OUTSTANDING * len(self.clients)), thread_name_prefix="privet-share")

    @property
    def liars(self) -> list[Peer]:
        """Who was caught lying; nobody asks them again."""
        return self.standings.liars

    def distribute(self, numbers: Sequence[int], outcome: Outcome | None = None) -> None:
        """Sends every live helper the weights that it has not got; who fails is left alone for a while."""
        outcome = outcome or Outcome()
        addresses = [self._addresses[number] for number in numbers]

        def give(peer: Peer) -> None:
            try:
                head, _ = unpacked(self.clients[peer].call("lacks", packed({"addresses": addresses}), TIMEOUT))
                lacking = field(head, "addresses", list)
                for number in numbers:
                    if self._addresses[number] in lacking:
                        self._give(peer, number)
            except PrivetError as error:
                self.failed(peer, error, outcome)

        list(self._pool.map(give, self.standings.live()))

    def multiply(self, number: int, sealed: Tensor, first: int, outcome: Outcome) -> Tensor:
        """Returns the checked product of a layer and a batch in the ring.

        Args:
            number: of the layer.
            sealed: (batch, ...) in the ring.
            first: number of the first image's mask.
            outcome: what happens is added to it.
        """
        kernel = self.layers[number].kernel
        answer = torch.empty((len(sealed), *self.layers[number].layer.outputs), dtype=torch.int64)
        task = _Asking(self, number, sealed, first, answer, outcome)
        parts = self.standings.split(len(kernel))
        while parts:
            task.gather(parts)
            if self._checks[number].holds(sealed, answer):
                return answer
            parts = [each for each in task.parts if not self._honest(number, each, sealed, answer, outcome)]
        raise UnreachableError("a product stays wrong", do="check this machine's memory")

    def _honest(self, number: int, part: Part, sealed: Tensor, answer: Tensor, outcome: Outcome) -> bool:
        rows = self.layers[number].kernel.rows(part.first, part.last)
        if part.by is None or check_of(rows, self.ring).holds(sealed, answer[:, part.first : part.last]):
            return True
        self.standings.lied(part.by)
        outcome.redone += 1
        outcome.said.append(f"{part.by} gave a wrong answer in layer {number} and is asked no more")
        return False

    def start(
        self, peer: Peer, number: int, part: Part, sealed: Tensor, first: int, outcome: Outcome
    ) -> Future[tuple[Tensor, float]]:
        """Asks a helper for a part."""
        self.standings.asked(peer)
        body = self._body(number, part, sealed, first)
        outcome.bytes += len(body)
        return self._pool.submit(self._ask, peer, number, part, body, first, len(sealed))

    def _ask(self, peer: Peer, number: int, part: Part, body: bytes, first: int, batch: int) -> tuple[Tensor, float]:
        try:
            begin = time.monotonic()
            head, arrays = unpacked(self.clients[peer].call("multiply", body, TIMEOUT))
            if "missing" in head:
                self._give(peer, number)
                begin = time.monotonic()
                head, arrays = unpacked(self.clients[peer].call("multiply", body, TIMEOUT))
            shape = (batch, part.last - part.first, *self.layers[number].layer.outputs[1:])
            if (head.get("number"), head.get("layer")) != (first, number) or len(arrays) != 1:
                raise InputError(f"{peer} answers something else")
            if arrays[0].shape != shape or arrays[0].is_floating_point():
                raise InputError(f"{peer} answers in another shape")
            if int(arrays[0].max()) >= self.ring.modulus:
                raise InputError(f"{peer} answers with values that are not of the ring")
            return arrays[0], time.monotonic() - begin
        finally:
            self.standings.ended(peer)

    def _give(self, peer: Peer, number: int) -> None:
        content, address = whole_content(self.layers[number].kernel), self._addresses[number]
        with self._giving[peer]:  # two requests may find out at a time that it has not got them
            for offset in range(0, len(content), PIECE):
                head = packed({"address": address, "offset": offset, "total": len(content)})
                reply, _ = unpacked(self.clients[peer].call("put", head + content[offset : offset + PIECE], TIMEOUT))
                if reply.get("whole"):
                    return

    def _body(self, number: int, part: Part, sealed: Tensor, first: int) -> bytes:
        head = {
            "address": self._addresses[number],
            "ring": self.ring.name,
            "first": part.first,
            "last": part.last,
            "number": first,
            "layer": number,
            "key": self._key,
        }
        return packed(head, sealed)

    def failed(self, peer: Peer, error: PrivetError, outcome: Outcome) -> None:
        """Leaves a helper alone for a while, and says so."""
        self.standings.failed(peer)
        outcome.said.append(f"{peer} failed and is left alone for a while: {error}")

    def patience(self, number: int, batch: int) -> float:
        """Returns after how many seconds an answer is late."""
        usual = self._usual.get((number, batch))
        if usual is not None:
            return max(LEAST_PATIENCE, 3 * usual)
        together = self.standings.pace()
        return PATIENCE + 3 * batch * self.work(number) / together if together else PATIENCE

    def work(self, number: int) -> int:
        """Returns the multiplications of a layer for one image."""
        layer = self.layers[number]
        return layer.kernel.weight[0].numel() * math.prod(layer.layer.outputs)

    def took(self, number: int, batch: int, seconds: float) -> None:
        """Notes how long a part of a layer took."""
        before = self._usual.get((number, batch), seconds)
        self._usual[number, batch] = before + 0.2 * (seconds - before)

    def close(self) -> None:
        """Ends; the ways stay open."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Asking:
    """One layer of one request on its way."""

    def __init__(
        self, sharing: Sharing, number: int, sealed: Tensor, first: int, answer: Tensor, outcome: Outcome
    ) -> None:
        self.sharing, self.number, self.sealed, self.first = sharing, number, sealed, first
        self.answer, self.outcome = answer, outcome
        self.parts: list[Part] = []
        self.calls: dict[Future[tuple[Tensor, float]], tuple[Part, Peer]] = {}

    def gather(self, parts: list[Part]) -> None:
        """Has parts answered that are not."""
        for part in parts:
            if part in self.parts:  # it was answered, wrongly
                part.answered = False
                self._start(part, self.sharing.standings.another(part))
            else:
                self.parts.append(part)
                self._start(part, part.asked[0] if part.asked else None)
        patience = self.sharing.patience(self.number, len(self.sealed))
        due = time.monotonic() + patience
        while waiting := [part for part in parts if not part.answered]:
            done, _ = wait(self.calls, max(0.0, due - time.monotonic()), FIRST_COMPLETED)
            for call in done:
                self._take(call)
            if not done:
                for part in waiting:
                    self._hedge(part)
                due = time.monotonic() + 2 * patience

    def _take(self, call: Future[tuple[Tensor, float]]) -> None:
        part, peer = self.calls.pop(call)
        try:
            rows, seconds = call.result()
        except PrivetError as error:
            self.sharing.failed(peer, error, self.outcome)
            if not part.answered and all(each is not part for each, _ in self.calls.values()):
                self.outcome.redone += 1
                self._start(part, self.sharing.standings.another(part))
            return
        work = self.sharing.layers[self.number].kernel.weight[0].numel() * rows.numel()
        self.sharing.standings.met(peer, work, seconds)
        self.outcome.bytes += 4 * rows.numel()
        if not part.answered:
            self.sharing.took(self.number, len(self.sealed), seconds)
            self._fill(part, rows, peer)

    def _fill(self, part: Part, rows: Tensor, by: Peer | None) -> None:
        self.answer[:, part.first : part.last] = rows
        part.by, part.answered = by, True

    def _hedge(self, part: Part) -> None:
        self.outcome.hedged += 1
        self.sharing.standings.late(part.asked[-1])
        self.outcome.said.append(f"{part.asked[-1]} is late in layer {self.number}, so another is asked as well")
        self._start(part, self.sharing.standings.another(part))

    def _start(self, part: Part, peer: Peer | None) -> None:
        if peer is None:
            self._here(part)
            return
        if peer not in part.asked:
            part.asked.append(peer)
        call = self.sharing.start(peer, self.number, part, self.sealed, self.first, self.outcome)
        self.calls[call] = (part, peer)

    def _here(self, part: Part) -> None:
        ring, kernel = self.sharing.ring, self.sharing.layers[self.number].kernel
        self._fill(part, ring.reduced(kernel.rows(part.first, part.last)(ring.centred(self.sealed))), None)
        self.outcome.here += 1
        self.outcome.said.append(
            f"no other helper is left for rows {part.first} to {part.last} of layer {self.number}: multiplied here"
        )
