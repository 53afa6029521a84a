"""What commands print: one JSON object for programs, plain lines or a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class FloatRange(click.FloatRange):
    """A number between bounds, or any number without them; what is not a number is refused.

    click compares NaN with the bounds, and finds it neither below the one nor above the other.
    """

    name = "float"  # in the help, which shows the bounds beside it

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number, or refuses what is none or out of bounds."""
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is not a number", param, ctx)
        return found

    def _describe_range(self) -> str:
        # click says "x<=None" in the help where there are no bounds.
        return "" if self.min is None and self.max is None else super()._describe_range()


def is_given(name: str) -> bool:
    """Returns whether an option of the running command stands on its line, whatever its value."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


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
