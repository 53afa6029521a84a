"""The agent's life: works for the coordinator, renews its certificate, goes on after what goes wrong."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privet.apps.agent.identity import Identity, load, renew
from privet.errors import PrivetError, RefusedError
from privet.transport.held_file import held

Serve = Callable[[Identity, threading.Event, Callable[[], None]], None]
"""Works until the event is set, or something goes wrong; calls the function once the coordinator has let it in."""

CHECK = 3600.0
"""Seconds between two looks at the certificate."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds between two starts of the work after it went wrong: doubled each time."""

STATUS = "status.json"


class Agent:
    """One device at work.

    Args:
        folder: of the device.
        serve: how it works for its coordinator.
        check: seconds between two looks at the certificate.
        first_wait: seconds to wait after the first thing that goes wrong.

    Raises:
        InputError: the device has not joined.
    """

    def __init__(self, folder: Path, serve: Serve, check: float = CHECK, first_wait: float = FIRST_WAIT) -> None:
        self.folder, self._serve, self._check, self._first = folder, serve, check, first_wait
        self.identity = load(folder)
        self._told: dict[str, Any] = {"pid": os.getpid(), "restarts": 0, "error": ""}
        self._out: RefusedError | None = None
        self._pause, self._lock = threading.Event(), threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Works until it is told to stop.

        Raises:
            RefusedError: another agent works in this folder, or the coordinator lets the device in no more.
        """
        with alone(self.folder, patience=1.0):  # `status` holds it too, for a moment
            keeper = threading.Thread(target=self._keep_certificate, args=(stop,), name="certificate", daemon=True)
            keeper.start()
            try:
                self._work(stop)
            finally:
                stop.set()
                keeper.join(timeout=5)
                self.tell("ended")
        if self._out is not None:
            raise self._out

    def _work(self, stop: threading.Event) -> None:
        wait = self._first
        while True:
            self._pause = pause = threading.Event()
            if stop.is_set():  # looked at after the pause is there, which the keeper sets once more at its end
                return
            self.tell("connecting")
            began = time.monotonic()
            try:
                self._serve(self.identity, pause, lambda: self.tell("working", error=""))
            except RefusedError:
                raise
            except Exception as error:  # whatever went wrong in one piece of work must not end the device
                self.tell("waiting", restarts=self._told["restarts"] + 1, error=_line(error))
                wait = self._first if time.monotonic() - began > LONGEST_WAIT else wait
                stop.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads the fleet, guards nothing
                wait = min(2 * wait, LONGEST_WAIT)

    def _keep_certificate(self, stop: threading.Event) -> None:
        """Renews in time, and pauses the work so that it goes on with the new certificate.

        Who is refused ends the agent; whatever else goes wrong is tried again at the next look.
        """
        while not stop.is_set():
            try:
                if self.identity.due():
                    renew(self.identity)
                    self._pause.set()
            except RefusedError as refusal:
                self._out = refusal
                stop.set()
            except Exception as error:  # a thread that ended would let the certificate end
                self.tell(self._told.get("state", "connecting"), error=_line(error))
            stop.wait(self._check)
        self._pause.set()

    def tell(self, state: str, **facts: Any) -> None:
        """Keeps the agent's health for :func:`status`."""
        with self._lock:
            self._told |= {"state": state, "at": time.time()} | facts
            part = self.folder / f"{STATUS}.part"
            part.write_text(json.dumps(self._told), encoding="utf-8")
            part.replace(self.folder / STATUS)


def status(folder: Path) -> dict[str, Any]:
    """Returns the health that the agent told last; its state is ``stopped`` when none is at work."""
    try:
        told = dict(json.loads((folder / STATUS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        told = {"restarts": 0, "error": ""}
    try:
        with alone(folder):
            return told | {"state": "stopped", "pid": None}
    except RefusedError:
        return told


@contextmanager
def alone(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Keeps other agents out of a device's folder; the lock ends with the process, however that ends.

    Args:
        folder: of the device.
        patience: seconds for which to try again.

    Raises:
        RefusedError: an agent is at work there.
    """
    with held(folder / "agent.lock", RefusedError(f"an agent is at work in {folder}", do="end it first"), patience):
        yield


def flower(gate: int | None = None) -> Serve:
    """Returns how a device works over Flower.

    Args:
        gate: port of the coordinator's gate; the one after enrolment's when None.
    """

    def serve(identity: Identity, stop: threading.Event, joined: Callable[[], None]) -> None:
        from privet.apps.agent.device import OwnDevice
        from privet.apps.agent.edge import way_to_edge
        from privet.engines.flower.environment import prepare_flower
        from privet.governance.enrolment import COORDINATOR
        from privet.study.remote import Worker
        from privet.transport.certificates import host_of

        prepare_flower(identity.folder / "flower")
        from privet.engines.flower.node import Coordinator
        from privet.engines.flower.node import serve as work

        side = OwnDevice(identity)
        host, port = identity.coordinator
        certificate, key, authority = identity.files
        place = f"{host}:{gate or port + 1}"
        coordinator = Coordinator(place, host_of(COORDINATOR), authority, certificate, key)
        side.rows()  # before anything is promised to anybody
        work(coordinator, Worker(side, edge=way_to_edge(identity)).answer, stop, joined=joined)

    return serve


def _line(error: Exception) -> str:
    said = error.advice() if isinstance(error, PrivetError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:500]
