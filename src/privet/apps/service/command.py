"""``privet serve``: answer questions of devices with a signed model, and make what that needs."""

from __future__ import annotations

import json
import queue
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from privet.apps.cli.output import FloatRange
from privet.errors import InputError, MissingExtraError, PrivetError

if TYPE_CHECKING:
    from privet.apps.service.run import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
_EXTRA = frozenset({"fastapi", "h11", "httpx", "paho", "prometheus_client", "starlette", "uvicorn", "uvloop"})
SWITCH = 0.0005
"""Seconds after which Python lets another thread run: short, so that a batch's thread gets its turn among requests."""


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")(command)


def _tell(as_json: bool, line: str, **fields: Any) -> None:
    click.echo(json.dumps(fields, ensure_ascii=False, default=str) if as_json else line)
    sys.stdout.flush()


class Help(click.Group):
    """A group that shows its help when nothing is asked of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments; without any, shows the help."""
        return super().parse_args(ctx, args or ["--help"])


@click.group(cls=Help)
def serve() -> None:
    """Answer questions of devices with a signed model, and make what that needs."""


@serve.command()
@click.option("--model", type=_FOLDER, required=True, help="Folder of the signed model.")
@click.option("--signer", required=True, metavar="KEY", help="Public key of whom to trust for it, or its file.")
@click.option("--identity", type=_FOLDER, required=True, help="Folder of the service's key and certificate.")
@click.option("--https", metavar="HOST:PORT", help="Listen there for web clients; port 0 takes a free one.")
@click.option("--grpc", metavar="HOST:PORT", help="Listen there for gRPC.")
@click.option("--mqtt", metavar="mqtts://HOST:PORT", help="Take questions from this broker.")
@click.option("--metrics", metavar="HOST:PORT", default="127.0.0.1:9464", show_default=True, help="'' for nowhere.")
@click.option("--tokens", type=_FILE, help="Tokens that web clients may show instead of a certificate.")
@click.option("--fleet", type=_FOLDER, help="Let in devices of this fleet only, while they are not revoked.")
@click.option("--batch", type=click.IntRange(1, 4096), default=64, show_default=True, help="Samples at once.")
@click.option("--wait", type=FloatRange(0, 1000), default=2.0, show_default=True, help="Milliseconds for more.")
@click.option("--samples", type=click.IntRange(1, 4096), default=16, show_default=True, help="Most of one question.")
@click.option("--waiting", type=click.IntRange(1), default=2048, show_default=True, help="Most samples in the queue.")
@click.option("--share", type=click.IntRange(1), default=256, show_default=True, help="Most of one caller in it.")
@click.option("--patience", type=FloatRange(0.1, 60), default=5.0, show_default=True, help="Seconds in it.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of torch.")
@click.option("--connections", type=click.IntRange(1), default=1024, show_default=True, help="Over HTTPS at once.")
@_json
def inference(as_json: bool, **options: Any) -> None:
    """Answer samples until SIGTERM or Ctrl-C.

    SIGHUP reads model and tokens again, and loses no question."""
    try:
        from privet.apps.service.run import InferenceService
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        raise MissingExtraError(str(error.name), "serve") from None
    settings = _settings(options)
    service = InferenceService(settings)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, lambda number, _frame: signals.put(number))
    sys.setswitchinterval(SWITCH)
    version = service.desk.batcher.version
    where = ", ".join(f"{name} {place}" for name, place in service.places.items())
    told = {"places": service.places, "name": version.manifest.name, "version": version.digest.hex()}
    _tell(as_json, f"model {version} answers at {where}", **told)
    try:
        while signals.get() == signal.SIGHUP:
            try:
                click.echo(f"model {service.renew()} answers from now on", err=True)
            except PrivetError as error:
                click.echo(f"privet: {error.advice()}; what can't be read stays as it was", err=True)
    finally:
        service.close()


@serve.command()
@click.argument("folder", type=_FOLDER)
@click.option("--key", type=_FILE, required=True, help="Secret key of the signer, from privet serve key.")
@click.option("--name", required=True, help="What people call this version.")
@click.option("--model", metavar="PART", help="Name or JSON table of the model.  [default: FOLDER/model.json]")
@click.option("--shape", metavar="N,N,...", help="Of one sample, with --model.")
@click.option("--classes", type=click.IntRange(1), help="Number of scores, with --model.")
@click.option("--range", "span", metavar="LOW,HIGH", default="any", show_default=True, help="Of a sample's values.")
@_json
def sign(
    folder: Path,
    key: Path,
    name: str,
    model: str | None,
    shape: str | None,
    classes: int | None,
    span: str,
    as_json: bool,
) -> None:
    """Sign a model version.

    FOLDER holds model.safetensors; version.json and version.sig are written beside it.

    A range refuses questions with other values. What obfuscators make of images mostly leaves the range of images, so a
    service that takes both has none; values that are not finite are refused in any case.
    """
    from privet.inference.versions import publish

    table, sides, count = _described(folder, model, shape, classes)
    low, high = (None, None) if span == "any" else _figures(span, float, 2)
    version = publish(
        folder,
        name=name,
        model=table,
        shape=tuple(sides),
        classes=count,
        secret=_secret(key),
        span=None if low is None or high is None else (low, high),
    )
    _tell(as_json, f"signed {version} in {folder}", folder=folder, name=name, version=version.digest.hex())


@serve.command()
@click.argument("file", type=_FILE)
@_json
def key(file: Path, as_json: bool) -> None:
    """Make a key that signs model versions.

    It goes to FILE; its public key is printed."""
    import os

    from privet.crypto.signatures import SECRET_BYTES, public_key
    from privet.transport.key_files import write_secret

    secret = os.urandom(SECRET_BYTES)
    write_secret(file, secret)
    _tell(as_json, public_key(secret).hex(), signer=public_key(secret).hex())


@serve.command()
@click.argument("file", type=_FILE)
@click.option("--name", required=True, help="Of the client; one token each.")
@_json
def token(file: Path, name: str, as_json: bool) -> None:
    """Make a token for a web client.

    It is printed once; FILE keeps its hash. SIGHUP makes a running service read it."""
    from privet.apps.service.callers import new_token

    made = new_token(file, name)
    _tell(as_json, made, name=name, token=made)


@serve.command()
@click.argument("authority", type=_FOLDER)
@click.argument("out", type=_FOLDER)
@click.option("--as", "name", required=True, metavar="ROLE/NAME", help="service/..., client/..., broker/...")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="Name or address of a service or broker, may be repeated.  [default: localhost]",
)
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True, help="That it lasts.")
@_json
def certify(authority: Path, out: Path, name: str, hosts: tuple[str, ...], days: int, as_json: bool) -> None:
    """Make the certificate of a service, broker or client.

    It goes to OUT with its key, signed by the fleet's authority in AUTHORITY (privet fleet init)."""
    from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
    from privet.transport.certificates import Authority
    from privet.transport.contract import Peer
    from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE
    from privet.transport.key_files import write_secret

    role = Peer.of(name).role
    if role not in ("service", "client", "broker"):
        raise InputError(f"{name} gets no certificate here", allowed="service/..., client/..., broker/...")
    signer = Authority.load(authority)
    # Only a certificate with a host is good for being connected to.
    made, certificate = signer.issue(name, hosts or (() if role == "client" else ("localhost", "127.0.0.1")), days)
    out.mkdir(parents=True, mode=0o700, exist_ok=True)
    write_secret(out / KEY_FILE, made)
    (out / CERTIFICATE_FILE).write_bytes(certificate)
    (out / AUTHORITY_FILE).write_bytes(signer.certificate)
    _tell(as_json, f"{name} is in {out} for {days} days", name=name, folder=out, days=days)


def _settings(options: dict[str, Any]) -> Settings:
    from privet.apps.service.run import Settings
    from privet.inference.manifest import key_of
    from privet.inference.serving import Limits
    from privet.transport.identity import CERTIFICATE_FILE

    limits = Limits(wait=options.pop("wait") / 1000, **{name: options.pop(name) for name in _LIMITS})
    places: dict[str, Any] = {name: _address(options.pop(name), name) for name in ("https", "grpc", "mqtt", "metrics")}
    settings = Settings(signer=key_of(options.pop("signer")), limits=limits, **options, **places)
    if not (settings.identity / CERTIFICATE_FILE).is_file():
        do = "make one: privet serve certify AUTHORITY FOLDER --as service/NAME"
        raise InputError(f"{settings.identity} holds no identity of a service, no {CERTIFICATE_FILE}", do=do)
    return settings


_LIMITS = ("batch", "samples", "waiting", "share", "patience")


def _secret(path: Path) -> bytes:
    """Returns a signer's secret key; its public key, which is a file too, is easily taken for it."""
    from privet.inference.manifest import key_of
    from privet.transport.key_files import read_secret

    try:
        key_of(str(path))
    except InputError:
        return read_secret(path)
    raise InputError(f"{path} is a public key", do="name the secret key's file, which privet serve key wrote")


def _address(text: str | None, name: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.removeprefix("mqtts://" if name == "mqtt" else "").rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        allowed = "HOST:PORT or mqtts://HOST:PORT" if name == "mqtt" else "HOST:PORT"
        raise InputError(f"--{name} {text!r} is no address", allowed=allowed)
    return host.strip("[]"), int(port)


def _described(
    folder: Path, model: str | None, shape: str | None, classes: int | None
) -> tuple[dict[str, Any], list[int], int]:
    """Returns a model's table, shape and classes, as said, or as the folder's ``model.json`` has them."""
    path = folder / "model.json"
    if model is None and (shape is not None or classes is not None):
        raise InputError("--shape and --classes are of a model that nobody named", do="add --model")
    if model is not None:
        if shape is None or classes is None:
            raise InputError("--model says too little", do="add --shape and --classes")
        table = _object(model, "--model") if model.lstrip().startswith("{") else {"name": model}
        return table, _figures(shape, int), classes
    if not path.is_file():
        raise InputError(f"{path} is missing", do="say --model, --shape and --classes")
    told = _object(path.read_text(encoding="utf-8", errors="replace"), str(path))
    try:
        return dict(told["model"]), [int(side) for side in told["shape"]], int(told["classes"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} describes no model", allowed="model, shape and classes") from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where} is no JSON object")
    return found


def _figures(text: str, kind: Callable[[str], Any], count: int | None = None) -> list[Any]:
    try:
        figures = [kind(word) for word in text.split(",")]
    except ValueError:
        figures = []
    if not figures or count not in (None, len(figures)):
        raise InputError(f"{text!r} is no list of figures", allowed="figures with commas between them")
    return figures
