"""The published mode on running helpers: plan, send weights, relay maps between helpers, plan anew when one is lost.

Nothing is blinded here. It is for measuring what helpers see; :mod:`privet.inference.distributed.source` is for use.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from privet.errors import InputError, PrivetError
from privet.fleet.profile import Profile, find_profile
from privet.inference.distributed.contents import PIECE, address_of, float_content
from privet.inference.distributed.fleets import fleet_of
from privet.inference.distributed.messages import packed, unpacked
from privet.inference.distributed.networks import Conv2d, Flatten, Layer, Linear, Network
from privet.inference.distributed.planners.contract import Planner
from privet.inference.distributed.plans import Plan, Rejection
from privet.inference.distributed.segments import Piece, run
from privet.inference.distributed.workload import Workload
from privet.inference.questions import require_samples
from privet.transport.contract import Client, Peer

TIMEOUT = 10.0


@dataclass(frozen=True)
class Planned:
    """What a request in the published mode gave.

    Attributes:
        outputs: (batch, ...).
        seconds: how long it took.
        plan: the plan that was run; None when the source ran everything.
        said: one line for each event.
    """

    outputs: Tensor
    seconds: float
    plan: Plan | None
    said: list[str] = field(default_factory=list)


class Relay:
    """A source that runs plans on helpers.

    Args:
        network: with its weights.
        load: what is asked for: the network at a tolerance.
        helpers: the ways to helpers, in the order in which plans number them.
        planner: who plans.
        profiles: the profile of each helper; a Raspberry Pi 3 where there is none.
        faster_only: whether the source runs everything itself when that is at least as fast.
    """

    def __init__(
        self,
        network: Network,
        load: Workload,
        helpers: Mapping[Peer, Client],
        planner: Planner,
        profiles: Mapping[Peer, Profile] | None = None,
        faster_only: bool = False,
    ) -> None:
        self.network, self.load, self.planner, self.faster_only = network, load, planner, faster_only
        self.helpers, self.profiles = dict(helpers), dict(profiles or {})
        self.layers: list[Layer] = [layer for layer in network.layers if not isinstance(layer, Flatten)]
        self.contents = {
            index: float_content(layer)
            for index, layer in enumerate(self.layers)
            if isinstance(layer, (Conv2d, Linear))
        }
        self.addresses = {index: address_of(content) for index, content in self.contents.items()}
        self._number = 0

    def infer(self, value: Tensor) -> Planned:
        """Returns the outputs for inputs (batch, ...); a helper that fails is left out and the rest planned anew."""
        require_samples(value.shape, self.network.inputs, "inputs")
        begin, said = time.perf_counter(), list[str]()
        number, self._number = self._number, self._number + len(value)
        while True:
            live = list(self.helpers)
            answer = self._planned(live)
            if isinstance(answer, str):
                said.append(f"run locally: {answer}")
                return Planned(self.network(value), time.perf_counter() - begin, None, said)
            lost: list[Peer] = []

            def ask(
                device: int,
                index: int,
                piece: Piece,
                arriving: Tensor,
                bias: Tensor,
                live: list[Peer] = live,
                lost: list[Peer] = lost,
            ) -> Tensor:
                try:
                    return self._ask(live[device], index, piece, arriving, bias, number)
                except PrivetError:
                    lost.append(live[device])
                    raise

            try:
                outputs = run(self.network, answer, value, ask)
            except PrivetError as error:
                if not lost:
                    raise
                said.append(f"{lost[0]} failed and is left out: {error}")
                del self.helpers[lost[0]]
                continue
            return Planned(outputs, time.perf_counter() - begin, answer, said)

    def _planned(self, live: list[Peer]) -> Plan | str:
        if not live:
            return "no helper answers"
        usual = find_profile("raspberry-pi-3")
        fleet = fleet_of([self.profiles.get(peer, usual) for peer in live])
        answer = self.planner(self.load, fleet.fresh())
        if isinstance(answer, Rejection):
            return answer.reason
        if self.faster_only and answer.run_locally:
            return f"{answer.local_s:.3g} s alone, {answer.latency_shared_s:.3g} s by the plan"
        return answer

    def _ask(self, peer: Peer, index: int, piece: Piece, arriving: Tensor, bias: Tensor, number: int) -> Tensor:
        head = piece.head() | {"layer": self.layers[index].name, "number": number}
        if index in self.addresses:
            head["address"] = self.addresses[index]
        body = packed(head, arriving.float(), bias.float())
        said, arrays = unpacked(self.helpers[peer].call("segment", body, TIMEOUT))
        if "missing" in said:
            self._give(peer, index)
            said, arrays = unpacked(self.helpers[peer].call("segment", body, TIMEOUT))
        if len(arrays) != 1 or len(arrays[0]) != len(arriving):
            raise InputError(f"{peer} answers in another shape")
        return arrays[0]

    def _give(self, peer: Peer, index: int) -> None:
        content = self.contents[index]
        for offset in range(0, len(content), PIECE):
            head = packed({"address": self.addresses[index], "offset": offset, "total": len(content)})
            self.helpers[peer].call("put", head + content[offset : offset + PIECE], TIMEOUT)
