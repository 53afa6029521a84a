"""Signatures: the RFC's own through libsodium, bound to a purpose, and strict about what is malformed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from nacl import bindings as sodium

from privet.crypto import signatures
from privet.crypto.ecvrf import ORDER
from privet.errors import InputError

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = signatures.public_key(SECRET)
MESSAGE = b"canonical bytes"
SIGNATURE = signatures.sign(SECRET, "vote", MESSAGE)


def test_public_key_of_rfc_8032_section_7_1_test_1() -> None:
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signatures.public_key(secret).hex() == public


def test_signs_purpose_zero_byte_message_as_ed25519_does() -> None:
    plain = sodium.crypto_sign(b"vote\0canonical bytes", sodium.crypto_sign_seed_keypair(SECRET)[1])
    assert plain[:64] == SIGNATURE
    assert signatures.verify(PUBLIC, "vote", MESSAGE, SIGNATURE)


def test_another_message_purpose_key_or_signature_does_not_verify() -> None:
    assert not signatures.verify(PUBLIC, "vote", MESSAGE + b"\0", SIGNATURE)
    assert not signatures.verify(PUBLIC, "transaction", MESSAGE, SIGNATURE)
    assert not signatures.verify(PUBLIC, "vot", b"e\0" + MESSAGE, SIGNATURE)
    assert not signatures.verify(signatures.public_key(OTHER), "vote", MESSAGE, SIGNATURE)
    assert not signatures.verify(PUBLIC, "vote", MESSAGE, signatures.sign(OTHER, "vote", MESSAGE))


@given(place=some.integers(0, 64 * 8 - 1))
@settings(max_examples=60)
def test_a_signature_with_any_bit_flipped_does_not_verify(place: int) -> None:
    forged = bytearray(SIGNATURE)
    forged[place // 8] ^= 1 << place % 8
    assert not signatures.verify(PUBLIC, "vote", MESSAGE, bytes(forged))


def test_a_signature_can_be_written_in_one_way_only() -> None:
    scalar = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not signatures.verify(PUBLIC, "vote", MESSAGE, SIGNATURE[:32] + scalar.to_bytes(32, "little"))


def test_a_key_of_small_order_signs_nothing() -> None:
    # With the identity as key and R, and s = 0, the equation holds for every message.
    identity = (1).to_bytes(32, "little")
    assert not signatures.verify(identity, "vote", MESSAGE, identity + bytes(32))


@pytest.mark.parametrize("purpose", ["", "vöte", "vo\0te"])
def test_a_purpose_that_binds_nothing_is_refused(purpose: str) -> None:
    with pytest.raises(InputError, match="no purpose"):
        signatures.sign(SECRET, purpose, MESSAGE)
    with pytest.raises(InputError, match="no purpose"):
        signatures.verify(PUBLIC, purpose, MESSAGE, SIGNATURE)


def test_wrong_lengths() -> None:
    assert not signatures.verify(PUBLIC[:-1], "vote", MESSAGE, SIGNATURE)
    assert not signatures.verify(PUBLIC, "vote", MESSAGE, SIGNATURE[:-1])
    assert not signatures.verify(PUBLIC, "vote", MESSAGE, SIGNATURE + b"\0")
    with pytest.raises(InputError, match="32 bytes, not 33"):
        signatures.sign(SECRET + b"\0", "vote", MESSAGE)
