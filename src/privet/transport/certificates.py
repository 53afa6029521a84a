"""A small certificate authority: who may talk to whom, without an outside service.

A certificate names its holder as ``role/name``, such as ``miner/factory-a``, in a URI (``privet:miner/factory-a``) and
as the DNS name ``factory-a.miner.privet.internal``. Whoever connects asks for that DNS name, so a peer is known by its
name and not by where it happens to be; ``.internal`` is set aside for private use and resolves nowhere.

Keys are ECDSA over P-256, certificates last 30 days, and a holder makes its key where it stays: what travels is a
request, signed by the key, which the authority signs only for the name and hosts that it was told to allow.

References: RFC 5280 (profile), RFC 2986 (requests), RFC 8446 section 4.4.2.2 (what TLS 1.3 asks of a certificate).
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privet.errors import InputError, RefusedError
from privet.transport.key_files import read_secret, write_secret

KEY_FILE, CERTIFICATE_FILE = "authority.key", "authority.pem"
DOMAIN = "privet.internal"
CURVES = ("secp256r1", "secp384r1")
"""Keys that the authority signs: P-256 and P-384."""

_SKEW = datetime.timedelta(minutes=10)
_PART = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
_NAME = re.compile(f"({_PART})/({_PART})")
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_PART}(?:\.{_PART})*")


def new_key() -> bytes:
    """Returns a new ECDSA key over P-256 as PEM; :func:`privet.transport.key_files.write_secret` keeps it."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def request(key: bytes, name: str, hosts: Sequence[str] = ()) -> bytes:
    """Returns a signing request (PEM) for a key.

    Args:
        key: PEM of :func:`new_key`.
        name: ``role/name``, both of small letters, digits and hyphens.
        hosts: DNS names and IP addresses under which the holder is reached by programs that know it by these.

    Raises:
        InputError: the key, the name or a host is malformed.
    """
    made = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    return (
        made.add_extension(_names(name, hosts), critical=False)
        .sign(_private(key), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@dataclass(frozen=True)
class Authority:
    """Signs certificates; whoever has its key decides who takes part.

    Attributes:
        key: its secret key as PEM.
        certificate: its own certificate as PEM; every participant holds it and trusts what it signed.
    """

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return f"Authority({fingerprint(self.certificate)})"

    @classmethod
    def create(cls, name: str, days: int = 3650) -> Authority:
        """Returns a new authority.

        Args:
            name: what people call it, 1 to 64 characters.
            days: how long it lasts.

        Raises:
            InputError: the name is empty or too long, or it would not last a day.
        """
        if not 0 < len(name) <= 64 or days < 1:
            raise InputError("an authority needs a name of 1 to 64 characters, and a day or more")
        key = new_key()
        holder = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _begin(holder, holder, _private(key).public_key(), days)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_usage(sign_certificates=True), critical=True)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_private(key).public_key()), critical=False
        )
        signed = made.sign(_private(key), hashes.SHA256())
        return cls(key, signed.public_bytes(serialization.Encoding.PEM))

    def save(self, folder: Path) -> None:
        """Writes ``authority.key`` (mode 0600) and ``authority.pem`` into a folder, made when absent.

        Raises:
            InputError: there is an authority in it already.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(folder / KEY_FILE, self.key)
        (folder / CERTIFICATE_FILE).write_bytes(self.certificate)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Returns the authority that :meth:`save` wrote.

        Raises:
            InputError: a file is missing or malformed, or they don't belong together.
            RefusedError: others can read the key.
        """
        key, path = read_secret(folder / KEY_FILE), folder / CERTIFICATE_FILE
        if not path.is_file():
            raise InputError(f"{path} is missing")
        certificate = path.read_bytes()
        if _read(certificate).public_key() != _private(key).public_key():
            raise InputError(f"{path} is not the certificate of {KEY_FILE}")
        return cls(key, certificate)

    def sign(self, csr: bytes, *, name: str, hosts: Sequence[str] = (), days: int = 30) -> bytes:
        """Returns the certificate (PEM) for a signing request (PEM).

        Args:
            csr: from :func:`request`.
            name: ``role/name`` that the holder has; what it must ask for.
            hosts: what it may ask for besides. With a host or more it may be a server as well as a client.
            days: how long the certificate lasts, though never longer than the authority.

        Raises:
            InputError: the request is malformed, or its key is not ECDSA over P-256 or P-384.
            RefusedError: it asks for another name or host, or its signature is not its key's.
        """
        asked = _read_request(csr)
        public = asked.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in CURVES:
            raise InputError("the request's key can't be used", allowed="ECDSA over P-256 or P-384")
        if not asked.is_signature_valid:
            raise RefusedError("the request is not signed by its own key")
        wanted = _asked_names(asked)
        allowed = set(_names(name, hosts))
        if not set(_names(name, ())) <= set(wanted) <= allowed or asked.subject != _subject(name):
            raise RefusedError(
                f"the request is not for {name}, or for hosts that it may not have", allowed=", ".join([name, *hosts])
            )
        own = _read(self.certificate)
        made = _begin(own.subject, _subject(name), public, days, own.not_valid_after_utc)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(sign_certificates=False), critical=True)
        made = made.add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        server = [ExtendedKeyUsageOID.SERVER_AUTH] if len(wanted) > 2 else []
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, *server]), critical=False)
        identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        return made.sign(_private(self.key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, hosts: Sequence[str] = (), days: int = 30) -> tuple[bytes, bytes]:
        """Returns a new key and its certificate (both PEM), where the authority makes the key for the holder.

        Raises:
            InputError: the name or a host is malformed.
        """
        key = new_key()
        return key, self.sign(request(key, name, hosts), name=name, hosts=hosts, days=days)


def fingerprint(certificate: bytes) -> str:
    """Returns the sha256 of a certificate (PEM) in hexadecimal, as people compare it over another line.

    Raises:
        InputError: it is no certificate.
    """
    return _read(certificate).fingerprint(hashes.SHA256()).hex()


def expires(certificate: bytes) -> datetime.datetime:
    """Returns when a certificate (PEM) ceases to hold, in UTC.

    Raises:
        InputError: it is no certificate.
    """
    return _read(certificate).not_valid_after_utc


def require_current(certificate: bytes, named: str, do: str) -> None:
    """Refuses a certificate (PEM) that has expired.

    Args:
        certificate: to be looked at.
        named: what the error calls it.
        do: what to do.

    Raises:
        InputError: it is no certificate.
        RefusedError: it has expired.
    """
    end = expires(certificate)
    if end <= datetime.datetime.now(datetime.UTC):
        raise RefusedError(f"{named} expired on {end:%Y-%m-%d}", do=do)


def issued_by(certificate: bytes, authorities: bytes) -> bool:
    """Returns whether one of some authorities (PEM, one after the other) signed a certificate (PEM).

    Raises:
        InputError: one of them is no certificate.
    """
    own = _read(certificate)
    try:
        known = x509.load_pem_x509_certificates(authorities)
    except ValueError:
        raise InputError("this is no certificate of an authority") from None
    return any(_signed(own, each) for each in known)


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def name_in(certificate: bytes) -> str:
    """Returns the ``role/name`` that a certificate (PEM) names; that somebody trusted signed it is for TLS to check.

    Raises:
        InputError: it is no certificate, or names nobody in this way.
    """
    try:
        names = _read(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InputError("the certificate names nobody") from None
    holders = [uri.removeprefix("privet:") for uri in names.get_values_for_type(x509.UniformResourceIdentifier)]
    if len(holders) != 1 or not _NAME.fullmatch(holders[0]):
        raise InputError("the certificate names nobody")
    return holders[0]


def host_of(name: str) -> str:
    """Returns the DNS name by which a peer's certificate is known.

    >>> host_of("miner/factory-a")
    'factory-a.miner.privet.internal'

    Raises:
        InputError: ``name`` is not ``role/name``.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name[:80]!r} is no name", allowed="role/name of small letters, digits, hyphens, 40 each")
    return f"{found[2]}.{found[1]}.{DOMAIN}"


def _names(name: str, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    named: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"privet:{name}"), x509.DNSName(host_of(name))]
    for host in hosts:
        try:
            named.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host) or host.endswith(DOMAIN):
                raise InputError(f"{host[:80]!r} is no host", allowed="a DNS name or an IP address") from None
            named.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(named)


def _subject(name: str) -> x509.Name:
    host_of(name)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _begin(
    issuer: x509.Name,
    holder: x509.Name,
    public: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(holder)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - _SKEW)
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.curve.name not in CURVES:
        raise InputError("this is no key of ours", allowed="PEM of an ECDSA key over P-256 or P-384")
    return loaded


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise InputError("this is no certificate", allowed="PEM") from None


def _read_request(csr: bytes) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(csr)
    except ValueError:
        raise InputError("this is no signing request", allowed="PEM") from None


def _asked_names(asked: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    try:
        return list(asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        raise RefusedError("the request names nobody") from None
