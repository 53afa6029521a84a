"""A device's identity: a key that is made here and never leaves, and a certificate that renews itself."""

from __future__ import annotations

import hashlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privet.apps.agent.state import State
from privet.errors import InputError, RefusedError
from privet.governance.enrolment import COORDINATOR, DAYS, device_name, signing_request
from privet.governance.tokens import Token
from privet.transport.certificates import expires, fingerprint, host_of, name_in
from privet.transport.durable import replace_file
from privet.transport.enrolment import ask, client_context
from privet.transport.key_files import read_secret, write_secret

KEY, CERTIFICATE, AUTHORITY = "device.key", "device.pem", "authority.pem"
"""Files in a device's folder; the key is ECDSA over P-384, for TLS and for Flower's own proof of who calls."""

_PEER = host_of(COORDINATOR)


@dataclass(frozen=True)
class Identity:
    """Who a device is.

    Attributes:
        folder: of the device.
        name: in the fleet.
        coordinator: host and port of the enrolment service.
        work_key: Ed25519 key that signs work, 32 bytes.
    """

    folder: Path
    name: str
    coordinator: tuple[str, int]
    work_key: bytes

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """Certificate, key, and the authority's certificate."""
        return self.folder / CERTIFICATE, self.folder / KEY, self.folder / AUTHORITY

    @property
    def expires(self) -> float:
        """When the certificate ends, seconds since 1970."""
        return expires(self.files[0].read_bytes()).timestamp()

    def days_left(self, now: float | None = None) -> float:
        """Returns for how many more days the certificate holds; negative once it does not."""
        return (self.expires - (time.time() if now is None else now)) / 86_400

    def due(self, now: float | None = None) -> bool:
        """Returns whether a third of the certificate's life is left, or less."""
        return self.days_left(now) <= DAYS / 3


def load(folder: Path) -> Identity:
    """Returns the identity of a device that has joined.

    Raises:
        InputError: it has not, or a file is missing.
        RefusedError: others can read its key.
    """
    settings = State(folder).settings() if (folder / "agent.db").is_file() else {}
    if "coordinator" not in settings or not (folder / CERTIFICATE).is_file():
        raise InputError(f"no device in {folder} has joined a fleet", do="run: privet agent join TOKEN --folder FOLDER")
    read_secret(folder / KEY)
    host, port = settings["coordinator"]
    return Identity(folder, settings["name"], (host, port), bytes.fromhex(settings["work_key"]))


def join(folder: Path, token: str, coordinator: tuple[str, int], name: str | None = None) -> Identity:
    """Joins a fleet: makes a key, checks the fleet's authority against the token, gets a certificate.

    A join that was cut off is tried again with the same token and folder; the key is made once.

    Args:
        folder: of the device, made when absent.
        token: that the fleet's operator handed over.
        coordinator: host and port of the enrolment service.
        name: of the device; made from its key when None.

    Raises:
        InputError: the token or the name is malformed, or the folder's device has joined already.
        RefusedError: the token is wrong, used or expired, or the server is not the token's fleet.
        UnreachableError: the coordinator does not answer.
    """
    read = Token.read(token)
    if (folder / CERTIFICATE).is_file():
        raise InputError(f"the device in {folder} has joined already", do="take another folder, or renew")
    authority = _authority(coordinator, read)
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    key = _key(folder)
    name = name or f"device-{_short(key)}"
    fields = {"number": read.number.hex(), "secret": read.secret.hex(), "name": name}
    asked = fields | {"request": signing_request(key, name).decode()}
    told = ask(coordinator, "/join", asked, client_context(authority), peer=_PEER)
    replace_file(folder / AUTHORITY, authority.encode())
    facts = {each: told[each] for each in ("profile", "labels", "work_key", "fleet")}
    State(folder).keep(name=name, coordinator=list(coordinator), **facts)
    _accept(folder, name, told)  # last, since it is what says that the device has joined
    return load(folder)


def renew(identity: Identity) -> Identity:
    """Gets a new certificate for the same key; the present one proves who asks.

    Raises:
        RefusedError: the device was revoked, or its certificate has ended.
        UnreachableError: the coordinator does not answer.
    """
    certificate, key, authority = identity.files
    if identity.days_left() <= 0:
        raise RefusedError(f"the certificate of {identity.name} has ended", do="join again with a new token")
    context: ssl.SSLContext = client_context(authority.read_text(), (certificate, key))
    asked = {"request": signing_request(read_secret(key), identity.name).decode()}
    told = ask(identity.coordinator, "/renew", asked, context, peer=_PEER)
    _accept(identity.folder, identity.name, told)
    return identity


def hello(identity: Identity) -> dict[str, Any]:
    """Returns what the coordinator tells a device that it lets in: its ``time`` and ``version``.

    Raises:
        RefusedError: the device was revoked, or either certificate does not hold.
        UnreachableError: the coordinator does not answer.
    """
    certificate, key, authority = identity.files
    context = client_context(authority.read_text(), (certificate, key))
    return ask(identity.coordinator, "/hello", {}, context, peer=_PEER)


def _authority(coordinator: tuple[str, int], token: Token) -> str:
    """Returns the certificate of the token's authority; the line that brings it is not trusted, the digest is."""
    told = ask(coordinator, "/authority", None, client_context(None), peer=_PEER)
    certificate = told.get("certificate")
    try:
        known = fingerprint(str(certificate).encode()) == token.authority.hex()
    except InputError:
        known = False
    if not known:
        raise RefusedError(
            f"{coordinator[0]}:{coordinator[1]} is not the coordinator of the fleet that made this token",
            do="check the address; the token was not sent",
        )
    return str(certificate)


def _key(folder: Path) -> bytes:
    path = folder / KEY
    if not path.exists():
        made = ec.generate_private_key(ec.SECP384R1())
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        write_secret(path, made.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return read_secret(path)


def _short(key: bytes) -> str:
    """Returns eight characters of the public key's hash."""
    public = serialization.load_pem_private_key(key, None).public_key()
    raw = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(raw).hexdigest()[:8]


def _accept(folder: Path, name: str, told: dict[str, Any]) -> None:
    certificate = str(told.get("certificate")).encode()
    if name_in(certificate) != device_name(name):
        raise RefusedError("the coordinator sent a certificate for somebody else")
    replace_file(folder / CERTIFICATE, certificate)
