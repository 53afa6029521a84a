"""What a key of the plan means, and the plan's JSON Schema, which is where the meanings are read from."""

from __future__ import annotations

import json
from typing import Any

from privet.errors import PlanError, nearest
from privet.study.plan import Plan

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Returns the JSON Schema of a plan: every section, and one alternative for every part."""
    schema = Plan.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Privet plan"}


def explain(key: str) -> dict[str, Any]:
    """Explains a dotted key of the plan, a section, or the whole plan ("").

    Returns:
        ``key``, ``meaning``, ``type`` and ``default`` (None where there is none); ``keys``, a list of the same
        for what lies below it; ``parts``, a list of ``name``, ``meaning``, ``type``, ``default``: the parts
        that may stand there, or those that have such a field.

    Raises:
        PlanError: a plan has no such key; the advice names the nearest one.
    """
    root = json_schema()
    found = [("", root, False)]
    walked: list[str] = []
    for step in [step for step in key.split(".") if step and not step.isdecimal()]:
        below = [
            (owner, field, step in alternative.get("required", []))
            for _, schema, _ in found
            for owner, alternative in _alternatives(schema, root)
            for name, field in alternative.get("properties", {}).items()
            if name == step
        ]
        if not below:
            raise _unknown(walked, step, found, root)
        found = below
        walked.append(step)
    return _explanation(".".join(walked), found, root)


def _explanation(key: str, found: list[tuple[str, Schema, bool]], root: Schema) -> dict[str, Any]:
    owners = [_entry(owner, field, root) for owner, field, _ in found if owner]
    if owners:
        meaning = "which part stands here" if key.endswith(".name") else "a field of these parts"
        return {"key": key, "meaning": meaning, "type": "", "default": None, "keys": [], "parts": owners}
    _, field, _ = found[0]
    shape = _alternatives(field, root)
    parts = [{"name": owner, "meaning": schema.get("description", "")} for owner, schema in shape if owner]
    keys = [_entry(name, below, root) for owner, schema in shape if not owner for name, below in _keys(schema)]
    return {**_entry(key, field, root, name="key"), "keys": keys, "parts": parts}


def _entry(label: str, field: Schema, root: Schema, *, name: str = "name") -> dict[str, Any]:
    meaning = field.get("description") or _followed(field, root).get("description", "")
    default = None if isinstance(field.get("default"), dict) else field.get("default")
    return {name: label, "meaning": meaning, "type": _type(field, root), "default": default}


def _keys(schema: Schema) -> list[tuple[str, Schema]]:
    return list(schema.get("properties", {}).items())


def _alternatives(schema: Schema, root: Schema) -> list[tuple[str, Schema]]:
    """Returns the tables that may stand at a place, each with the name of its part ("" for a section)."""
    schema = _followed(schema, root)
    if schema.get("type") == "array":
        return _alternatives(schema.get("items", {}), root)
    if "oneOf" in schema:
        return [(part["title"], part) for part in schema["oneOf"]]
    return [("", schema)]


def _followed(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema


def _type(field: Schema, root: Schema) -> str:
    field = _followed(field, root)
    if "anyOf" in field:
        kinds = [_type(kind, root) for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join(kinds) + ("" if len(kinds) == len(field["anyOf"]) else ", or left out")
    if "const" in field or "enum" in field:
        return " or ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if "oneOf" in field:
        return "a table that names a part"
    if field.get("type") == "array":
        return "a list; each " + _type(field["items"], root) if field.get("items") else "a list"
    names = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false"}
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    words = [names.get(field.get("type", ""), "a table")]
    return ", ".join(words + [f"{word} {field[limit]}" for limit, word in limits.items() if limit in field])


def _unknown(walked: list[str], step: str, found: list[tuple[str, Schema, bool]], root: Schema) -> PlanError:
    known = sorted(
        {
            name
            for _, schema, _ in found
            for _, alternative in _alternatives(schema, root)
            for name in alternative.get("properties", {})
        }
    )
    key = ".".join([*walked, step])
    return PlanError(f"{key}: no such key", allowed=", ".join(known) or "nothing below it", do=nearest(step, known))
