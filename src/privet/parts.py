"""Parts: the replaceable pieces of a plan, found by folder and named by their file.

A part is one file in its family's folder, holding one frozen dataclass decorated with
:func:`part` whose name is the file's name in CamelCase: ``multi_krum.py`` holds ``MultiKrum``
and a plan calls it ``multi-krum``. Users add parts from their own packages through an entry
point in the group ``privet.<family>``, for example ``privet.mechanisms``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from privet.errors import PartError, PrivetError, nearest

FAMILIES: dict[str, str] = {
    "aggregators": "privet.aggregation",
    "attacks": "privet.attacks",
    "availabilities": "privet.fleet.availability",
    "behaviours": "privet.fleet.behaviours",
    "datasets": "privet.fleet.datasets",
    "imperfections": "privet.fleet.imperfections",
    "mechanisms": "privet.mechanisms",
    "models": "privet.models",
    "obfuscators": "privet.inference.obfuscators",
    "partitions": "privet.fleet.partitions",
    "planners": "privet.inference.distributed.planners",
    "protocols": "privet.training.protocols",
}
"""Family name -> the folder (package) that holds its parts."""

Grade = Literal["derived", "measured", "experimental"]
"""How a part's promise is known: derived (proved), measured (figures in docs), experimental."""

T = TypeVar("T")


class Part:
    """What every part carries besides its fields.

    Attributes:
        grade: how its promise is known.
    """

    grade: ClassVar[Grade] = "experimental"


@dataclass_transform(frozen_default=True)
def part(cls: type[T]) -> type[T]:
    """Makes a class a part: a frozen dataclass whose fields are checked when it is built.

    Raises:
        PartError: (when the part is built) a field is unknown, of a wrong type or out of range.
    """
    made = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))(cls)
    checked = made.__init__

    @functools.wraps(checked)
    def build(self: Any, *args: Any, **fields: Any) -> None:
        try:
            checked(self, *args, **fields)
        except ValidationError as error:
            raise _advise(made, error) from None

    made.__init__ = build  # type: ignore[method-assign]
    made.__is_part__ = True  # type: ignore[attr-defined]
    return cast(type[T], made)


def _advise(cls: type, error: ValidationError) -> PartError:
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    # A misspelt field is also a missing one; its own line helps more.
    first = min(error.errors(), key=lambda problem: problem["type"] not in unknown)
    names = [f.name for f in dataclasses.fields(cls)]
    place, *below = first["loc"] or ("",)
    if isinstance(place, int) and place < len(names):  # given by position
        place = names[place]
    field = ".".join(str(step) for step in (place, *below))
    if first["type"] in unknown:
        return PartError(
            f"{name_of(cls)}: unknown field {field!r}",
            allowed=", ".join(names) or "no fields",
            do=nearest(field, names),
        )
    if first["type"] == "missing":
        return PartError(f"{name_of(cls)}.{field} is missing", do=f"give {name_of(cls)} its {field}")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, PrivetError):  # a part in a field, or a check of the part's own: it advises already
        where = f"{name_of(cls)}.{field}: " if field else ""
        return PartError(where + cause.wrong, allowed=cause.allowed, do=cause.do)
    return PartError(f"{name_of(cls)}.{field}: {first['msg']}, not {first.get('input')!r}")


def name_of(part_or_class: object) -> str:
    """Returns the name a plan uses for a part: its file's name with hyphens."""
    cls = part_or_class if isinstance(part_or_class, type) else type(part_or_class)
    named = getattr(cls, "__part_name__", None)
    return named or cls.__module__.rsplit(".", 1)[-1].replace("_", "-")


def _folder(family: str) -> str:
    if family not in FAMILIES:
        raise PartError(
            f"no family of parts called {family!r}", allowed=", ".join(FAMILIES), do=nearest(family, list(FAMILIES))
        )
    return FAMILIES[family]


@functools.cache
def names(family: str) -> tuple[str, ...]:
    """Returns the names of all parts of a family, shipped and found by entry point, sorted.

    Raises:
        PartError: no such family.
    """
    package = importlib.import_module(_folder(family))
    shipped = {
        info.name.replace("_", "-")
        for info in pkgutil.iter_modules(package.__path__)
        if not info.ispkg and _class_in(f"{package.__name__}.{info.name}") is not None
    }
    return tuple(sorted(shipped | {e.name for e in entry_points(group=f"privet.{family}")}))


def _class_in(module_name: str) -> type | None:
    wanted = "".join(word.capitalize() for word in module_name.rsplit(".", 1)[-1].split("_"))
    found = getattr(importlib.import_module(module_name), wanted, None)
    return found if getattr(found, "__is_part__", False) else None


@functools.cache
def find(family: str, name: str) -> type[Any]:
    """Returns the class of a part.

    Raises:
        PartError: no such family or part; the advice names the nearest one.
    """
    folder = _folder(family)
    if not isinstance(name, str):  # a plan or a setting may hold anything
        raise PartError(f"no {family} part called {name!r}", allowed="a name")
    if name.replace("-", "_").isidentifier():
        try:
            cls = _class_in(f"{folder}.{name.replace('-', '_')}")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(folder):
                raise
            cls = None
        if cls is not None:
            return cls
    for entry in entry_points(group=f"privet.{family}", name=name):
        cls = cast(type[Any], entry.load())
        if not getattr(cls, "__is_part__", False):
            raise PartError(
                f"entry point {name!r} of privet.{family} is not a part", do="decorate it with @privet.part"
            )
        cls.__part_name__ = name
        return cls
    known = names(family)
    raise PartError(f"no {family} part called {name!r}", allowed=", ".join(known), do=nearest(name, known))


def build(family: str, table: Mapping[str, Any]) -> Any:
    """Builds a part from its plan table, ``{"name": ..., field: value, ...}``.

    Raises:
        PartError: the table lacks a name, or names an unknown part or field.
    """
    if "name" not in table:
        raise PartError(f"a part of {family} needs a name", allowed=", ".join(names(family)))
    fields = {key: value for key, value in table.items() if key != "name"}
    return find(family, table["name"])(**fields)


def to_table(instance: object) -> dict[str, Any]:
    """Returns the plan table that :func:`build` makes the same part from; a part in a field becomes a table too."""
    fields = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}  # type: ignore[arg-type]
    plain = {k: to_table(v) if getattr(type(v), "__is_part__", False) else v for k, v in fields.items()}
    return {"name": name_of(instance)} | {k: v for k, v in plain.items() if v is not None}


def meaning(cls: type) -> str:
    """Returns a part's one-line meaning: the first line of its docstring."""
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]
