"""A run across machines: which enrolled devices take part, and the engine that reaches them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.engines import Work
from privet.errors import InputError, RefusedError, UnreachableError
from privet.governance.enrolment import Fleet
from privet.governance.work import sign_work
from privet.study.experiment import Experiment
from privet.study.work import work_of
from privet.training import LocalStep

if TYPE_CHECKING:
    from privet.engines.flower.engine import Flower
    from privet.engines.flower.link import Link

LINK = "superlink.json"
"""The file in a fleet's folder that says where its coordinator's SuperLink is, while it is up."""

EDGE = "edge.json"
"""The file in a fleet's folder that says at which port its edge server is, while it is up."""

LOOK = 0.5
"""Seconds between two looks whether devices have joined."""


def told_of_edge(fleet: Path) -> dict[str, int]:
    """Returns port and process of a fleet's edge server; nothing while none is up."""
    try:
        return dict(json.loads((fleet / EDGE).read_text()))
    except FileNotFoundError:  # looked for before it is read, it could end in between
        return {}


@dataclass(frozen=True)
class Across:
    """How a run reaches devices on other machines.

    Attributes:
        fleet: folder of the fleet, whose coordinator is up on this machine.
        label: ``key=value`` that a device must bear to take part; any device when empty.
        nodes: devices that must have joined before the run begins; all of the plan's when None.
        patience: seconds to wait for them.
        enough: replies after which a round waits for no more; None for all.
    """

    fleet: Path = Path("fleet")
    label: str = ""
    nodes: int | None = None
    patience: float = 60.0
    enough: int | None = None

    def devices(self, identities: Sequence[str]) -> dict[str, str]:
        """Returns which enrolled device plays which device of the plan.

        Devices of the plan's own names play themselves; otherwise names are taken in sorted order.

        Raises:
            UnreachableError: fewer devices are enrolled than the plan asks for.
        """
        names = [
            member.name
            for member in Fleet(self.fleet).registry.members()
            if member.trusted and _bears(member.labels, self.label)
        ]
        if set(identities) <= set(names):
            return {identity: identity for identity in identities}
        if len(names) < len(identities):
            raise UnreachableError(
                f"{len(names)} devices are enrolled" + f" with {self.label}" * bool(self.label),
                allowed=f"{len(identities)}, fleet.devices",
                do="invite more, or set fleet.devices",
            )
        return dict(zip(identities, names, strict=False))

    def ready(self, experiment: Experiment) -> dict[str, str]:
        """Waits until enough devices have joined, and returns which plays which device of the plan.

        Raises:
            UnreachableError: the coordinator is not up, or too few devices are enrolled, or joined in time.
            PlanError: devices elsewhere can't do what the plan asks for.
            InputError: ``enough`` is set for training without rounds.
            MissingExtraError: flwr is not installed.
        """
        work_of(experiment, "")
        if self.enough is not None and experiment.task.protocol.asynchronous:
            raise InputError("--enough: nobody waits for others in this training", do="leave it out")
        link, until = self._link(), time.monotonic() + self.patience
        while True:
            try:
                playing = self.devices([device.identity for device in experiment.devices])
                break
            except UnreachableError:  # they may be enrolling just now
                if time.monotonic() >= until:
                    raise
            time.sleep(LOOK)
        _joined(link, playing, self.nodes or len(playing), until - time.monotonic())
        return playing

    def _edge(self) -> int:
        """Returns the port of the edge server; 0 while none is up."""
        return told_of_edge(self.fleet).get("port", 0)

    def _link(self) -> Link:
        from privet.engines.flower.environment import prepare_flower

        prepare_flower(self.fleet / "flower")
        from privet.engines.flower.link import Link

        return Link.load(self.fleet / LINK)

    @contextmanager
    def engine(self, experiment: Experiment, release: str, playing: Mapping[str, str]) -> Iterator[Flower]:
        """Yields the engine of a run, once enough devices have joined.

        Args:
            experiment: of the run; its own engine does what stays at home.
            release: names the run towards devices.
            playing: which enrolled device plays which device of the plan.

        Raises:
            UnreachableError: the coordinator is not up, or too few devices joined in time.
        """
        link, table, secret = self._link(), work_of(experiment, release), Fleet(self.fleet).work_secret
        from privet.engines.flower.engine import Flower

        numbers = _joined(link, playing, self.nodes or len(playing), self.patience)

        def describe(work: Work) -> Mapping[str, Any] | None:
            return table if isinstance(work, LocalStep) and work.task is experiment.task else None

        def activated() -> Mapping[str, str]:
            came = {node.name: node.activated for node in link.nodes()}
            return {identity: came.get(name, "") for identity, name in playing.items()}

        with link.grid() as grid:
            yield Flower(
                grid=grid,
                numbers=numbers,
                describe=describe,
                sign=lambda head: sign_work(secret, head),
                home=experiment.coordinator.engine,
                deadline=experiment.coordinator.deadline,
                enough=self.enough,
                edge=self._edge(),
                activated=activated,
            )


def _bears(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    if wanted and not equals:
        raise InputError(f"label {wanted!r} is none", allowed="KEY=VALUE")
    return not wanted or labels.get(key) == value


def _joined(link: Link, playing: Mapping[str, str], needed: int, patience: float) -> dict[str, int]:
    """Returns Flower's number of each device of the plan, once so many of them are online.

    Raises:
        UnreachableError: they did not join in time.
        RefusedError: more are asked for than the plan has.
    """
    if not 1 <= needed <= len(playing):
        raise RefusedError(f"a run of {len(playing)} devices can't wait for {needed}")
    until = time.monotonic() + patience
    while True:
        nodes = {node.name: node for node in link.nodes()}
        there = [identity for identity, name in playing.items() if name in nodes and nodes[name].online]
        if len(there) >= needed:
            return {identity: nodes[name].number for identity, name in playing.items() if name in nodes}
        if time.monotonic() >= until:
            gone = sorted(set(playing) - set(there))
            raise UnreachableError(
                f"{len(there)} of {needed} devices joined within {patience:g} s; missing: {', '.join(gone[:5])}",
                do="start them (privet agent run), wait longer (--patience), or begin with fewer (--nodes)",
            )
        time.sleep(LOOK)
