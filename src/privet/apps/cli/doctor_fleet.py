"""What ``privet doctor --fleet FOLDER`` looks at on a coordinator, and what to do about it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from privet.errors import PrivetError
from privet.governance.enrolment import Fleet
from privet.transport.certificates import expires

Finding = tuple[str, str, str]
_SOON = 10.0
_PORTS = {"enrolment port": 8440, "gate port": 8441, "SuperLink port": 8442, "edge port": 8443}
_FLOWER = "1.41."
_LINK = "superlink.json"


def checks(folder: Path) -> dict[str, Callable[[], Finding]]:
    """Returns what to look at, in order, by name."""
    try:
        fleet = Fleet(folder)
    except PrivetError as error:
        found: Finding = ("fail", error.wrong, error.do)
        return {"fleet": lambda: found}
    up = (folder / _LINK).is_file()
    return {
        "keys": partial(_keys, fleet),
        "authority": partial(_certificate, fleet.files[2], "make a new fleet, and let all devices join it"),
        "coordinator certificate": partial(_certificate, fleet.files[0], "make a new fleet"),
        "devices": partial(_devices, fleet),
        **({} if up else {name: partial(_port, port) for name, port in _PORTS.items()}),
        "flwr": _flwr,
        "SuperLink": partial(_superlink, folder),
    }


def _keys(fleet: Fleet) -> Finding:
    loose = [path.name for path in fleet.folder.glob("*.key") if path.stat().st_mode & 0o077]
    if loose:
        return "fail", f"others can read {', '.join(loose)}", f"run: chmod 600 {fleet.folder}/*.key"
    return "ok", "only their owner can read them", ""


def _certificate(path: Path, do: str) -> Finding:
    days = (expires(path.read_bytes()).timestamp() - time.time()) / 86_400
    found = f"{days:.0f} days left"
    if days <= 0:
        return "fail", "it has ended", do
    return ("ok", found, "") if days > _SOON else ("warn", found, do)


def _devices(fleet: Fleet) -> Finding:
    members = [member for member in fleet.registry.members() if member.trusted]
    soon = [one.name for one in members if one.expires - time.time() < _SOON * 86_400]
    found = f"{len(members)} enrolled, {fleet.registry.open_invitations()} open tokens"
    if soon:
        late = f"{found}; certificates of {', '.join(soon[:5])} end within {_SOON:.0f} days"
        return "warn", late, "see whether these agents run: they renew by themselves"
    return ("ok", found, "") if members else ("warn", found, f"run: privet fleet invite {fleet.folder}")


def _port(port: int) -> Finding:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            return "warn", f"{port} is taken ({error.strerror})", "end what holds it, or: privet up --port PORT"
    return "ok", f"{port} is free", ""


def _flwr() -> Finding:
    try:
        found = version("flwr")
    except PackageNotFoundError:
        return "fail", "not installed", "run: pip install 'privet[flower]'"
    return ("ok", found, "") if found.startswith(_FLOWER) else ("warn", found, f"Privet is tested with {_FLOWER}x")


def _superlink(folder: Path) -> Finding:
    try:
        address = str(json.loads((folder / _LINK).read_text(encoding="utf-8"))["address"])
    except FileNotFoundError:
        return "warn", "not up", f"run: privet up {folder}"
    except (ValueError, KeyError, TypeError, OSError):
        return "fail", f"{_LINK} is damaged", "stop and start privet up"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError):
        return (
            "fail",
            f"{address} does not answer",
            f"read {folder / 'flower' / 'superlink.log'}; start privet up again",
        )
    return "ok", f"{address} answers", ""
