"""What ``privet doctor --agent FOLDER`` looks at on a device, and what to do about it."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from privet import __version__
from privet.apps.agent.identity import Identity, hello, load
from privet.apps.agent.rows import read_rows
from privet.apps.agent.run import status
from privet.apps.agent.state import State
from privet.errors import PrivetError
from privet.governance.consent import Books

Finding = tuple[str, str, str]
"""``ok``, ``warn`` or ``fail``; what was found; what to do."""

_ROOM = 500_000_000


def checks(folder: Path) -> dict[str, Callable[[], Finding]]:
    """Returns what to look at, in order, by name."""
    looks: dict[str, Callable[[Identity], Finding]] = {
        "certificate": _certificate,
        "gate": _gate,
        "rows": _rows,
        "consent": _consent,
        "log": _log,
        "room": _room,
        "agent": _agent,
    }
    try:
        identity = load(folder)
    except PrivetError as error:
        return {"device": partial(_failed, error)}
    told: dict[str, Callable[[], Finding]] = {name: partial(_as_is, one) for name, one in _coordinator(identity)}
    return told | {name: partial(_careful, look, identity) for name, look in looks.items()}


def _as_is(finding: Finding) -> Finding:
    return finding


def _failed(error: PrivetError) -> Finding:
    return "fail", error.wrong, error.do


def _careful(look: Callable[[Identity], Finding], identity: Identity) -> Finding:
    try:
        return look(identity)
    except PrivetError as error:
        return _failed(error)


def _certificate(identity: Identity) -> Finding:
    days = identity.days_left()
    found = f"{identity.name}, {days:.0f} days left"
    if days <= 0:
        return "fail", f"{identity.name}: it has ended", "ask for a token and join again from a new folder"
    return ("warn", found, "run: privet agent renew") if identity.due() else ("ok", found, "")


def _coordinator(identity: Identity) -> Iterator[tuple[str, Finding]]:
    where = "{}:{}".format(*identity.coordinator)
    before = time.time()
    try:
        told = hello(identity)
    except PrivetError as error:
        yield "coordinator", _failed(error)
        return
    middle = (before + time.time()) / 2
    yield "coordinator", ("ok", f"{where} lets this device in", "")
    skew = middle - float(told["time"])
    found = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the coordinator's"
    late = "set it, for example with systemd-timesyncd; certificates allow 10 minutes"
    yield "clock", ("ok", found, "") if abs(skew) < 60 else ("warn" if abs(skew) < 600 else "fail", found, late)
    same = told["version"] == __version__
    found = f"{__version__} here, {told['version']} at the coordinator"
    yield "version", ("ok" if same else "warn", found, "" if same else "install the same version on both sides")


def _gate(identity: Identity) -> Finding:
    host, port = identity.coordinator
    try:
        socket.create_connection((host, port + 1), timeout=5).close()
    except OSError as error:
        return "fail", f"{host}:{port + 1} can't be reached ({error})", "open that port, or run privet up there"
    return "ok", f"{host}:{port + 1} can be reached", ""


def _rows(identity: Identity) -> Finding:
    told = State(identity.folder).settings().get("data")
    if not told:
        return "fail", "none", "run: privet agent settings --data FILE"
    inputs, _ = read_rows(Path(told["path"]), told.get("target"))
    return "ok", f"{len(inputs)} of shape {inputs.shape[1:]}", ""


def _consent(identity: Identity) -> Finding:
    held = [one.purpose for one in Books(identity.folder, identity.name).consents().values() if not one.revoked]
    if not held:
        return "warn", "nothing is allowed, so all work is refused", "run: privet agent consent grant PURPOSE"
    return "ok", ", ".join(held), ""


def _log(identity: Identity) -> Finding:
    return "ok", f"{len(Books(identity.folder, identity.name).verify())} records verify", ""


def _room(identity: Identity) -> Finding:
    free = shutil.disk_usage(identity.folder).free
    found = f"{free / 1e9:.1f} GB free at {identity.folder}"
    return ("ok", found, "") if free >= _ROOM else ("warn", found, "make room: models and answers are kept there")


def _agent(identity: Identity) -> Finding:
    told = status(identity.folder)
    found = f"{told['state']}, {told['restarts']} restarts" + f"; {told['error']}" * bool(told["error"])
    if told["state"] == "working":
        return "ok", found, ""
    return "warn", found, "run: privet agent run, or systemctl start privet-agent"
