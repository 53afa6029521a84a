"""The plan: one TOML file that says what to do, checked before anything is computed or written."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import PrivateAttr, ValidationError, ValidationInfo, field_validator

from privet.aggregation.contract import Aggregator
from privet.attacks.contract import Attack
from privet.errors import PlanError, RunError
from privet.fleet.availability.contract import Availability
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.data import Dataset
from privet.fleet.partitions.contract import Partition
from privet.mechanisms.chain import Chain
from privet.models import Model
from privet.study import settings
from privet.study.calibration import calibrated
from privet.study.checks import check
from privet.study.problems import KeyBelowError, one_line
from privet.study.sections import Contents
from privet.training.contract import Protocol

LARGEST_FILE = 1_000_000
"""Bytes above which a file is no plan."""


class Plan(Contents):
    """What to do: data, fleet, model, training, protection, attacks and evidence.

    A plan is resolved when it is built: whatever a mechanism leaves to the rest of the plan is a number
    afterwards, in :meth:`to_toml` too. In code a field takes a table or a built part.

    >>> plan = Plan(
    ...     name="tiny",
    ...     data={"name": "digits"},
    ...     fleet={"devices": 3},
    ...     model={"name": "mlp"},
    ...     training={"name": "fedavg", "rounds": 2},
    ... )
    >>> plan.with_settings(["training.rounds=5"]).training.rounds
    5

    Raises:
        PlanError: one line naming the key, what is allowed and what to do.
    """

    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **table: Any) -> None:
        try:
            super().__init__(**table)
        except ValidationError as error:
            raise one_line(error) from None
        self._written = settings.copied(table)
        check(self)

    @field_validator("mechanisms", mode="before")
    @classmethod
    def _calibrate(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping) or not {"training", "privacy"} <= info.data.keys():
            return value
        out = dict(value)
        for side in ("on_device", "on_server"):
            if isinstance(out.get(side), list | tuple):
                try:
                    out[side] = calibrated(out[side], info.data["training"].batch_size, info.data["privacy"].relation)
                except KeyBelowError as problem:
                    raise KeyBelowError(f"{side}.{problem.below}", problem.error) from None
        return out

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Reads a plan from a TOML file.

        Raises:
            PlanError: the file can't be read, is no TOML, or is no plan.
        """
        return cls.from_table(read_toml(Path(path)))

    @classmethod
    def of_run(cls, folder: Path, digest: str) -> Plan:
        """Reads the resolved plan of a run, as its folder keeps it.

        Args:
            folder: of the run.
            digest: that the run recorded. It covers what is written, so that keys which came later don't count.

        Raises:
            RunError: the file is not the plan that was run.
            PlanError: as :meth:`load`.
        """
        table = read_toml(folder / "plan.toml")
        if digest_of(table) != digest:
            raise RunError(f"{folder}: plan.toml is not the plan that was run", do="restore it")
        return cls.from_table(table)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Plan:
        """Returns the plan that a table (parsed TOML) describes.

        Raises:
            PlanError: one line naming the key.
        """
        return cls(**{str(key): value for key, value in table.items()})

    def with_settings(self, assignments: Iterable[str]) -> Plan:
        """Returns this plan, as it was written, with ``KEY=VALUE`` settings applied and resolved afresh.

        See :func:`privet.study.settings.apply`; setting a part's ``name`` starts that part afresh.

        Raises:
            PlanError: a setting is malformed, or the plan is wrong with it.
        """
        return self.from_table(settings.apply(self._written, assignments))

    def to_table(self) -> dict[str, Any]:
        """Returns the resolved plan as a table; what is not set is left out."""
        return cast(dict[str, Any], _plain(self.model_dump(exclude_none=True)))

    def to_toml(self) -> str:
        """Returns the resolved plan as TOML; :meth:`load` makes an equal plan from it."""
        return tomli_w.dumps(self.to_table())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """The sha256 of the resolved plan as canonical JSON (sorted keys, no spaces)."""
        return digest_of(self.to_table())

    @property
    def dataset(self) -> Dataset:
        """Where the rows come from."""
        return self.data

    @property
    def partition(self) -> Partition:
        """Which rows lie on which device."""
        return self.fleet.partition

    @property
    def availability(self) -> Availability:
        """When devices answer."""
        return self.fleet.availability

    @property
    def hostile(self) -> list[tuple[int, Behaviour]]:
        """How many devices misbehave, and how."""
        return [(group.devices, group.behaviour) for group in self.fleet.hostile]

    @property
    def model_part(self) -> Model:
        """What is trained."""
        return self.model

    @property
    def protocol(self) -> Protocol:
        """How the fleet trains."""
        return self.training

    @property
    def on_device(self) -> Chain:
        """What a message passes before it leaves a device."""
        return Chain(self.mechanisms.on_device)

    @property
    def on_server(self) -> Chain:
        """What the combined update passes."""
        return Chain(self.mechanisms.on_server)

    @property
    def aggregator(self) -> Aggregator:
        """How updates are combined."""
        return self.aggregation

    @property
    def attack_parts(self) -> tuple[Attack, ...]:
        """The attacks on the run."""
        return self.attacks


def digest_of(table: Mapping[str, Any]) -> str:
    """Returns the sha256 of a resolved plan's table as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the table in a TOML file.

    Raises:
        PlanError: the file is missing, a folder, too large, not UTF-8 or not TOML.
    """
    if path.is_dir():
        raise PlanError(f"{path} is a folder", do="give the path of a plan, a TOML file")
    if not path.is_file():
        raise PlanError(f"{path}: no such file", do="give the path of a plan, a TOML file")
    if path.stat().st_size > LARGEST_FILE:
        raise PlanError(f"{path} is too large for a plan", allowed=f"{LARGEST_FILE} bytes")
    try:
        return tomllib.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: byte {error.start} is not UTF-8", do="save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not TOML: {error}", do="see https://toml.io") from None
    except RecursionError:
        raise PlanError(f"{path}: nested too deeply for a plan") from None
    except OSError as error:
        raise PlanError(f"{path} can't be read: {error.strerror}") from None


def _plain(value: Any) -> Any:
    """Returns a value with lists for tuples, as TOML has it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)
