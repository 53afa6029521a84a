"""``privet agent``: what the owner of a device does with it."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privet.apps.cli.output import FloatRange
from privet.errors import InputError

if TYPE_CHECKING:
    from privet.governance.consent import Books

Command = TypeVar("Command", bound=Callable[..., Any])


def _folder(command: Command) -> Command:
    place = click.Path(path_type=Path)
    meaning = "Folder of the device."
    return click.option(
        "--folder", type=place, default="agent", show_default=True, envvar="PRIVET_AGENT", help=meaning
    )(command)


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, nothing else.")(command)


def _print(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


class Help(click.Group):
    """A group that shows its help when nothing is asked of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; without any, shows the help."""
        return super().parse_args(ctx, args or ["--help"])


@click.group(cls=Help)
def agent() -> None:
    """On a device: join a fleet, say what is allowed, work, read the log."""


@agent.command()
@click.argument("token")
@click.option("--coordinator", required=True, metavar="HOST:PORT", help="Where the fleet enrols devices.")
@click.option("--name", help="Name of this device in the fleet.  [default: made from its key]")
@_folder
@_json
def join(token: str, coordinator: str, name: str | None, folder: Path, as_json: bool) -> None:
    """Join the fleet that made TOKEN: make a key here, get a certificate for it. TOKEN - reads standard input."""
    from privet.apps.agent.identity import join as join_fleet

    word = sys.stdin.readline() if token == "-" else token  # noqa: S105 - a dash is no secret
    joined = join_fleet(folder, word, _address(coordinator), name)
    if as_json:
        return _print({"name": joined.name, "certificate_days": round(joined.days_left(), 2)})
    click.echo(f"joined as {joined.name}; the certificate holds for {joined.days_left():.0f} days and renews itself")
    click.echo("next: privet agent settings --data FILE, privet agent consent grant PURPOSE, privet agent run")


@agent.command()
@_folder
@_json
def renew(folder: Path, as_json: bool) -> None:
    """Get a new certificate now; a running agent does so by itself when a third of its life is left."""
    from privet.apps.agent.identity import load
    from privet.apps.agent.identity import renew as renew_certificate

    renewed = renew_certificate(load(folder))
    if as_json:
        return _print({"name": renewed.name, "certificate_days": round(renewed.days_left(), 2)})
    click.echo(f"renewed: {renewed.days_left():.0f} days")


@agent.command()
@click.option("--gate", type=click.IntRange(1, 65535), help="Port for devices at work.  [default: the one after PORT]")
@_folder
def run(gate: int | None, folder: Path) -> None:
    """Work for the fleet until Ctrl-C, within what the owner allows."""
    from privet.apps.agent.run import Agent, flower

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    Agent(folder, flower(gate)).run(stop)


@agent.command()
@click.option("--data", type=click.Path(path_type=Path), help="The device's rows: .npz or .csv.")
@click.option("--target", help="Column of a CSV file that holds the labels.")
@click.option("--memory", type=click.IntRange(min=1), help="Megabytes that work may take.")
@click.option("--battery", type=click.IntRange(0, 100), help="Percent below which to rest, unless charging.")
@click.option("--metered/--no-metered", default=None, help="Whether to work on a link that costs.")
@click.option("--link", type=click.Choice(["ask", "free", "metered"]), help="Whether the link costs; ask: the system.")
@click.option("--window", help="Time of day in which to work, for example 22:00-06:00; '' for always.")
@_folder
@_json
def settings(folder: Path, as_json: bool, data: Path | None, target: str | None, **limits: Any) -> None:
    """Show or change the device's rows and limits."""
    from privet.apps.agent.conditions import Limits
    from privet.apps.agent.identity import load
    from privet.apps.agent.rows import read_rows
    from privet.apps.agent.state import State

    state = State(load(folder).folder)
    kept = state.settings()
    if data is not None:
        read_rows(data, target)
        state.keep(data={"path": str(data.resolve()), "target": target})
    memory = limits.pop("memory")
    changed = {key: value for key, value in limits.items() if value is not None}
    changed |= {"memory_bytes": memory * 1_000_000} if memory else {}
    if changed:
        state.keep(limits=Limits.of(kept.get("limits", {}) | changed).to_table())
    kept = state.settings()
    told: dict[str, Any] = {"data": kept.get("data"), "limits": Limits.of(kept.get("limits", {})).to_table()}
    if as_json:
        _print(told)
    else:
        click.echo(f"data: {(told['data'] or {}).get('path', 'none')}")
        for key, value in told["limits"].items():
            click.echo(f"{key}: {value}")


@agent.group(cls=Help)
def consent() -> None:
    """Say what the device's data may be used for, and how much of it."""


@consent.command()
@click.argument("purpose")
@click.option("--epsilon", type=FloatRange(), help="The most that all work for PURPOSE together may cost.")
@click.option("--delta", type=FloatRange(), default=1e-5, show_default=True, help="At which epsilon counts.")
@click.option(
    "--unit", type=click.Choice(["record", "device"]), default="record", show_default=True, help="Who is protected."
)
@click.option("--no-limit", is_flag=True, help="Allow work that guarantees nothing.")
@_folder
@_json
def grant(
    purpose: str, epsilon: float | None, delta: float, unit: Any, no_limit: bool, folder: Path, as_json: bool
) -> None:
    """Allow work for PURPOSE, up to --epsilon, or with --no-limit."""
    from privet.governance.consent import Consent

    if (epsilon is None) != no_limit:
        raise InputError("a consent says how much", allowed="--epsilon FIGURE, or --no-limit")
    books = _books(folder)
    books.grant(Consent(purpose, epsilon, delta, unit))
    if as_json:
        return _print({"consents": _consents(books)})
    click.echo(f"allowed: {purpose}, " + ("without limit" if epsilon is None else f"epsilon {epsilon:g} per {unit}"))


@consent.command()
@click.argument("purpose")
@_folder
@_json
def revoke(purpose: str, folder: Path, as_json: bool) -> None:
    """Take the consent for PURPOSE back; what was spent stays spent."""
    books = _books(folder)
    books.revoke(purpose)
    if as_json:
        return _print({"consents": _consents(books)})
    click.echo(f"taken back: {purpose}")


@consent.command("list")
@_folder
@_json
def list_consents(folder: Path, as_json: bool) -> None:
    """List what is allowed, and what of it is spent."""
    rows = _consents(_books(folder))
    if as_json:
        _print({"consents": rows})
    for row in () if as_json else rows:
        limit = "no limit" if row["epsilon"] is None else f"{row['spent']:.4g} of epsilon {row['epsilon']:g} spent"
        click.echo(f"{row['purpose']}: {limit} per {row['unit']}" + ("; taken back" if row["revoked"] else ""))


@agent.command()
@click.option("--verify", is_flag=True, help="Check every hash, and the log against the account of what was paid.")
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each record, nothing else.")
def log(folder: Path, verify: bool, as_json: bool) -> None:
    """Show what was spent and what was refused, oldest first."""
    books = _books(folder)
    records = books.verify() if verify else books.records()
    if as_json and not verify:
        for record in records:
            click.echo(record.line(), nl=False)
        return
    head = records[-1].hash if records else None
    if as_json:
        _print({"valid": True, "records": len(records), "head": head})
        return
    for record in () if verify else records:
        body = record.body
        what = body["why"] if record.kind == "refused" else f"{body['purpose']}: {_figure(body)}"
        click.echo(f"{record.time}  {record.kind}  {what}")
    if verify:
        click.echo(f"{len(records)} records verify; head {head}")


@agent.command()
@_folder
@_json
def status(folder: Path, as_json: bool) -> None:
    """Show the agent's health, its certificate, consents and runs."""
    from privet.apps.agent.identity import load
    from privet.apps.agent.run import status as health
    from privet.apps.agent.state import State

    identity = load(folder)
    told = {
        "name": identity.name,
        "coordinator": "{}:{}".format(*identity.coordinator),
        "certificate_days": round(identity.days_left(), 2),
        "consents": _consents(_books(folder)),
        "runs": State(folder).runs()[:20],
        **health(folder),
    }
    if as_json:
        _print(told)
        return
    since = f" since {time.time() - told['at']:.0f} s" if "at" in told else ""
    click.echo(f"{told['name']}: {told['state']}{since}" + f"; {told['error']}" * bool(told["error"]))
    click.echo(f"certificate: {told['certificate_days']:.0f} days left, {told['restarts']} restarts")


def _books(folder: Path) -> Books:
    from privet.apps.agent.identity import load
    from privet.governance.consent import Books

    return Books(folder, load(folder).name)


def _consents(books: Books) -> list[dict[str, Any]]:
    from dataclasses import asdict

    spent = books.spent()
    return [asdict(one) | {"spent": spent[purpose]} for purpose, one in books.consents().items()]


def _figure(body: dict[str, Any]) -> str:
    if body["epsilon"] is None:
        return "no limit was set"
    return f"epsilon {body['epsilon_spent']:.4g} of {body['epsilon']:g} per {body['unit']}"


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{text!r} is no address", allowed="HOST:PORT")
    return host.strip("[]"), int(port)
