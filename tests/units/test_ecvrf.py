"""The verifiable random function: the RFC's vectors, and every way of cheating with a proof."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from nacl import bindings as sodium

from privet.crypto import ecvrf
from privet.errors import InputError

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc9381.json").read_text())["vectors"]
SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = ecvrf.public_key(SECRET)
MESSAGE = b"seed, round 7"
PROOF = ecvrf.prove(SECRET, MESSAGE)

P, Q = 2**255 - 19, ecvrf.ORDER
SMALL_ORDER = [  # y of the eight points of small order, as libsodium's blocklist has them, and encodings over p
    0,
    1,
    P - 1,
    P,
    P + 1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"example {vector['example']}")
def test_vectors_of_rfc_9381(vector: dict[str, str]) -> None:
    secret, public, message, point, proof, output = (
        bytes.fromhex(vector[key]) for key in ("secret", "public", "message", "point", "proof", "output")
    )
    assert ecvrf.public_key(secret) == public
    assert ecvrf._encode_to_curve(public, message) == point
    assert ecvrf.prove(secret, message) == proof
    assert ecvrf.proof_to_hash(proof) == output
    assert ecvrf.verify(public, message, proof) == output


@given(secret=some.binary(min_size=32, max_size=32), message=some.binary(max_size=80))
@settings(max_examples=30)
def test_every_proof_verifies_and_gives_its_output(secret: bytes, message: bytes) -> None:
    proof = ecvrf.prove(secret, message)
    output = ecvrf.verify(ecvrf.public_key(secret), message, proof)
    assert output == ecvrf.proof_to_hash(proof)
    assert len(output) == ecvrf.OUTPUT_BYTES


@given(place=some.integers(0, 80 * 8 - 1))
@settings(max_examples=100)
def test_a_proof_with_any_bit_flipped_is_none(place: int) -> None:
    forged = bytearray(PROOF)
    forged[place // 8] ^= 1 << place % 8
    assert ecvrf.verify(PUBLIC, MESSAGE, bytes(forged)) is None


def test_anothers_proof_another_message_and_another_key_are_none() -> None:
    theirs = ecvrf.prove(OTHER, MESSAGE)
    assert ecvrf.verify(PUBLIC, MESSAGE, theirs) is None
    assert ecvrf.verify(ecvrf.public_key(OTHER), MESSAGE, PROOF) is None
    assert ecvrf.verify(PUBLIC, b"seed, round 8", PROOF) is None
    assert ecvrf.verify(PUBLIC, MESSAGE, theirs[:32] + PROOF[32:]) is None


def test_a_gamma_that_the_forger_chose_is_none() -> None:
    # The output is a hash of gamma: whoever could choose gamma could choose to lead.
    gamma = sodium.crypto_core_ed25519_add(PROOF[:32], ecvrf.public_key(OTHER))
    assert sodium.crypto_core_ed25519_is_valid_point(gamma)
    assert ecvrf.verify(PUBLIC, MESSAGE, gamma + PROOF[32:]) is None


def test_a_proof_of_wrong_length_is_none() -> None:
    for forged in (b"", PROOF[:-1], PROOF + b"\0", bytes(80), b"\xff" * 80):
        assert ecvrf.verify(PUBLIC, MESSAGE, forged) is None


def test_a_scalar_that_is_not_reduced_is_none() -> None:
    scalar = int.from_bytes(PROOF[48:], "little")
    forged = PROOF[:48] + (scalar + Q).to_bytes(32, "little")
    assert ecvrf.verify(PUBLIC, MESSAGE, forged) is None
    with pytest.raises(InputError, match="not a VRF proof"):
        ecvrf.proof_to_hash(forged)


@pytest.mark.parametrize("start", [32, 48], ids=["challenge 0", "scalar 0"])
def test_zero_as_challenge_or_scalar_is_none(start: int) -> None:
    stop = 48 if start == 32 else 80
    assert ecvrf.verify(PUBLIC, MESSAGE, PROOF[:start] + bytes(stop - start) + PROOF[stop:]) is None


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", SMALL_ORDER)
def test_points_of_small_order_and_over_the_field_are_no_keys_and_no_gammas(y: int, sign: int) -> None:
    point = (y | sign << 255).to_bytes(32, "little")
    assert ecvrf._times_cofactor(point) == (1).to_bytes(32, "little")  # it is of small order
    assert not ecvrf.valid_key(point)
    assert ecvrf.verify(point, MESSAGE, PROOF) is None
    assert ecvrf.verify(PUBLIC, MESSAGE, point + PROOF[32:]) is None
    with pytest.raises(InputError, match="not a VRF proof"):
        ecvrf.proof_to_hash(point + PROOF[32:])


def test_a_point_outside_the_prime_subgroup_is_no_key_and_no_gamma() -> None:
    order_two = (P - 1).to_bytes(32, "little")
    for point in (PUBLIC, PROOF[:32]):
        mixed = sodium.crypto_core_ed25519_add(point, order_two)
        assert not ecvrf.valid_key(mixed)
        assert ecvrf.verify(mixed, MESSAGE, PROOF) is None
        assert ecvrf.verify(PUBLIC, MESSAGE, mixed + PROOF[32:]) is None


def test_a_key_of_wrong_length_is_none_and_a_secret_of_wrong_length_is_refused() -> None:
    assert not ecvrf.valid_key(PUBLIC + b"\0")
    assert ecvrf.verify(PUBLIC[:-1], MESSAGE, PROOF) is None
    with pytest.raises(InputError, match="32 bytes, not 31"):
        ecvrf.prove(SECRET[:-1], MESSAGE)


def test_encodings_over_the_field_are_tried_again() -> None:
    # No hash that we could find is one; libsodium alone would take p + 3 for 3.
    for y in (P, P + 3, 2**255 - 1):
        assert ecvrf._decode_times_cofactor(y.to_bytes(32, "little")) is None
    assert ecvrf._decode_times_cofactor((3).to_bytes(32, "little")) is not None
    assert ecvrf._decode_times_cofactor((2).to_bytes(32, "little")) is None  # not on the curve
    assert ecvrf._decode_times_cofactor((1).to_bytes(32, "little")) is None  # the identity


def test_a_key_that_also_signs_plainly_gives_itself_away() -> None:
    # RFC 8032 and RFC 9381 derive the nonce alike: a signature of the message's point and the proof share it.
    point = ecvrf._encode_to_curve(PUBLIC, MESSAGE)
    signature = sodium.crypto_sign(point, sodium.crypto_sign_seed_keypair(SECRET)[1])[:64]
    asked = int.from_bytes(hashlib.sha512(signature[:32] + PUBLIC + point).digest(), "little")
    proved = int.from_bytes(PROOF[32:48], "little")
    difference = int.from_bytes(PROOF[48:], "little") - int.from_bytes(signature[32:], "little")
    scalar = difference * pow(proved - asked, -1, Q) % Q
    assert sodium.crypto_scalarmult_ed25519_base_noclamp(scalar.to_bytes(32, "little")) == PUBLIC
