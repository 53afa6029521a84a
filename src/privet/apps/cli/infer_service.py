"""``privet infer --service``: ask a service about samples, as they are, obfuscated, or answered on this machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privet.apps.cli.output import Command, FloatRange, print_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from privet.inference.asking import Asker
    from privet.study.asked import Device

_DIR = click.Path(file_okay=False, path_type=Path)
_SHARE = FloatRange(0, 1)
_PEER = "service/inference"
_OPTIONS = (
    click.option("--service", metavar="URL", help="Ask a service instead: https, grpc or (broker) mqtts ://HOST:PORT."),
    click.option("--signer", metavar="KEY", help="With --service: public key, or its file, that signs its model."),
    click.option("--peer", default=_PEER, show_default=True, help="With --service: its certificate's name."),
    click.option("--obfuscator", type=_DIR, help="With --service: obfuscate samples before they leave."),
    click.option("--state", type=_DIR, help="With --obfuscator: what this device released and paid; kept."),
    click.option("--subject", metavar="NAME", help="With coded obfuscators: whose samples they are."),
    click.option("--purpose", metavar="NAME", help="With coded obfuscators: what the answers are for."),
    click.option("--bits", type=FloatRange(0, min_open=True), help="With coded obfuscators: what may be told."),
    click.option(
        "--offload", type=_SHARE, metavar="SHARE", help="Only the SHARE leaves that this machine is least sure of."
    ),
    click.option("--threshold", type=_SHARE, metavar="T", help="Or: what is answered here less surely than T leaves."),
    click.option("--own-model", type=_DIR, help="What answers here; else, with --obfuscator, its student."),
)
_ANYWHERE = ("offload", "threshold", "own_model")


def service_options(command: Command) -> Command:
    """Adds what asking a service takes, and what lets samples stay on this machine."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_needed(asked: Mapping[str, Any]) -> None:
    """Refuses what is for a service where none is named: nobody shall think that it protected anything.

    Args:
        asked: what :func:`service_options` added.

    Raises:
        click.UsageError: something was given.
    """
    for name, value in asked.items():
        if name not in _ANYWHERE and value not in (None, _PEER):
            raise click.UsageError(f"'--{name.replace('_', '-')}' is of no use without '--service'")


def ask(folder: Path, samples: NDArray[np.float32], as_json: bool, **asked: Any) -> None:
    """Asks a service and prints the answers and what they told.

    Args:
        folder: the client's credentials.
        samples: shape (n, ...).
        as_json: as one object.
        asked: what :func:`service_options` added.
    """
    import time

    from privet.inference.asking import Asker, connect
    from privet.inference.credentials import Credentials
    from privet.inference.manifest import key_of
    from privet.transport.contract import Peer

    url, signer = asked["service"], asked["signer"]
    key, begin, device = key_of(signer) if signer else None, time.monotonic(), _device(**asked)
    with Asker(connect(url, Credentials.load(folder), peer=Peer.of(asked["peer"])), signer=key) as asker:
        said = _plain(asker, samples) if device is None else _guarded(device, asker, samples)
        name = asker.offer().manifest.name
    said = {"service": url, "model": name, "signed": key is not None, "images": len(samples)} | said
    said |= {"seconds": time.monotonic() - begin}
    if as_json:
        print_json(said)
        return
    click.echo(f"classes: {' '.join(str(each) for each in said['classes'])}")
    believed = "its signature verifies" if key else "nobody checked its signature: --signer does"
    asked_of = f"model {name} ({said['version'][:12]})" if said["version"] else f"model {name} was not asked"
    click.echo(f"{said['seconds']:.3g} s; {asked_of}, {believed}")
    if device is not None:
        _tell(said)


def _device(
    obfuscator: Path | None,
    state: Path | None,
    subject: str | None,
    purpose: str | None,
    bits: float | None,
    offload: float | None,
    threshold: float | None,
    own_model: Path | None,
    **_: object,
) -> Device | None:
    """Returns what stands between the samples and the service; None where nothing was asked for."""
    budget = {"--subject": subject, "--purpose": purpose, "--bits": bits}
    missing = [name for name, given in budget.items() if given is None]
    needs = {"--state": state} | (budget if len(missing) < len(budget) else {})
    if obfuscator is None:
        needless = [name for name, given in needs.items() if given is not None]
        if needless:
            raise click.UsageError(f"'{needless[0]}' is of no use without '--obfuscator'")
    elif lacking := [name for name, given in needs.items() if given is None]:
        raise click.UsageError(f"Missing option '{lacking[0]}'")
    if obfuscator is None and offload is None and threshold is None and own_model is None:
        return None
    import torch

    from privet.governance.bit_budget import BitBudget
    from privet.inference.obfuscation import Obfuscation, Trained
    from privet.study.asked import Device, Way

    torch.set_num_threads(1)
    own, way = Trained.load(own_model) if own_model else None, None
    if obfuscator is not None and state is not None:
        made, allowed = Obfuscation.load(obfuscator), None
        if subject is not None and purpose is not None and bits is not None:
            allowed = BitBudget(subject, purpose, bits)
        way = Way(made, state, allowed)
    return Device(way, own, offload, threshold)


def _plain(asker: Asker, samples: NDArray[np.float32]) -> dict[str, Any]:
    answer = asker.ask(samples)
    return {"version": answer.version, "classes": answer.classes, "scores": answer.scores.tolist()}


def _guarded(device: Device, asker: Asker, samples: NDArray[np.float32]) -> dict[str, Any]:
    import torch

    answer = device.ask(asker, torch.from_numpy(samples))
    return {
        "version": answer.version,
        "classes": answer.scores.argmax(1).tolist(),
        "scores": answer.scores.tolist(),
        "left": answer.left.nonzero().flatten().tolist(),
        "obfuscated": device.way is not None,
        "bits": answer.bits if math.isfinite(answer.bits) else None,
        "promised": device.promised(),
        "same_model": device.same_model(asker),
    }


def _tell(said: dict[str, Any]) -> None:
    left, how = said["left"], "obfuscated" if said["obfuscated"] else "as they are"
    which = "all" if len(left) == said["images"] else "none"
    if 0 < len(left) < said["images"]:
        which = f"{len(left)} of {said['images']}, number {', '.join(map(str, left))}"
    paid = "nobody counts the bits" if said["bits"] is None else f"{said['bits']:.4g} bits were paid now"
    click.echo(f"left, {how}: {which}; {paid}")
    for line in said["promised"]:
        click.echo(line)
    if not said["same_model"]:
        click.echo("the obfuscators were trained for other weights than the service's model has")
