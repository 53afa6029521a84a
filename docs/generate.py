"""Writes the reference pages that are read off the code: commands, plan, parts, errors.

``python docs/generate.py`` writes them; ``tests/integration/test_reference.py`` fails when they differ from
what the code says.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from privet import errors, parts
from privet.apps.cli.main import privet as command
from privet.study.explain import explain
from privet.study.part_field import part_schema

FOLDER = Path(__file__).parent / "reference"
PLACES = {
    "aggregators": "aggregation",
    "attacks": "attacks",
    "availabilities": "fleet.availability",
    "behaviours": "fleet.hostile.behaviour",
    "datasets": "data",
    "mechanisms": "mechanisms.on_device",
    "models": "model",
    "partitions": "fleet.partition",
    "protocols": "training",
}
"""Where in a plan a part of each family stands."""


def cli() -> str:
    """Returns the page of commands: the help of each, as the command prints it."""
    out = ["# Commands", "", "Each command's `--help`, word for word.", ""]
    for name, each, context in _commands(command, "privet", None):
        out += [f"## {name}", "", "```text", each.get_help(context).rstrip(), "```", ""]
    return "\n".join(out)


def _commands(
    each: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(
        each, info_name=name.rsplit(" ", 1)[-1], parent=parent, terminal_width=100, **each.context_settings
    )
    yield name, each, context
    if isinstance(each, click.Group):
        for below in each.list_commands(context):
            found = each.get_command(context, below)
            if found is not None and not found.hidden:
                yield from _commands(found, f"{name} {below}", context)


def plan() -> str:
    """Returns the page of plan keys: every section, and which family of parts stands where."""
    rows = explain("")["keys"]
    sections = [row["name"] for row in rows if explain(row["name"])["keys"]]
    out = ["# Plan", "", "Every key of a plan, as `privet plan explain KEY` tells it.", "", "## At the top", ""]
    out += _table([row for row in rows if row["name"] not in sections])
    for name in sections:
        out += _section(name)
    return "\n".join(out)


def _section(key: str) -> list[str]:
    found = explain(key)
    out = [f"## {key}", "", found["meaning"], "", *_table(found["keys"], f"{key}.")]
    for row in found["keys"]:
        below = f"{key}.{row['name']}"
        if explain(below)["keys"]:
            out += _section(below)
    return out


def _table(rows: list[dict[str, Any]], above: str = "") -> list[str]:
    families = {place: family for family, place in PLACES.items()} | {"mechanisms.on_server": "mechanisms"}
    lines = ["| key | what it may be | default | meaning |", "|---|---|---|---|"]
    for row in rows:
        default = "" if row["default"] is None else f"`{json.dumps(row['default'])}`"
        kind = _cell(row["type"])
        if family := families.get(above + row["name"]):
            kind = f"[{family}](parts.md#{family})"
        lines.append(f"| `{row['name']}` | {kind} | {default} | {_cell(row['meaning'])} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def part_pages() -> str:
    """Returns the page of parts: every shipped one, its meaning, grade and fields."""
    out = [
        "# Parts",
        "",
        "Every part that comes with Privet, by family. The grade says how its promise is known: derived (proved),",
    ]
    out += ["measured (figures in these pages), experimental.", ""]
    for family in parts.FAMILIES:
        out += [f"## {family}", "", f"In a plan: `{PLACES[family]}`.", ""]
        for name in parts.names(family):
            cls = parts.find(family, name)
            if cls.__module__.startswith("privet."):
                out += [f"### {name}", "", f"{parts.meaning(cls)} *{cls.grade.capitalize()}.*", ""]
                out += _fields(PLACES[family], name, part_schema(family, name))
    return "\n".join(out)


def _fields(place: str, name: str, schema: dict[str, Any]) -> list[str]:
    rows = []
    for key in schema["properties"]:
        if key != "name":
            rows += [row | {"name": key} for row in explain(f"{place}.{key}")["parts"] if row["name"] == name]
    return _table(rows, "part.") if rows else []


def error_tree() -> str:
    """Returns the page of errors: the tree, and what each one means."""
    out = [
        "# Errors",
        "",
        "Every way Privet refuses. The command prints one line: what is wrong, what is allowed, what to do.",
        "In Python, catch `privet.errors.PrivetError` or one below it. Exit status 0: it is done.",
        "",
        "| error | is a | exit status | meaning |",
        "|---|---|---|---|",
    ]
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if issubclass(cls, errors.PrivetError):
            meaning = _cell((inspect.getdoc(cls) or "").split("\n", 1)[0])
            out.append(f"| `{name}` | `{cls.__bases__[0].__name__}` | {cls.exit_code} | {meaning} |")
    return "\n".join(out)


def pages() -> dict[Path, str]:
    """Returns every generated page by its path."""
    made = {"cli.md": cli(), "plan.md": plan(), "parts.md": part_pages(), "errors.md": error_tree()}
    return {FOLDER / name: text.rstrip() + "\n" for name, text in made.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
