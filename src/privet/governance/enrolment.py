"""A fleet's authority: who is let in, renewed and turned away.

The folder of a fleet holds the authority's key, the coordinator's key and certificate, the key that signs work, and the
registry. Nothing in it has a default: each key is made when the fleet is, and only its owner can read it.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from privet import __version__
from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError
from privet.governance.registry import Clock, Registry
from privet.governance.tokens import Token
from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
from privet.transport.certificates import Authority, expires, fingerprint, name_in, request
from privet.transport.enrolment import EnrolmentServer, Request, server_context
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE
from privet.transport.key_files import read_secret, write_secret

COORDINATOR = "coordinator/main"
"""The name in the coordinator's certificate."""

EDGE_FOLDER, EDGE_NAME = "edge", "edge/main"
"""Where in a fleet's folder the edge server's files are, and the name in its certificate."""

DAYS = 30
"""How long a device's certificate lasts."""

_COORDINATOR_DAYS = 365  # the authority's key lies beside this one, so a shorter life would guard nothing
_MOST_TOKENS = 100_000


def device_name(name: str) -> str:
    """Returns the name of a device as its certificate has it.

    >>> device_name("gateway-7")
    'device/gateway-7'
    """
    return f"device/{name}"


class Fleet:
    """A fleet as its operator holds it.

    Args:
        folder: as :meth:`create` made it.

    Raises:
        InputError: there is no fleet in the folder, or a file is missing.
        RefusedError: others can read a key.
    """

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        if not (folder / "fleet.db").is_file():
            raise InputError(f"no fleet in {folder}", do=f"make one: privet fleet init {folder}")
        self.folder = folder
        self.authority = Authority.load(folder)
        self.registry = Registry(folder / "fleet.db", *([clock] if clock else []))
        settings = self.registry.settings()
        self.name, self.hosts = str(settings["name"]), [str(host) for host in settings["hosts"]]

    @classmethod
    def create(cls, folder: Path, name: str = "fleet", hosts: Sequence[str] = ("localhost", "127.0.0.1")) -> Fleet:
        """Makes a fleet: authority, coordinator's key and certificate, key that signs work, empty registry.

        Args:
            folder: which must not exist.
            name: of the fleet.
            hosts: DNS names and IP addresses by which devices reach the coordinator.

        Raises:
            InputError: the folder exists, or a name or host is malformed; nothing was written.
        """
        authority = Authority.create(name)
        key, certificate = authority.issue(COORDINATOR, hosts, _COORDINATOR_DAYS)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            raise InputError(f"{folder} exists already", do="give a new folder; keys are never written over") from None
        authority.save(folder)
        write_secret(folder / "coordinator.key", key)
        (folder / "coordinator.pem").write_bytes(certificate)
        write_secret(folder / "work.key", os.urandom(32))
        Registry(folder / "fleet.db").keep(name=name, hosts=list(hosts))
        return cls(folder)

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """The coordinator's certificate, its key, and the authority's certificate, as TLS servers take them."""
        return self.folder / "coordinator.pem", self.folder / "coordinator.key", self.folder / "authority.pem"

    @property
    def work_secret(self) -> bytes:
        """The Ed25519 key that signs work, 32 bytes."""
        return read_secret(self.folder / "work.key")

    def invite(
        self, count: int, profile: str, labels: Mapping[str, str] | None = None, days: float = 7.0
    ) -> Sequence[Token]:
        """Returns one-time tokens that nobody can show again.

        Args:
            count: how many devices are invited.
            profile: hardware of each; a shipped profile's name.
            labels: of each.
            days: that the tokens last.

        Raises:
            InputError: a number is out of range, or the profile or a label is wrong.
        """
        if not 1 <= count <= _MOST_TOKENS or not 0 < days <= 365:
            raise InputError(f"{count} tokens of {days:g} days", allowed=f"1 to {_MOST_TOKENS} tokens, up to 365 days")
        from privet.fleet.profile import find_profile  # torch comes with it, and nothing else here needs it

        digest = bytes.fromhex(fingerprint(self.authority.certificate))
        return self.registry.invite(digest, count, find_profile(profile).name, labels or {}, days * 86_400)

    def serve(self, address: tuple[str, int], *, seconds: float = 10.0) -> EnrolmentServer:
        """Returns the enrolment service, listening; call ``start()`` and later ``stop()``."""
        certificate, key, authority = self.files
        context: ssl.SSLContext = server_context(certificate, key, authority, strangers=True)
        public = {"/authority": {"certificate": self.authority.certificate.decode()}}
        return EnrolmentServer(address, context, self.answer, public=public, seconds=seconds)

    def answer(self, asked: Request) -> Mapping[str, Any]:
        """Answers a device: ``/join`` with a token, ``/renew`` and ``/hello`` with its certificate.

        Raises:
            RefusedError: it is not let in.
            InputError: what it asks is malformed.
        """
        if asked.path == "/join":
            return self._join(asked.fields)
        if asked.path == "/renew":
            return self._renew(asked)
        if asked.path == "/hello":
            return {"device": self._known(asked), "time": time.time(), "version": __version__}
        raise InputError("nothing is asked here", allowed="/join, /renew, /hello")

    def admitted(self, certificate: bytes) -> str:
        """Returns the name of the device whose certificate (PEM, verified by TLS) this is.

        Ask at each connection: that is how a revocation takes effect.

        Raises:
            RefusedError: it is no device's, or the device was revoked.
        """
        return _member(self.registry, name_in(certificate))

    def prepare_edge(self) -> Path:
        """Makes the edge server's key and certificate, or renews them, and returns their folder.

        The edge server needs neither the authority's key nor the one that signs work: it gets its own and public ones.
        """
        folder = self.folder / EDGE_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        key, certificate = self.authority.issue(EDGE_NAME, self.hosts, _COORDINATOR_DAYS)
        (folder / KEY_FILE).unlink(missing_ok=True)
        write_secret(folder / KEY_FILE, key)
        (folder / CERTIFICATE_FILE).write_bytes(certificate)
        (folder / AUTHORITY_FILE).write_bytes(self.authority.certificate)
        (folder / "work.pub").write_text(public_key(self.work_secret).hex())
        return folder

    def _join(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        name, csr = _text(fields, "name"), _text(fields, "request").encode()
        number, secret = (_bytes(fields, key) for key in ("number", "secret"))
        signed: list[bytes] = []

        def issue() -> tuple[str, float]:
            signed.append(self.authority.sign(csr, name=device_name(name), days=DAYS))
            return _serial(signed[0]), expires(signed[0]).timestamp()

        member = self.registry.enrol(number, secret, name, _public(csr), issue)
        return self._told(signed[0]) | {"profile": member.profile, "labels": dict(member.labels)}

    def _renew(self, asked: Request) -> Mapping[str, Any]:
        name, csr = self._known(asked), _text(asked.fields, "request").encode()
        if _public(csr) != self.registry.find(name).public_key:
            raise RefusedError("the request is for another key", do="join again to change the key")
        signed = self.authority.sign(csr, name=device_name(name), days=DAYS)
        self.registry.renewed(name, _serial(signed), expires(signed).timestamp())
        return self._told(signed)

    def _known(self, asked: Request) -> str:
        """Returns the device that asks."""
        if asked.certificate is None:
            raise RefusedError("no certificate was shown", do="a device without one needs a new token")
        shown = x509.load_der_x509_certificate(asked.certificate).public_bytes(serialization.Encoding.PEM)
        return self.admitted(shown)

    def _told(self, certificate: bytes) -> dict[str, Any]:
        return {
            "certificate": certificate.decode(),
            "work_key": public_key(self.work_secret).hex(),
            "fleet": self.name,
        }


def admitted(registry: Registry, name: str) -> bool:
    """Whether the holder of a certificate (``role/name``) is a device of the fleet that nobody has revoked."""
    try:
        _member(registry, name)
    except RefusedError:
        return False
    return True


def _member(registry: Registry, holder: str) -> str:
    role, _, name = holder.partition("/")
    if role != "device":
        raise RefusedError("this certificate is not a device's")
    if not registry.find(name).trusted:
        raise RefusedError(f"{name} was revoked", do="ask the fleet's operator")
    return name


def signing_request(key: bytes, name: str) -> bytes:
    """Returns the signing request (PEM) of a device for a key (PEM) that stays where it is."""
    return request(key, device_name(name))


def _serial(certificate: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(certificate).serial_number:x}"


def _public(csr: bytes) -> str:
    """Returns the public key of a signing request as OpenSSH writes it, which is what Flower registers."""
    try:
        public = x509.load_pem_x509_csr(csr).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("this is no signing request", allowed="PEM") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp384r1":
        raise InputError("the device's key can't be used", allowed="ECDSA over P-384")
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value.isascii() or len(value) > 4096:
        raise InputError(f"{key} is missing or no short text")
    return value


def _bytes(fields: Mapping[str, Any], key: str) -> bytes:
    try:
        return bytes.fromhex(_text(fields, key))
    except ValueError:
        raise InputError(f"{key} is not hexadecimal") from None
