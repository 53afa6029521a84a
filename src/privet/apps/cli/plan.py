"""``privet plan``: check a plan, explain its keys, print its JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import json_option, print_json, settings_option


@click.group(
    cls=LazyGroup,
    members={
        "check": ("privet.apps.cli.plan:check", "Check a plan without running it."),
        "explain": ("privet.apps.cli.plan:explain", "Explain a key of the plan."),
        "schema": ("privet.apps.cli.plan:schema", "Print the JSON Schema of a plan."),
    },
)
def plan() -> None:
    """Check a plan, explain its keys, print its JSON Schema."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@settings_option
@json_option
def check(file: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Check FILE without running it; a wrong plan gives one line and exit status 2."""
    from privet.study.plan import Plan

    checked = Plan.load(file).with_settings(settings)
    if as_json:
        print_json({"file": str(file), "digest": checked.digest, "plan": checked.to_table()})
        return
    click.echo(f"{file} is a sound plan; digest {checked.digest[:16]}")
    click.echo(f"next: privet run {file}")


@click.command()
@click.argument("key", default="")
@json_option
def explain(key: str, as_json: bool) -> None:
    """Explain KEY, for example training.rounds or mechanisms.on_device; without KEY, the whole plan."""
    from privet.study.explain import explain as explained

    found = explained(key)
    if as_json:
        print_json(found)
        return
    click.echo(_sentence(found["key"] or "plan", found))
    for title in ("keys", "parts"):
        if found[title]:
            click.echo(f"\n{title}:")
            click.echo("\n".join("  " + _sentence(row["name"], row) for row in found[title]))


@click.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a plan, for editors and other programs."""
    from privet.study.explain import json_schema

    if as_json:
        print_json(json_schema())
    else:
        click.echo(json.dumps(json_schema(), indent=2))


def _sentence(label: str, row: dict[str, Any]) -> str:
    default = "" if row.get("default") is None else f"default {json.dumps(row['default'])}"
    facts = "; ".join(fact for fact in (row.get("type", ""), default) if fact)
    return f"{label}: {row['meaning']}" + (f" ({facts})" if facts else "")
