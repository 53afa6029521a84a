"""The inference service as a process has it: a queue, and the transports in front of it."""

from __future__ import annotations

from concurrent.futures import TimeoutError as Late
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from privet.apps.service.broker import Broker
from privet.apps.service.callers import Tokens, anybody, members
from privet.apps.service.desk import Desk
from privet.apps.service.listening import Web, context, server
from privet.apps.service.web import Door, application, inner
from privet.errors import InputError, UnreachableError
from privet.inference.questions import answered
from privet.inference.serving import Limits
from privet.inference.versions import load_version
from privet.transport.contract import Peer
from privet.transport.grpc import Server
from privet.transport.identity import Identity

Address: TypeAlias = tuple[str, int]

ROLE = "service"
CALLS = 256
"""Calls over gRPC that wait for an answer at a time."""


@dataclass(frozen=True)
class Settings:
    """What a service is started with.

    Attributes:
        model: folder of the signed version.
        signer: Ed25519 public key of whom to trust for it.
        identity: folder of key and certificate.
        https, grpc: where to listen; None for not at all.
        mqtt: broker to take questions from; None for none.
        metrics: where health and figures are, without TLS; None for nowhere.
        tokens: file of tokens for HTTPS; None for none.
        fleet: folder of the fleet whose registry knows revoked devices; None asks nobody.
        limits: how much it takes on.
        threads: of torch.
        connections: over HTTPS at once.
    """

    model: Path
    signer: bytes
    identity: Path
    https: Address | None = None
    grpc: Address | None = None
    mqtt: Address | None = None
    metrics: Address | None = None
    tokens: Path | None = None
    fleet: Path | None = None
    limits: Limits = field(default_factory=Limits)
    threads: int = 1
    connections: int = 1024


class InferenceService:
    """A service that is up until it is closed.

    Args:
        settings: what it is started with.

    Attributes:
        places: transport -> where it listens, ``host:port``.

    Raises:
        InputError: a file is missing or malformed, or an address can't be listened at.
        RefusedError: the model is not signed by the signer, or others can read a key.
        UnreachableError: the broker does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.https is settings.grpc is settings.mqtt is None:
            raise InputError("the service would listen nowhere", allowed="--https, --grpc, --mqtt, one or more")
        self._settings = settings
        identity = Identity.load(settings.identity)
        if identity.peer.role != ROLE:
            raise InputError(f"{identity.peer} is no service", allowed=f"a certificate of the role {ROLE}")
        self._tokens = Tokens(settings.tokens)
        self._admits = members(settings.fleet) if settings.fleet else anybody
        self.desk = Desk(load_version(settings.model, settings.signer), settings.limits, settings.threads)
        self.places: dict[str, str] = {}
        self._broker: Broker | None = None
        with ExitStack() as undo:
            undo.callback(self.desk.close)
            self._grpc = self._start_grpc(identity)
            if self._grpc is not None:
                undo.callback(self._grpc.close)
            self._web = self._start_web()
            undo.callback(self._web.close)
            if settings.mqtt is not None:
                self._broker = Broker(*settings.mqtt, settings.identity, self.desk, self._admits)
                self.places["mqtt"] = _text(settings.mqtt)
            undo.pop_all()

    def renew(self) -> str:
        """Reads model and tokens again; returns the version that answers from now on.

        Raises:
            InputError, RefusedError: something is wrong with them; what can't be read stays as it was.
        """
        self._tokens.read()  # first: no model that is wrong keeps a token alive
        version = load_version(self._settings.model, self._settings.signer)
        self.desk.switch(version)
        return str(version)

    def close(self) -> None:
        """Answers what has come in, then ends."""
        if self._broker is not None:
            self._broker.stop()
        self._web.close()
        if self._grpc is not None:
            self._grpc.close(self._settings.limits.patience)
        self.desk.close()
        if self._broker is not None:
            self._broker.close()

    def _start_grpc(self, identity: Identity) -> Server | None:
        if self._settings.grpc is None:
            return None
        service = {"classify": self._classify, "model": lambda peer, body: self.desk.offer()}
        limit = max(self.desk.longest, 1 << 16)
        where = self._settings.grpc
        started = Server(_text(where), identity, service, admit=self._admits, limit=limit, calls=CALLS)
        self.places["grpc"] = _text((where[0], started.port))
        return started

    def _classify(self, peer: Peer, body: bytes) -> bytes:
        asked = self.desk.ask("grpc", str(peer), body)
        try:
            return answered(*asked.result(2 * self._settings.limits.patience))
        except Late:
            asked.cancel()
            raise UnreachableError("no answer in time", do="try again later") from None

    def _start_web(self) -> Web:
        settings, servers = self._settings, {}
        if settings.https is not None:
            door = Door(application(self.desk), self.desk, self._admits, self._tokens)
            tls = context(settings.identity, strangers=self._tokens.path is not None)
            servers["https"] = server(door, *settings.https, most=settings.connections, tls=tls)
        if settings.metrics is not None:
            servers["metrics"] = server(inner(self.desk), *settings.metrics, most=16)
        web = Web(servers.values())
        for (name, one), port in zip(servers.items(), web.ports, strict=True):
            self.places[name] = _text((one.config.host, port))
        return web


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
