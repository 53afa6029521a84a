"""The command ``privet``: finds subcommands when they are used, and turns errors into one line and an exit status.

Nothing heavy is imported here: torch, pydantic and rich come with the subcommand that needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn, cast

import click

from privet import __version__
from privet.errors import PrivetError, nearest

STOPPED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Stopped(click.Abort):
    """The user pressed Ctrl-C; the message says how to go on."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported only when they are used.

    Args:
        members: subcommand name -> (``module:attribute``, its one-line help).
    """

    def __init__(self, *args: Any, members: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.members = members or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the subcommands in the order in which help shows them."""
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports and returns a subcommand; None when there is none of this name."""
        if cmd_name not in self.members:
            return None
        module, _, attribute = self.members[cmd_name][0].partition(":")
        return cast(click.Command, getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the subcommand that the arguments name, or refuses with the nearest name."""
        if args[0] not in self.members and not args[0].startswith("-"):
            advice = nearest(args[0], list(self.members)) or f"known: {', '.join(self.members)}"
            raise click.UsageError(f"no command called {args[0]!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, meaning) for name, (_, meaning) in self.members.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; without any, shows the help."""
        return super().parse_args(ctx, args or ["--help"])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    members={
        "run": ("privet.apps.cli.run:run", "Run a plan: train, attack, report."),
        "demo": ("privet.apps.cli.run:demo", "Run the smart-home plan that comes with Privet."),
        "plan": ("privet.apps.cli.plan:plan", "Check a plan, explain its keys, print its JSON Schema."),
        "report": ("privet.apps.cli.report:report", "Write the report of a finished run again."),
        "attack": ("privet.apps.cli.attack:attack", "Attack a finished run: who could learn what, and how well."),
        "audit": ("privet.apps.cli.audit:audit", "Try to refute what a finished run claims."),
        "bench": ("privet.apps.cli.bench:bench", "Measure rules against attacks, and the ledger, on this machine."),
        "compare": ("privet.apps.cli.report:compare", "Put runs side by side."),
        "parts": ("privet.apps.cli.parts:parts", "List the parts a plan can name, with meaning and grade."),
        "obfuscate": ("privet.apps.cli.obfuscate:obfuscate", "Change samples before they leave; attack what is left."),
        "export": ("privet.apps.cli.export:export", "Write an obfuscator or a model as an ONNX file."),
        "data": ("privet.apps.cli.data:data", "List, bring and check data sets."),
        "privacy": ("privet.apps.cli.privacy:privacy", "Noise for an epsilon, and epsilon for a noise."),
        "ledger": ("privet.apps.cli.ledger:ledger", "Replay a consortium ledger, show its blocks."),
        "place": ("privet.apps.cli.place:place", "Plan one inference over many helpers, and what it would cost."),
        "helper": ("privet.apps.cli.multiplier:helper", "Multiply for sources of blinded inference, unseeing."),
        "infer": ("privet.apps.cli.infer:infer", "Ask a network over helpers, blinded or as published."),
        "serve": ("privet.apps.service.command:serve", "Answer questions of devices with a signed model."),
        "fleet": ("privet.apps.cli.fleet:fleet", "Make a fleet across machines, invite, list, revoke devices."),
        "agent": ("privet.apps.agent.command:agent", "On a device: join a fleet, allow, work, read the log."),
        "up": ("privet.apps.coordinator.command:up", "Run a fleet's coordinator on this machine."),
        "edge": ("privet.apps.coordinator.edge:edge", "Train the heads of split models for a fleet's devices."),
        "miner": ("privet.apps.cli.miner:miner", "Run one miner of a consortium ledger."),
        "doctor": ("privet.apps.cli.doctor:doctor", "Check this machine: Python, torch, disk, memory."),
    },
)
@click.version_option(__version__, prog_name="privet")
def privet() -> None:
    """Machine learning on fleets whose data nobody else may see, with the proof of how private it was.

    Start with: privet demo
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits: 0 done, 2 wrong input, 3 refused, 4 unreachable, 130 stopped."""
    sys.exit(_status(arguments))


def _status(arguments: Sequence[str] | None) -> int:
    try:
        answer = privet.main(arguments, prog_name="privet", standalone_mode=False)
        sys.stdout.flush()
        return answer if isinstance(answer, int) else 0
    except PrivetError as error:
        return _complain(error.advice(), error.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "privet"
        return _complain(f"{error.format_message().rstrip('.')}; see: {where} --help", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt) as stop:
        return _complain(str(stop) or "stopped", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A write that finds the disk full doesn't say of which file.
        where, there = (f"{error.filename}: ", " there") if error.filename else ("", "")
        return _complain(f"{where}{error.strerror or error}; make room or rights{there}, or choose another folder", 2)


def _complain(line: str, status: int) -> int:
    click.echo(f"privet: {' '.join(line.split())}", err=True)
    return status
