"""Who is there to compute, and what each of them has left in this period."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privet.errors import InputError
from privet.fleet.profile import Profile, find_profile

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

PERIOD = 10.0
"""Seconds of a period; the document does not give it."""
PAPER_ORDER = ("raspberry-pi-3", "lg-nexus-5", "stm32h7")
LARGEST = 100_000


@dataclass(frozen=True, eq=False)
class Fleet:
    """Helpers and one source, which sits after the last helper.

    Attributes:
        name: what reports call it.
        speed: multiplications a second of each device, the source last.
        rate: bits a second of each device's link.
        multiplications: what each device may compute in a period: speed times period.
        bits: what each device may send in a period: rate times period.
        memory: bytes of weights that each device may hold in a period.
        kind: number of each device's kind; devices of one kind are alike.
        slower: helpers from the fastest to the slowest; ties in order.
    """

    name: str
    speed: Floats
    rate: Floats
    multiplications: Floats
    bits: Floats
    memory: Floats
    kind: Indices
    slower: Indices

    @property
    def helpers(self) -> int:
        """Number of helpers, which is the index of the source."""
        return len(self.speed) - 1

    def fresh(self) -> Remaining:
        """Returns what everybody has at the beginning of a period."""
        return Remaining(self, self.multiplications.copy(), self.bits.copy(), self.memory.copy(), b"")


@dataclass(frozen=True, eq=False)
class Usage:
    """What a request takes from some devices.

    Attributes:
        devices: who, in rising order.
        multiplications: how much each of them computes.
        bits: how much each of them sends.
        memory: bytes of weights that each of them holds.
    """

    devices: Indices
    multiplications: Floats
    bits: Floats
    memory: Floats

    def digest(self) -> bytes:
        """Returns a digest of who gives what."""
        columns = (self.devices, self.multiplications, self.bits, self.memory)
        return hashlib.blake2b(b"".join(column.tobytes() for column in columns), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Remaining:
    """What every device of a fleet has left in this period; never changed, only followed by another.

    Attributes:
        fleet: whose.
        multiplications: left to compute.
        bits: left to send.
        memory: bytes left.
        version: names what was taken so far; the same takings in the same order give the same version.
    """

    fleet: Fleet
    multiplications: Floats
    bits: Floats
    memory: Floats
    version: bytes

    def without(self, usage: Usage) -> Remaining:
        """Returns what is left when somebody takes ``usage``."""
        columns = {name: getattr(self, name).copy() for name in ("multiplications", "bits", "memory")}
        for name, column in columns.items():
            column[usage.devices] -= getattr(usage, name)
        version = hashlib.blake2b(self.version + usage.digest(), digest_size=16).digest()
        return Remaining(self.fleet, **columns, version=version)


def fleet_of(
    helpers: Sequence[Profile], source: Profile | None = None, period: float = PERIOD, name: str = "fleet"
) -> Fleet:
    """Returns a fleet of devices of the given profiles.

    Args:
        helpers: the profile of each helper.
        source: the source's profile; a Raspberry Pi 3 by default, which all cameras of the document are.
        period: seconds of a period.
        name: what reports call it.

    Raises:
        InputError: there is no helper, or the period is not above 0.
    """
    if not helpers:
        raise InputError("a fleet needs at least one helper")
    if not period > 0:
        raise InputError(f"the period is {period}", allowed="seconds above 0")
    profiles = [*helpers, source or find_profile("raspberry-pi-3")]
    known = {profile: number for number, profile in enumerate(dict.fromkeys(profiles))}
    kind = np.array([known[profile] for profile in profiles], dtype=np.intp)

    def column(field: str) -> Floats:
        return np.array([getattr(profile, field) for profile in known], dtype=np.float64)[kind]

    speed, rate = column("multiplications_per_second"), column("link_bits_per_second")
    return Fleet(
        name=name,
        speed=speed,
        rate=rate,
        multiplications=speed * period,
        bits=rate * period,
        memory=column("memory_bytes"),
        kind=kind,
        slower=np.argsort(-speed[:-1], kind="stable"),
    )


def named_fleet(name: str) -> Fleet:
    """Returns a fleet by its name.

    ``paper:N`` is N helpers in the repeating order RPi3, LG Nexus 5, STM32H7; ``mix:PROFILE=N,PROFILE=N,...`` so many
    of each profile, in that order; the source is an RPi3 each time.

    Raises:
        InputError: it is neither, or too large.
    """
    allowed = f"paper:N or mix:PROFILE=N,PROFILE=N,... with 1 to {LARGEST} devices"
    if found := re.fullmatch(r"paper:([0-9]{1,9})", name):
        profiles = [find_profile(PAPER_ORDER[place]) for place in range(3)]
        _refuse_size(int(found[1]), allowed)
        return fleet_of([profiles[place % 3] for place in range(int(found[1]))], name=name)
    if found := re.fullmatch(r"mix:(.+=[0-9]{1,9})", name):
        pairs = [pair.rpartition("=")[::2] for pair in found[1].split(",")]
        if all(profile and count.isascii() and count.isdigit() for profile, count in pairs):
            _refuse_size(sum(int(count) for _, count in pairs), allowed)
            return fleet_of([found for p, count in pairs for found in [find_profile(p)] * int(count)], name=name)
    raise InputError(f"no fleet called {name!r}", allowed=allowed)


def _refuse_size(size: int, allowed: str) -> None:
    if not 1 <= size <= LARGEST:
        raise InputError(f"a fleet of {size} devices", allowed=allowed)
