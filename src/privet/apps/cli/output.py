"""What commands print: one JSON object for programs, plain lines or a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds ``--json`` to a command, as its argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")(command)


def settings_option(command: Command) -> Command:
    """Adds ``--set KEY=VALUE`` to a command, as its argument ``settings``."""
    meaning = "Change a key of the plan, for example training.rounds=3; may be repeated."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=meaning)(command)


def print_json(value: Any) -> None:
    """Prints a value as JSON on one line; a figure that is not finite becomes null, which JSON can say."""
    click.echo(json.dumps(_sayable(value), ensure_ascii=False, allow_nan=False, default=str))


def print_table(renderable: Any) -> None:
    """Prints a rich table, as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(renderable)


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
