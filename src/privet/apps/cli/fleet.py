"""``privet fleet``: who may take part: make a fleet, invite, list, turn away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import FloatRange, json_option, print_json
from privet.errors import InputError

if TYPE_CHECKING:
    from privet.governance.registry import Member

_PLACE = click.argument("folder", type=click.Path(path_type=Path))


@click.group(
    cls=LazyGroup,
    members={
        "init": ("privet.apps.cli.fleet:init", "Make a fleet: its authority, keys and registry."),
        "invite": ("privet.apps.cli.fleet:invite", "Print one-time tokens for new devices."),
        "list": ("privet.apps.cli.fleet:list_devices", "List the devices of a fleet."),
        "revoke": ("privet.apps.cli.fleet:revoke", "Turn a device away for good."),
    },
)
def fleet() -> None:
    """Say who takes part: make a fleet, invite devices, list them, turn them away."""


@click.command()
@_PLACE
@click.option("--name", default="fleet", show_default=True, help="What people call the fleet.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Name or address at which devices reach the coordinator; may be repeated.  [default: this machine only]",
)
@json_option
def init(folder: Path, name: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Make a fleet in FOLDER, which must be new: its authority, the coordinator's keys, an empty registry."""
    from privet.governance.enrolment import Fleet
    from privet.transport.certificates import fingerprint

    made = Fleet.create(folder, name, [*hosts] or ["localhost", "127.0.0.1"])
    digest = fingerprint(made.authority.certificate)
    if as_json:
        print_json({"folder": str(folder), "name": name, "hosts": made.hosts, "authority": digest})
        return
    click.echo(f"made {folder}: authority {digest}")
    click.echo(f"keep {folder} safe: who has its keys decides who takes part")
    click.echo(f"next: privet up {folder}, privet fleet invite {folder} --count 8 --profile gateway")


@click.command()
@_PLACE
@click.option("--count", type=int, default=1, show_default=True, help="How many devices to invite.")
@click.option("--profile", default="gateway", show_default=True, help="Their hardware.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="By which runs choose; may be repeated.")
@click.option("--days", type=FloatRange(), default=7.0, show_default=True, help="How long the tokens last.")
@json_option
def invite(folder: Path, count: int, profile: str, labels: tuple[str, ...], days: float, as_json: bool) -> None:
    """Print one-time tokens, one a line. Nobody can show them again: the fleet keeps hashes only."""
    from privet.governance.enrolment import Fleet

    pairs = [label.partition("=") for label in labels]
    for key, equals, value in pairs:
        if not key or not equals or not value:
            raise InputError(f"label {key + equals + value!r} is none", allowed="KEY=VALUE")
    tokens = Fleet(folder).invite(count, profile, {key: value for key, _, value in pairs}, days)
    if as_json:
        print_json({"tokens": [token.text() for token in tokens], "expires": time.time() + days * 86_400})
        return
    for token in tokens:
        click.echo(token.text())


@click.command("list")
@_PLACE
@json_option
def list_devices(folder: Path, as_json: bool) -> None:
    """List the devices of a fleet, and how many tokens are open."""
    from privet.governance.enrolment import Fleet

    registry = Fleet(folder).registry
    rows = [_row(member) for member in registry.members()]
    if as_json:
        print_json({"devices": rows, "open_invitations": registry.open_invitations()})
        return
    for row in rows:
        state = "revoked" if row["revoked"] else f"{row['certificate_days']:.0f} days"
        labels = " ".join(f"{key}={value}" for key, value in row["labels"].items())
        click.echo(f"{row['name']}  {row['profile']}  {state}  {labels}".rstrip())
    click.echo(f"{len(rows)} devices, {registry.open_invitations()} open tokens")


@click.command()
@_PLACE
@click.argument("name")
@json_option
def revoke(folder: Path, name: str, as_json: bool) -> None:
    """Turn the device NAME away for good, from its next request on."""
    from privet.governance.enrolment import Fleet

    gone = Fleet(folder).registry.revoke(name)
    if as_json:
        print_json(_row(gone))
    else:
        click.echo(f"revoked: {name}")


def _row(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "profile": member.profile,
        "labels": dict(member.labels),
        "enrolled": member.enrolled,
        "certificate_days": round((member.expires - time.time()) / 86_400, 2),
        "serial": member.serial,
        "revoked": member.revoked,
    }
