"""Who this process is to its peers: key, certificate, and the authority that it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privet.errors import InputError
from privet.transport.certificates import CERTIFICATE_FILE as AUTHORITY_FILE
from privet.transport.certificates import name_in, require_current
from privet.transport.contract import Peer
from privet.transport.key_files import read_secret

KEY_FILE, CERTIFICATE_FILE = "transport.key", "transport.pem"


@dataclass(frozen=True, repr=False)
class Identity:
    """What one end of a connection shows and trusts.

    Attributes:
        key: secret key, PEM.
        certificate: its certificate, PEM.
        authority: certificate of the authority that signed the certificates of all peers, PEM.
    """

    key: bytes
    certificate: bytes
    authority: bytes

    @property
    def peer(self) -> Peer:
        """Who this is to others."""
        return Peer.of(name_in(self.certificate))

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Returns the identity in a folder: ``transport.key``, ``transport.pem``, ``authority.pem``.

        Raises:
            InputError: a file is missing or malformed.
            RefusedError: others can read the key, or the certificate has expired.
        """
        parts = []
        for name in (CERTIFICATE_FILE, AUTHORITY_FILE):
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing", do="let the authority sign a request")
            parts.append((folder / name).read_bytes())
        certificate, authority = parts
        for part in parts:
            require_current(part, f"a certificate in {folder}", "let the authority sign a new request")
        name_in(certificate)
        return cls(read_secret(folder / KEY_FILE), certificate, authority)
