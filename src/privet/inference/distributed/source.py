"""The source of blinded inference: prepares masks when idle, then has helpers multiply, or does without them.

A request runs where the estimate says it is faster, layer by layer: from the speeds that helpers and this machine
measured, and the rate and round trip of the ways between them. ``where="helpers"`` has every linear layer
multiplied by helpers, ``where="here"`` none. Without a helper that answers, the source computes alone: that is always
possible, and private.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from privet.errors import InputError, PrivetError, RefusedError
from privet.inference.distributed.blinded import Blinded, Ready
from privet.inference.distributed.blinded_cost import Site, here
from privet.inference.distributed.fixed_point import FIELD, Ring
from privet.inference.distributed.masks import Masks
from privet.inference.distributed.messages import HEAD, LIMIT, unpacked
from privet.inference.distributed.multiplier import HELPER, PREPARER, speed
from privet.inference.distributed.networks import Network
from privet.inference.distributed.sharing import Sharing
from privet.inference.distributed.standings import Outcome
from privet.inference.questions import require_samples
from privet.transport.contract import Client, Peer

Where = Literal["auto", "helpers", "here"]
PROBE = 1 << 18
"""Bytes sent to measure a way."""
AT_ONCE = 4
"""Requests that run at a time; more wait."""
PROBES, SAFETY = 4, 10.0
"""How many images of noise tell how much rounding changes outputs; and how many times that counts as close."""
AHEAD = 1 << 28
"""The most bytes of products of masks that are kept ready."""


@dataclass(frozen=True)
class Answer:
    """What a request gave.

    Attributes:
        outputs: (batch, ...), float64.
        seconds: how long it took, masks prepared.
        preparing_s: how long masks took that were not ready.
        at_source: numbers of the linear layers that the source computed, by decision.
        layers: number of linear layers.
        outcome: what happened on the way.
    """

    outputs: Tensor
    seconds: float
    preparing_s: float
    at_source: tuple[int, ...]
    layers: int
    outcome: Outcome


class Source:
    """A source and its helpers.

    Args:
        network: with its weights.
        helpers: the ways to helpers, of the role ``helper``.
        folder: of the masks.
        preparers: the ways to those who work out products of masks, of the role ``preparer``; without them the source
            does. A preparer knows the masks: one that colludes with a helper sees everything.
        ring: what sums are modulo.
        where: who multiplies.

    Raises:
        InputError: a helper has another role, or somebody is both helper and preparer.
        RefusedError: the counter of the masks went back.
    """

    def __init__(
        self,
        network: Network,
        helpers: Mapping[Peer, Client],
        folder: Path,
        *,
        preparers: Mapping[Peer, Client] | None = None,
        ring: Ring = FIELD,
        where: Where = "auto",
    ) -> None:
        preparers = preparers or {}
        _refuse_roles(helpers, preparers)
        self.blinded, self.masks, self._where = Blinded(network, ring), Masks(folder), where
        self.met = Outcome()
        try:
            sites = {peer: site for peer, client in helpers.items() if (site := self._greet(peer, client))}
        except RefusedError:
            self.masks.close()
            raise
        speeds = {peer: site.speed for peer, site in sites.items()}
        self.sharing = Sharing(helpers, self.blinded.layers, ring, self.masks.name, speeds)
        self.preparing = Sharing(preparers, self.blinded.layers, ring, self.masks.name)
        self.at_source = self._decide(list(sites.values()))
        away = [number for number in range(len(self.blinded.layers)) if number not in self.at_source]
        if away:
            self.sharing.distribute(away, self.met)
            self.preparing.distribute(away, self.met)
        self.tolerance = self._rounding() if away else 0.0
        self._ready: list[Ready] = []
        self._guard, self._running = threading.Lock(), threading.Semaphore(AT_ONCE)

    @property
    def most(self) -> int:
        """The most images of one request."""
        shapes = [shape for each in self.blinded.layers for shape in (each.layer.inputs, each.layer.outputs)]
        return (LIMIT - HEAD) // (4 * max(math.prod(shape) for shape in shapes))

    def prepare(self, count: int) -> float:
        """Prepares masks for one batch of ``count`` images, when idle, and returns how many seconds that took.

        Raises:
            RefusedError: as much is ready as may be.
        """
        begin = time.perf_counter()
        size = 8 * count * sum(math.prod(layer.layer.outputs) for layer in self.blinded.layers)
        with self._guard:
            if size * (1 + len(self._ready)) > AHEAD and self._ready:
                raise RefusedError("enough masks are ready", allowed=f"{AHEAD} bytes")
        ready = self._prepared(count, Outcome())
        with self._guard:
            self._ready.append(ready)
        return time.perf_counter() - begin

    def infer(self, value: Tensor) -> Answer:
        """Returns the outputs for inputs (batch, ...); several threads may ask at a time.

        Raises:
            InputError: the inputs are of another shape, or not finite.
        """
        require_samples(value.shape, self.blinded.network.inputs, "inputs")
        if len(value) > self.most:
            raise InputError(f"{len(value)} images at a time", allowed=f"up to {self.most}, by the length of a message")
        if not bool(torch.isfinite(value).all()):
            raise InputError("the inputs hold NaN or infinity", allowed="finite numbers")
        with self._running:
            outcome = Outcome()
            layers, begin = len(self.blinded.layers), time.perf_counter()
            if len(self.at_source) == layers:
                outcome.said.append(self.why)
                outputs = self.blinded.network(value.float()).double()
                return Answer(outputs, time.perf_counter() - begin, 0.0, self.at_source, layers, outcome)
            ready = self._take(len(value))
            if ready is None:
                ready = self._prepared(len(value), outcome)
            prepared = time.perf_counter()

            def multiply(number: int, sealed: Tensor, first: int) -> Tensor:
                return self.sharing.multiply(number, sealed, first, outcome)

            outputs = self._decided(value, self.blinded.run(value, ready, self.masks, multiply), outcome)
            end = time.perf_counter()
            return Answer(outputs, end - prepared, prepared - begin, self.at_source, layers, outcome)

    def close(self) -> None:
        """Lets the masks and the threads go."""
        self.sharing.close()
        self.preparing.close()
        self.masks.close()

    def _decided(self, value: Tensor, outputs: Tensor, outcome: Outcome) -> Tensor:
        """Returns outputs whose winner is sure: where rounding could have chosen it, the source computes it anew."""
        if outputs.shape[1] < 2:
            return outputs
        best = outputs.topk(2, 1).values
        near = best[:, 0] - best[:, 1] <= self.tolerance * outputs.abs().amax(1)
        if bool(near.any()):
            outputs[near] = self.blinded.network(value[near].float()).double()
            outcome.close += int(near.sum())
            outcome.said.append(f"{int(near.sum())} images have two winners too close for whole numbers: decided here")
        return outputs

    def _rounding(self) -> float:
        """Returns how far apart two outputs must be, over the largest, not to be confused: measured on noise."""
        probe = torch.rand(PROBES, *self.blinded.network.inputs, generator=torch.Generator().manual_seed(0))
        alone = self.blinded.network(probe).double()
        error = (self.blinded.rounded(probe) - alone).abs().amax(1) / alone.abs().amax(1).clamp_min(1e-30)
        return SAFETY * float(error.max())

    def _take(self, count: int) -> Ready | None:
        with self._guard:
            for place, ready in enumerate(self._ready):
                if ready.count == count:
                    return self._ready.pop(place)
        return None

    def _prepared(self, count: int, outcome: Outcome) -> Ready:
        def multiply(number: int, mask: Tensor, first: int) -> Tensor:
            # Without a preparer that answers, sharing multiplies here: never at a helper.
            return self.preparing.multiply(number, mask, first, outcome)

        alone = not self.preparing.clients
        return self.blinded.prepare(self.masks, count, None if alone else multiply, self.at_source)

    def _greet(self, peer: Peer, client: Client) -> Site | None:
        try:
            begin = time.perf_counter()
            head, _ = unpacked(client.call("hello", b"", 2.0))
            trip = time.perf_counter() - begin
            begin = time.perf_counter()
            client.call("echo", bytes(PROBE), 10.0)
            rate = 8 * PROBE / max(time.perf_counter() - begin, 1e-6)
        except PrivetError as error:
            self.met.said.append(f"{peer} does not answer: {error}")
            return None
        keys, told = head.get("keys"), head.get("speed")
        seen = keys.get(self.masks.name, -1) if isinstance(keys, dict) else -1
        self.masks.refuse_older(seen if isinstance(seen, int) else -1, str(peer))
        fast = float(told) if isinstance(told, (int, float)) and 0 < told < 1e15 else 1e9
        return Site(fast, rate, trip)

    def _decide(self, sites: list[Site]) -> tuple[int, ...]:
        numbers = tuple(range(len(self.blinded.layers)))
        self.why = "every linear layer runs here, as asked"
        if self._where == "here":
            return numbers
        if self._where == "helpers":
            return ()
        self.why = "run locally: no helper answers" if not sites else "run locally: helpers would take longer"
        own = Site(speed(torch.float32), 1.0)
        return here(self.blinded.network, own, sites) if sites else numbers


def _refuse_roles(helpers: Mapping[Peer, Client], preparers: Mapping[Peer, Client]) -> None:
    for peers, role in ((helpers, HELPER), (preparers, PREPARER)):
        wrong = [str(peer) for peer in peers if peer.role != role]
        if wrong:
            raise InputError(f"{', '.join(wrong)} is no {role}", allowed=f"a certificate of the role {role}")
    both = {peer.name for peer in helpers} & {peer.name for peer in preparers}
    if both:
        raise InputError(
            f"{', '.join(sorted(both))} would see masks and what they hide",
            allowed="helpers and preparers that never meet",
        )
