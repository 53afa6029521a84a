"""A verifiable random function: ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381), over libsodium's curve arithmetic.

Whoever holds a secret key turns a message into 64 bytes that nobody else could have foreseen, with a proof that
these are the only ones possible; anybody checks the proof with the public key. Steps are numbered as in the RFC.

Stricter than the RFC: libsodium refuses points outside the subgroup of prime order, so that a proof whose Gamma
carries a part of small order, which the RFC lets through with the same output, is not accepted here; nor is a proof
with c = 0 or s = 0, which no prover meets but with probability below 2^-127.

Unaudited. Secret values meet only libsodium's constant-time calls.
"""

from __future__ import annotations

import hashlib
import hmac

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

from privet.errors import InputError

SUITE = b"\x03"
"""``suite_string`` of ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381 section 5.5)."""

SECRET_BYTES = PUBLIC_BYTES = POINT_BYTES = SCALAR_BYTES = 32
CHALLENGE_BYTES = 16
PROOF_BYTES = POINT_BYTES + CHALLENGE_BYTES + SCALAR_BYTES
OUTPUT_BYTES = 64

ORDER = 2**252 + 27742317777372353535851937790883648493
"""Order q of the prime subgroup (RFC 8032 section 5.1)."""

_FIELD = 2**255 - 19
_IDENTITY = (1).to_bytes(POINT_BYTES, "little")


def public_key(secret: bytes) -> bytes:
    """Returns the 32-byte public key of a 32-byte secret key (RFC 8032 section 5.1.5).

    Don't sign with a key that also proves: use :mod:`privet.crypto.signatures` with another one.

    Raises:
        InputError: the secret key is not 32 bytes long.
    """
    if len(secret) != SECRET_BYTES:
        raise InputError(f"a VRF secret key has {SECRET_BYTES} bytes, not {len(secret)}")
    return sodium.crypto_sign_seed_keypair(secret)[0]


def valid_key(public: bytes) -> bool:
    """Returns whether a public key is a canonical point of the prime subgroup, not of small order (section 5.4.5).

    Register only keys for which this holds: for others a prover could have had more than one output per message.
    """
    return len(public) == PUBLIC_BYTES and sodium.crypto_core_ed25519_is_valid_point(public)


def prove(secret: bytes, message: bytes) -> bytes:
    """Returns the 80-byte proof for a message (RFC 9381 section 5.1); the same every time.

    Args:
        secret: 32 bytes.
        message: ``alpha_string``, any bytes.

    Raises:
        InputError: the secret key is not 32 bytes long.
    """
    public = public_key(secret)  # step 1
    expanded = hashlib.sha512(secret).digest()
    scalar = bytes([expanded[0] & 248]) + expanded[1:31] + bytes([expanded[31] & 127 | 64])
    point = _encode_to_curve(public, message)  # steps 2 and 3
    gamma = sodium.crypto_scalarmult_ed25519_noclamp(scalar, point)  # step 4
    nonce = sodium.crypto_core_ed25519_scalar_reduce(hashlib.sha512(expanded[32:] + point).digest())  # step 5
    at_base = sodium.crypto_scalarmult_ed25519_base_noclamp(nonce)
    at_point = sodium.crypto_scalarmult_ed25519_noclamp(nonce, point)
    challenge = _challenge(public, point, gamma, at_base, at_point)  # step 6
    reduced = sodium.crypto_core_ed25519_scalar_reduce(scalar + bytes(32))
    product = sodium.crypto_core_ed25519_scalar_mul(challenge + bytes(16), reduced)
    return gamma + challenge + sodium.crypto_core_ed25519_scalar_add(nonce, product)  # steps 7 and 8


def verify(public: bytes, message: bytes, proof: bytes) -> bytes | None:
    """Returns the output of a proof, or None when it is not the proof of this key for this message.

    RFC 9381 section 5.3 with validation of the key. Never raises for what a stranger sent.

    Args:
        public: the prover's 32 bytes.
        message: ``alpha_string``, what was to be proved.
        proof: 80 bytes.

    Returns:
        64 bytes (``beta_string``) that no other proof of this key and message gives, or None.
    """
    if len(proof) != PROOF_BYTES or not valid_key(public):  # steps 1 to 3
        return None
    gamma, challenge, scalar = proof[:32], proof[32:48], proof[48:]  # steps 4 to 6 (section 5.4.4)
    if int.from_bytes(scalar, "little") >= ORDER:
        return None
    point = _encode_to_curve(public, message)  # step 7
    times = sodium.crypto_scalarmult_ed25519_noclamp
    minus = sodium.crypto_core_ed25519_sub
    wide = challenge + bytes(16)
    try:  # libsodium refuses a gamma that is not a canonical point of the prime subgroup
        at_base = minus(sodium.crypto_scalarmult_ed25519_base_noclamp(scalar), times(wide, public))  # step 8
        at_point = minus(times(scalar, point), times(wide, gamma))  # step 9
    except CryptoError:
        return None
    if not hmac.compare_digest(challenge, _challenge(public, point, gamma, at_base, at_point)):  # steps 10 and 11
        return None
    return _output(gamma)


def proof_to_hash(proof: bytes) -> bytes:
    """Returns the 64-byte output that a proof holds (RFC 9381 section 5.2), **without verifying it**.

    Only for a proof that was just made by :func:`prove`; use :func:`verify` for everybody else's.

    Raises:
        InputError: the proof's length, point or scalar is wrong.
    """
    well_formed = len(proof) == PROOF_BYTES and int.from_bytes(proof[48:], "little") < ORDER
    if not well_formed or not sodium.crypto_core_ed25519_is_valid_point(proof[:32]):
        raise InputError("this is not a VRF proof", allowed="80 bytes: a point, a challenge, a reduced scalar")
    return _output(proof[:32])


def _output(gamma: bytes) -> bytes:
    return hashlib.sha512(SUITE + b"\x03" + _times_cofactor(gamma) + b"\x00").digest()


def _challenge(*points: bytes) -> bytes:
    """Hashes five points to 16 bytes (RFC 9381 section 5.4.3)."""
    return hashlib.sha512(SUITE + b"\x02" + b"".join(points) + b"\x00").digest()[:CHALLENGE_BYTES]


def _encode_to_curve(salt: bytes, message: bytes) -> bytes:
    """Hashes a message to a point by try and increment (RFC 9381 section 5.4.1.1).

    How long it takes depends on the message, so messages must be public (section 7.4); here they are seeds.
    """
    counter = 0
    while True:
        tried = SUITE + b"\x01" + salt + message + counter.to_bytes(1, "big") + b"\x00"
        candidate = hashlib.sha512(tried).digest()[:POINT_BYTES]
        point = _decode_times_cofactor(candidate)
        if point is not None:
            return point
        counter += 1


def _decode_times_cofactor(candidate: bytes) -> bytes | None:
    """Decodes a point as RFC 8032 section 5.1.3 does and clears its cofactor; None for no point, or the identity."""
    if int.from_bytes(candidate, "little") % 2**255 >= _FIELD:  # libsodium would reduce it
        return None
    try:
        point = _times_cofactor(candidate)
    except CryptoError:
        return None
    return None if point == _IDENTITY else point


def _times_cofactor(point: bytes) -> bytes:
    for _ in range(3):  # a product would be refused outside the prime subgroup; sums are not
        point = sodium.crypto_core_ed25519_add(point, point)
    return point
