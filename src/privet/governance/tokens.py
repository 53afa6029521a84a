"""One-time tokens: what a device shows to be enrolled, and how it knows to whom it shows it.

A token carries 192 secret bits and the sha256 of the fleet's authority. The device checks the authority against that
digest before it says anything, so the first contact is authenticated both ways. The fleet keeps a hash of the secret,
which has too many bits to be guessed from it; it compares in constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from privet.errors import InputError

_PREFIX = "privet1-"
_NUMBER, _SECRET, _DIGEST = 8, 24, 32


@dataclass(frozen=True)
class Token:
    """An invitation for one device.

    Attributes:
        number: under which the fleet knows it, 8 bytes, no secret.
        secret: 24 bytes; whoever knows them is enrolled.
        authority: sha256 of the fleet's authority certificate (DER), 32 bytes.
    """

    number: bytes
    secret: bytes = field(repr=False)
    authority: bytes

    @classmethod
    def fresh(cls, authority: bytes) -> Token:
        """Returns a token that nobody has seen, from the operating system's randomness."""
        return cls(secrets.token_bytes(_NUMBER), secrets.token_bytes(_SECRET), authority)

    @classmethod
    def read(cls, text: str) -> Token:
        """Returns the token that :meth:`text` wrote.

        Raises:
            InputError: it is no token, or one that was cut; the message does not repeat it.
        """
        try:
            raw = base64.b64decode(text.strip().removeprefix(_PREFIX), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not text.strip().startswith(_PREFIX) or len(raw) != _NUMBER + _SECRET + _DIGEST + 4:
            raise _unreadable()
        body, check = raw[:-4], raw[-4:]
        if hashlib.sha256(body).digest()[:4] != check:
            raise _unreadable()
        return cls(body[:_NUMBER], body[_NUMBER : _NUMBER + _SECRET], body[_NUMBER + _SECRET :])

    def text(self) -> str:
        """Returns the token as one word to hand over; its last characters find slips of the pen."""
        body = self.number + self.secret + self.authority
        return _PREFIX + base64.urlsafe_b64encode(body + hashlib.sha256(body).digest()[:4]).decode("ascii")


def hash_of(secret: bytes) -> bytes:
    """Returns what a fleet keeps of a token's secret, 32 bytes."""
    return hashlib.sha256(b"privet invitation\0" + secret).digest()


def same(secret: bytes, kept: bytes) -> bool:
    """Returns whether a secret is the one whose hash was kept, in a time that says nothing about either."""
    return hmac.compare_digest(hash_of(secret), kept)


def _unreadable() -> InputError:
    return InputError(
        "this is no token of a Privet fleet, or a part of it is missing",
        allowed=f"one word that begins with {_PREFIX}, as privet fleet invite printed it",
        do="copy it whole",
    )
