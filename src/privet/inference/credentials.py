"""What a client of the inference service shows: a certificate of the fleet's authority, or a token over HTTPS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from privet.errors import InputError, RefusedError
from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
from privet.transport.certificates import require_current
from privet.transport.enrolment import client_context
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE, Identity
from privet.transport.key_files import read_secret

TOKEN_FILE = "token"  # noqa: S105 - a file's name
_PAIRS = ((CERTIFICATE_FILE, KEY_FILE), ("device.pem", "device.key"))  # of `privet serve certify`, of the agent


@dataclass(frozen=True)
class Credentials:
    """What a client shows, and whom it trusts.

    Attributes:
        authority: PEM of the authority that signed the service's certificate.
        pair: files of the own certificate and key; None when there are none.
        token: for HTTPS; "" when there is none.
    """

    authority: bytes
    pair: tuple[Path, Path] | None = None
    token: str = field(default="", repr=False)

    @classmethod
    def load(cls, folder: Path) -> Credentials:
        """Returns what a folder holds: ``authority.pem``, and a certificate with its key, or a ``token``, or both.

        A device's folder, which ``privet agent join`` made, is one.

        Raises:
            InputError: a file is missing or damaged.
            RefusedError: others can read the key or the token, or a certificate has expired.
        """
        if not (folder / AUTHORITY_FILE).is_file():
            raise InputError(f"{folder / AUTHORITY_FILE} is missing", do="get it from who runs the service")
        pairs = [(folder / shown, folder / key) for shown, key in _PAIRS if (folder / shown).is_file()]
        for path in (folder / AUTHORITY_FILE, *(shown for shown, _ in pairs)):
            try:
                require_current(path.read_bytes(), str(path), "get a new one from who runs the service")
            except InputError as error:
                raise InputError(f"{path}: {error.wrong}", allowed="PEM", do="get it again") from None
        for _, key in pairs:
            read_secret(key)
        try:
            token = read_secret(folder / TOKEN_FILE).decode("ascii").strip() if (folder / TOKEN_FILE).exists() else ""
        except UnicodeDecodeError:
            raise InputError(f"{folder / TOKEN_FILE} is no token", do="get it again") from None
        if not pairs and not token:
            raise InputError(f"{folder} holds no certificate and no token", do="get one from who runs the service")
        return cls((folder / AUTHORITY_FILE).read_bytes(), pairs[0] if pairs else None, token)

    def identity(self) -> Identity:
        """Returns the certificate as gRPC takes it.

        Raises:
            RefusedError: there is only a token.
        """
        if self.pair is None:
            raise RefusedError("gRPC and MQTT need a certificate", do="ask over https with the token")
        return Identity(read_secret(self.pair[1]), self.pair[0].read_bytes(), self.authority)

    def context(self) -> ssl.SSLContext:
        """Returns TLS 1.3 that trusts the authority and nobody else, and shows the certificate if there is one.

        Raises:
            InputError: a certificate is damaged.
        """
        try:
            return client_context(self.authority.decode("ascii"), self.pair)
        except (ssl.SSLError, ValueError):
            raise InputError("the authority's or the own certificate is damaged", do="get the files again") from None
