"""Hardware profiles: what a kind of device computes, holds, sends and draws.

A profile is a TOML file: the shipped ones lie in ``profiles/``, a user's own may lie anywhere. The
figures make *modelled* seconds and joules: they compare plans, they don't replace a measurement.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from privet.errors import PartError, nearest

Positive = Annotated[float, Field(gt=0)]
Watts = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Profile:
    """A kind of device.

    Attributes:
        name: what a plan calls it.
        title: what a report calls it.
        multiplications_per_second: multiplications a second; training one example takes three times
            the multiplications of its forward pass (one forward, two backward products).
        memory_bytes: memory, in bytes.
        link_bits_per_second: rate of its link, in bits a second, the same both ways.
        active_watts: power drawn while it computes.
        radio_watts: power drawn while it sends or receives.
        idle_watts: power drawn while it waits.
        source: which figures are published, and where, and which are assumptions.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    multiplications_per_second: Positive
    memory_bytes: Annotated[int, Field(gt=0)]
    link_bits_per_second: Positive
    active_watts: Watts
    radio_watts: Watts
    idle_watts: Watts
    source: str

    def compute_seconds(self, multiplications: float) -> float:
        """Returns the modelled seconds that so many multiplications take."""
        return multiplications / self.multiplications_per_second

    def transfer_seconds(self, count: float) -> float:
        """Returns the modelled seconds that ``count`` bytes take on its link, without latency or headers."""
        return 8 * count / self.link_bits_per_second

    def joules(self, compute_seconds: float, transfer_seconds: float, idle_seconds: float = 0.0) -> float:
        """Returns the modelled energy of so many seconds of computing, sending or receiving, and waiting."""
        return (
            self.active_watts * compute_seconds + self.radio_watts * transfer_seconds + self.idle_watts * idle_seconds
        )


_TABLE = TypeAdapter(Profile)
_FIELDS = tuple(Profile.__dataclass_fields__)


def _shipped() -> dict[str, Traversable]:
    folder = files("privet.fleet").joinpath("profiles")
    return {f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")}


def profile_names() -> tuple[str, ...]:
    """Returns the names of the shipped profiles, sorted."""
    return tuple(sorted(_shipped()))


def find_profile(name_or_path: str) -> Profile:
    """Returns a shipped profile by its name, or a user's by the path of its ``.toml`` file.

    Raises:
        PartError: no such profile or file, or the file is not a profile; the advice names the nearest.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise PartError(f"no profile file {path}", do="give the path of a TOML file or the name of a profile")
        return _read(path, str(path))
    shipped = _shipped()
    if name_or_path not in shipped:
        known = profile_names()
        raise PartError(
            f"no profile called {name_or_path!r}",
            allowed=", ".join(known) + ", or the path of your own .toml file",
            do=nearest(name_or_path, known),
        )
    return _read(shipped[name_or_path], name_or_path)


def _read(file: Traversable, where: str) -> Profile:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PartError(f"profile {where} can't be read as TOML ({error})", do="correct the file") from None
    try:
        return _TABLE.validate_python(table)
    except ValidationError as error:
        raise _advise(where, dict(error.errors()[0])) from None


def _advise(where: str, first: dict[str, Any]) -> PartError:
    key = ".".join(str(step) for step in first["loc"])
    if first["type"] == "missing":
        return PartError(
            f"profile {where}: {key!r} is missing", allowed=", ".join(_FIELDS), do=f"add a line {key} = ..."
        )
    if key not in _FIELDS:
        return PartError(f"profile {where}: unknown key {key!r}", allowed=", ".join(_FIELDS), do=nearest(key, _FIELDS))
    return PartError(f"profile {where}: {key}: {first['msg']}, not {first['input']!r}", do="correct the file")
