"""Writes the reference pages that are read off the code: commands, plan, parts, mechanisms, errors.

``python docs/generate.py`` writes them; ``tests/integration/test_reference.py`` fails when they differ from
what the code says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from dp_accounting.dp_event import DpEvent, NonPrivateDpEvent, PoissonSampledDpEvent

from privet import errors, parts
from privet.accounting import Sensitivity, accountants
from privet.apps.cli.main import privet as command
from privet.study.explain import explain
from privet.study.part_field import part_schema

FOLDER = Path(__file__).parent / "reference"
PLACES = {
    "aggregators": "aggregation",
    "attacks": "attacks",
    "availabilities": "fleet.availability",
    "behaviours": "fleet.hostile.behaviour",
    "imperfections": "fleet.imperfect.imperfection",
    "datasets": "data",
    "mechanisms": "mechanisms.on_device",
    "models": "model",
    "partitions": "fleet.partition",
    "protocols": "training",
}
"""Where in a plan a part of each family stands."""

COMMANDS = {"obfuscators": "privet obfuscate train --obfuscator", "planners": "privet place --planner"}
"""Families that stand in no plan -> the command that takes them."""


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
        in_plan = family in PLACES
        where = f"In a plan: `{PLACES[family]}`." if in_plan else f"With the command `{COMMANDS[family]}`."
        out += [f"## {family}", "", where, ""]
        for name in parts.names(family):
            cls = parts.find(family, name)
            if cls.__module__.startswith("privet."):
                out += [f"### {name}", "", f"{parts.meaning(cls)} *{cls.grade.capitalize()}.*", ""]
                out += _fields(PLACES.get(family, ""), name, part_schema(family, name))
    return "\n".join(out)


def _fields(place: str, name: str, schema: dict[str, Any]) -> list[str]:
    rows: list[dict[str, Any]] = []
    if not place:
        return _settings(schema)
    for key in schema["properties"]:
        if key != "name":
            rows += [row | {"name": key} for row in explain(f"{place}.{key}")["parts"] if row["name"] == name]
    return _table(rows, "part.") if rows else []


def _settings(schema: dict[str, Any]) -> list[str]:
    settings = {key: row for key, row in schema["properties"].items() if key != "name"}
    rows = [f"| `{key}` | `{row.get('default')}` | {_cell(row['description'])} |" for key, row in settings.items()]
    return ["| field | default | meaning |", "|---|---|---|", *rows, ""] if rows else []


def mechanism_page() -> str:
    """Returns the page of what each mechanism bounds and costs, worked out by the mechanism itself."""
    out = [
        "# Mechanisms and accountants",
        "",
        "What the parts themselves derive for one record that is replaced, one vector of 10 values; every number a",
        "mechanism asks for is 1, a batch size 4. *Bounds*: the change after it where nothing was bounded before.",
        "*Event*: what one release costs where that change was at most 1 in l1, l2 and linf before it.",
        "",
        "| mechanism | grade | bounds | event | priced by | meaning |",
        "|---|---|---|---|---|---|",
    ]
    record, priced = Sensitivity("record", dimension=10), []
    for name in parts.names("mechanisms"):
        cls = parts.find("mechanisms", name)
        if cls.__module__.startswith("privet."):
            made = cls(**{one.name: 4 if "int" in str(one.type) else 1.0 for one in _required(cls)})
            after, event = made.bound(record), made.event(record.bounded(l1=1.0))
            bounds = ", ".join(f"{norm} {getattr(after, norm):.4g}" for norm in ("l1", "l2", "linf"))
            bounds = "nothing" if math.isinf(after.linf) else bounds
            cost, by = ("no formal guarantee", "") if isinstance(event, NonPrivateDpEvent) else (event, _priced(event))
            comes_and_goes = made.event(dataclasses.replace(record, relation="add-or-remove-one").bounded(l1=1.0))
            priced += [] if isinstance(comes_and_goes, NonPrivateDpEvent) else [comes_and_goes]
            out.append(
                f"| `{name}` | {cls.grade} | {bounds} | {_cell(str(cost))} | {by} | {_cell(parts.meaning(cls))} |"
            )
    out += ["", "## Accountants", "", "Of those that know an event, the smallest epsilon counts.", ""]
    out += ["| accountant | meaning |", "|---|---|"]
    out += [f"| `{name}` | {meaning} |" for name, meaning in accountants.MEANINGS.items()]
    out += ["", "## Sampling", "", "Epsilon of 100 releases at delta 1e-5, of everybody and of a Poisson sample of"]
    out += ["1 %, both under add-or-remove-one: who is replaced gains nothing from being sampled here.", ""]
    out += ["| event | of everybody | of a sample |", "|---|---|---|"]
    for event in priced:
        figures = [accountants.epsilon(one, 1e-5, count=100) for one in (event, PoissonSampledDpEvent(0.01, event))]
        out.append(f"| `{event}` | " + " | ".join(f"{figure:.3g} ({name})" for figure, name in figures) + " |")
    return "\n".join(out)


def _required(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [one for one in dataclasses.fields(cls) if one.default is dataclasses.MISSING]


def _priced(event: DpEvent) -> str:
    known = []
    for name in accountants.MEANINGS:
        with contextlib.suppress(errors.InputError):
            if math.isfinite(accountants.Accountant(name).compose(event).epsilon(1e-5)):
                known.append(name)
    return ", ".join(known)


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
    made = {
        "cli.md": cli(),
        "plan.md": plan(),
        "parts.md": part_pages(),
        "mechanisms.md": mechanism_page(),
        "errors.md": error_tree(),
    }
    return {FOLDER / name: text.rstrip() + "\n" for name, text in made.items()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
