"""A field of the plan that holds a part: a TOML table in, a built part out, a table again in the stored plan."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from privet import parts
from privet.errors import PartError, PlanError
from privet.study.problems import KeyBelowError, refuse_unknown, shown

_ATTRIBUTES = re.compile(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", re.MULTILINE)

LONGEST_NAME = 64
"""Characters above which a name is not looked up, so that no error repeats it at length."""


@dataclasses.dataclass(frozen=True)
class PartOf:
    """Annotates a field that holds one part of a family.

    The field takes a table ``{name = "...", field = value, ...}`` or, in code, a built part.

    Attributes:
        family: a name in :data:`privet.parts.FAMILIES`.
    """

    family: str

    def build(self, value: Any) -> Any:
        """Returns the part that a table describes; a built part is returned as it is.

        Raises:
            KeyBelowError: there is no such part, or a field is unknown.
            ValidationError: a field is of a wrong type or out of range.
        """
        if getattr(type(value), "__is_part__", False):
            return value
        if not isinstance(value, Mapping):
            known = parts.names(self.family)
            example = value if value in known else known[0]
            raise PlanError(f"{shown(value)} is refused", allowed=f'a table such as {{name = "{example}"}}')
        name = value.get("name")
        if self.family == "models" and isinstance(name, str) and ":" in name:
            value = {**value, "name": "imported", "function": name}
        cls = self.find(value.get("name"))
        given = {str(key): field for key, field in value.items() if key != "name"}
        refuse_unknown(given, [field.name for field in dataclasses.fields(cls) if field.init])
        return TypeAdapter(cls).validate_json(json.dumps(given, default=str), strict=True)

    def find(self, name: object) -> type[Any]:
        """Returns the class of the part that a table names.

        Raises:
            KeyBelowError: the name is missing or unknown.
        """
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            wrong = "missing" if name is None else f"{shown(name)} is refused"
            raise KeyBelowError("name", PlanError(wrong, allowed=", ".join(parts.names(self.family))))
        try:
            return parts.find(self.family, name)
        except PartError as error:
            raise KeyBelowError("name", error) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Returns how pydantic reads and writes the field."""
        return core_schema.no_info_plain_validator_function(
            self.build, serialization=core_schema.plain_serializer_function_ser_schema(parts.to_table)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Returns the JSON Schema: one alternative a part."""
        return {"oneOf": [part_schema(self.family, name) for name in parts.names(self.family)]}


def part_schema(family: str, name: str) -> dict[str, Any]:
    """Returns the JSON Schema of a part's table, its fields described by the docstring of its class."""
    cls = parts.find(family, name)
    schema = TypeAdapter(cls).json_schema()
    meanings = field_meanings(cls)
    fields = {key: {**field, "description": meanings.get(key, "")} for key, field in schema["properties"].items()}
    required = [key for key in schema.get("required", []) if key != "batch_size"]
    if (family, name) == ("mechanisms", "laplace"):
        fields["epsilon_per_coordinate"] = {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "in place of the scale: the scale becomes the sensitivity of one coordinate over this.",
        }
        required = [key for key in required if key != "scale"]
    return {
        **schema,
        "title": name,
        "description": parts.meaning(cls),
        "properties": {"name": {"const": name, "description": parts.meaning(cls)}, **fields},
        "required": ["name", *required],
    }


def field_meanings(cls: type) -> dict[str, str]:
    """Returns what the docstrings of a class and its bases say of each field under ``Attributes:``."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = _ATTRIBUTES.search(inspect.cleandoc(base.__doc__ or ""))
        for named, text in _ENTRY.findall(section[1] if section else ""):
            meanings |= {name.strip(): " ".join(text.split()) for name in named.split(",")}
    return meanings
