"""What a device's surroundings are, and what its owner wants of them before it works."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from privet.errors import InputError
from privet.governance.consent import NotAllowedError

COPIES = 6
"""How often a model's bytes lie in memory while it trains: received, weights, gradients, momentum, update, answer."""

_POWER = Path("/sys/class/power_supply")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Limits:
    """What the owner wants before the device works.

    Attributes:
        memory_bytes: that work may take; a model needs :data:`COPIES` times its own bytes.
        battery: percent below which a device that is not charging rests; 0 never minds.
        metered: whether it works on a link that costs.
        link: ``ask`` the system whether the link costs, or the owner's word: ``free`` or ``metered``.
        window: local time of day in which it works, ``22:00-06:00``; "" for always.
    """

    memory_bytes: int = 2**31
    battery: int = 0
    metered: bool = True
    link: str = "ask"
    window: str = ""

    def __post_init__(self) -> None:
        if self.memory_bytes < 1 or not 0 <= self.battery <= 100 or self.link not in ("ask", "free", "metered"):
            raise InputError(
                f"limits of {self.memory_bytes} bytes, {self.battery} % battery, link {self.link!r}",
                allowed="1 byte or more, 0 to 100 %, and ask, free or metered",
            )
        if self.window and not _WINDOW.fullmatch(self.window):
            raise InputError(f"{self.window!r} is no window", allowed="HH:MM-HH:MM, for example 22:00-06:00")

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Limits:
        """Returns the limits in a table, such as :meth:`to_table` made; other keys are left alone."""
        return cls(**{one.name: table[one.name] for one in fields(cls) if one.name in table})

    def to_table(self) -> dict[str, Any]:
        """Returns the limits as a table."""
        return asdict(self)


@dataclass(frozen=True)
class Conditions:
    """What the surroundings are.

    Attributes:
        battery: percent; None without one.
        charging: whether power comes in.
        metered: whether the link costs; None when nobody knows.
        now: local time.
    """

    battery: float | None
    charging: bool
    metered: bool | None
    now: datetime


def look(limits: Limits, power: Path = _POWER) -> Conditions:
    """Returns what the surroundings are now."""
    battery, charging = _power(power)
    metered = {"free": False, "metered": True}.get(limits.link)
    if limits.link == "ask" and not limits.metered:
        metered = _metered()
    return Conditions(battery, charging, metered, datetime.now())


def mind(limits: Limits, here: Conditions, model_bytes: int) -> None:
    """Refuses work that the owner's limits don't allow here and now.

    Raises:
        NotAllowedError: ``model-size``, ``battery``, ``metered`` or ``window``.
    """
    if model_bytes * COPIES > limits.memory_bytes:
        raise NotAllowedError(
            "model-size",
            f"a model of {model_bytes} bytes is too large for this device",
            allowed=f"{limits.memory_bytes // COPIES} bytes",
        )
    if here.battery is not None and not here.charging and here.battery < limits.battery:
        raise NotAllowedError(
            "battery", f"the battery is at {here.battery:g} %", allowed=f"{limits.battery} % or mains"
        )
    if here.metered and not limits.metered:
        raise NotAllowedError("metered", "the link is metered", allowed="a link that costs nothing")
    if limits.window and not _within(limits.window, here.now):
        raise NotAllowedError("window", f"it is {here.now:%H:%M} here", allowed=limits.window)


def _within(window: str, now: datetime) -> bool:
    first, last = (int(one[:2]) * 60 + int(one[3:]) for one in window.split("-"))
    present = now.hour * 60 + now.minute
    return first <= present < last if first <= last else present >= first or present < last


def _power(folder: Path) -> tuple[float | None, bool]:
    """Returns the lowest battery in percent, None without one, and whether power comes in."""
    levels, charging = [], False
    for supply in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind, scope = _word(supply / "type"), _word(supply / "scope")
        if kind == "Battery" and scope != "Device":  # a mouse's battery is none of ours
            level = _word(supply / "capacity")
            levels += [float(level)] if level.isdecimal() else []
            charging |= _word(supply / "status") in ("Charging", "Full")
        charging |= kind in ("Mains", "USB") and _word(supply / "online") == "1"
    return (min(levels) if levels else None), charging


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _metered() -> bool | None:
    """Returns what NetworkManager knows; None when it is not there, or doesn't know."""
    program = shutil.which("nmcli")
    if program is None:
        return None
    asked = [program, "-t", "-f", "GENERAL.STATE,GENERAL.METERED", "device", "show"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _read_metered(told)


def _read_metered(told: str) -> bool | None:
    words = []
    for block in told.split("\n\n"):
        lines = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        if lines.get("GENERAL.STATE", "").startswith("100 "):
            words.append(lines.get("GENERAL.METERED", ""))
    if any(word.startswith("yes") for word in words):
        return True
    return False if words and all(word.startswith("no") for word in words) else None
