"""Ed25519 signatures (RFC 8032) over canonical bytes, each bound to what it is for.

What is signed is ``purpose``, a zero byte, then the message: a signature made for a vote is none for a transaction.
libsodium verifies strictly: a scalar that is not reduced, and points that are not canonical or of small order, fail.
"""

from __future__ import annotations

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from privet.errors import InputError

SECRET_BYTES = PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64


def public_key(secret: bytes) -> bytes:
    """Returns the 32-byte public key of a 32-byte secret key (RFC 8032 section 5.1.5).

    Raises:
        InputError: the secret key is not 32 bytes long.
    """
    return _pair(secret)[0]


def sign(secret: bytes, purpose: str, message: bytes) -> bytes:
    """Returns the 64-byte signature of a message for one purpose; the same every time.

    Args:
        secret: 32 bytes.
        purpose: what it is signed for, for example ``privet vote``; ASCII without a zero character, not empty.
        message: canonical bytes.

    Raises:
        InputError: the secret key or the purpose is wrong.
    """
    return sodium.crypto_sign(_bound(purpose, message), _pair(secret)[1])[:SIGNATURE_BYTES]


def verify(public: bytes, purpose: str, message: bytes, signature: bytes) -> bool:
    """Returns whether a signature is this key's for this message and purpose; False for whatever is malformed.

    Raises:
        InputError: the purpose is wrong, which is the caller's fault, not the sender's.
    """
    signed = _bound(purpose, message)
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        sodium.crypto_sign_open(signature + signed, public)
    except CryptoError:
        return False
    return True


def _pair(secret: bytes) -> tuple[bytes, bytes]:
    if len(secret) != SECRET_BYTES:
        raise InputError(f"an Ed25519 secret key has {SECRET_BYTES} bytes, not {len(secret)}")
    return sodium.crypto_sign_seed_keypair(secret)


def _bound(purpose: str, message: bytes) -> bytes:
    if not purpose or not purpose.isascii() or "\0" in purpose:
        raise InputError(f"{purpose!r} is no purpose of a signature", allowed="ASCII, not empty, no zero character")
    return purpose.encode("ascii") + b"\0" + message
