"""Shamir's sharing modulo three primes against an obvious twin in Python's integers, and what liars can do to it."""

from __future__ import annotations

import itertools
import secrets

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.crypto import shamir
from privet.crypto.shamir import MODULUS, PRIMES
from privet.errors import InputError, RefusedError

KEY = bytes(range(32))
NUMBERS = np.array([0, 1, -1, 7, 1 << 21, -(1 << 21), (1 << 60) + 1, -(1 << 60)], np.int64)


def twin_at(points: dict[int, int], where: int, prime: int) -> int:
    """Lagrange's interpolation as in a textbook."""
    total = 0
    for x, y in points.items():
        term = y
        for other in points:
            if other != x:
                term = term * (where - other) * pow(x - other, prime - 2, prime)
        total += term
    return total % prime


def test_the_primes_are_the_three_largest_below_2_to_the_31() -> None:
    def is_prime(number: int) -> bool:
        return all(number % divisor for divisor in range(3, 46_341, 2))

    assert [number for number in range(2**31 - 1, PRIMES[2] - 1, -2) if is_prime(number)] == list(PRIMES)


def test_the_stream_is_chacha20_of_rfc_8439() -> None:
    # RFC 8439, A.1, test vectors 1 and 2: zero key, zero nonce, block counters 0 and 1.
    stream = shamir.stream(bytes(32), 32).astype("<u4").tobytes()
    assert stream[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    assert stream[64:80].hex() == "9f07e7be5551387a98ba977c732d080d"
    # An AEAD encrypts with the same key stream, from block 1 on.
    key = secrets.token_bytes(32)
    sealed = ChaCha20Poly1305(key).encrypt(bytes(12), bytes(256), None)[:256]
    assert shamir.stream(key, 80).astype("<u4").tobytes()[64:] == sealed


def test_uniform_residues_are_below_their_primes_and_spread() -> None:
    drawn = shamir.uniform(KEY, 2, 20_000)
    assert drawn.shape == (2, 3, 20_000)
    assert (drawn == shamir.uniform(KEY, 2, 20_000)).all()
    assert (drawn >= 0).all()
    assert (drawn < np.array(PRIMES)[:, None]).all()
    counts = np.histogram(drawn, bins=64, range=(0, 1 << 31))[0]
    expected = drawn.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square, 63 degrees: 1 in 100,000 by chance


def test_a_draw_that_is_no_residue_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(key: bytes, count: int) -> np.ndarray:
        words = np.arange(count, dtype=np.uint32)
        words[0] = words[4] = PRIMES[0]  # too large for any
        words[3] = PRIMES[2]  # fits the first two; stands in the second's column
        words[6], words[7] = PRIMES[0], 5  # spares
        return words

    monkeypatch.setattr(shamir, "stream", stream)
    drawn = shamir.uniform(KEY, 2)
    assert (drawn < np.array(PRIMES)[:, None]).all()
    assert drawn[0, 0] == 5
    assert drawn[1, 1] == PRIMES[2]
    assert drawn[2, 0] == 8


@given(degree=some.integers(0, 4), more=some.integers(1, 4), order=some.permutations(range(8)))
@settings(max_examples=30)
def test_any_degree_plus_one_shares_give_the_numbers_back(degree: int, more: int, order: list[int]) -> None:
    holders = degree + more
    secret = shamir.residues(NUMBERS)
    shares = shamir.split(secret, degree, holders, secrets.token_bytes(32))
    assert shares.shape == (holders, 3, len(NUMBERS))
    places = sorted([place for place in order if place < holders][: degree + 1])
    found = shamir.decode(shares[places], degree, 0, places)
    assert (shamir.centred(found.values) == NUMBERS).all()
    assert found.liars == ()
    for at, prime in enumerate(PRIMES):
        points = {place + 1: int(shares[place, at, 3]) for place in places}
        assert twin_at(points, 0, prime) == NUMBERS[3]


@pytest.mark.parametrize(("degree", "holders"), [(0, 1), (2, 7), (20, 32)])
def test_polynomials_are_evaluated_as_by_the_twin(degree: int, holders: int) -> None:
    coefficients = shamir.uniform(KEY, degree + 1, 5)
    coefficients[:, :, 0] = np.array(PRIMES) - 1  # the largest there are: nothing may overflow
    shares = shamir.evaluate(coefficients, holders)
    for holder, at, column in itertools.product(range(holders), range(3), range(5)):
        value = sum(int(c) * (holder + 1) ** power for power, c in enumerate(coefficients[:, at, column])) % PRIMES[at]
        assert shares[holder, at, column] == value


def test_degree_shares_say_nothing() -> None:
    # For any two shares of degree 2 and any number there is one polynomial: each number is equally likely.
    shares = shamir.split(shamir.residues(np.array([42])), 2, 7, KEY)
    two = {1: int(shares[0, 0, 0]), 2: int(shares[1, 0, 0])}
    thirds = {twin_at({**two, 0: number}, 3, PRIMES[0]) for number in range(200)}
    assert len(thirds) == 200


def test_sums_and_products_of_shares_are_shares_of_sums_and_products() -> None:
    first, second = np.array([5, -7]), np.array([11, 1 << 20])
    a = shamir.split(shamir.residues(first), 2, 7, KEY)
    b = shamir.split(shamir.residues(second), 2, 7, bytes(32))
    primes = np.array(PRIMES)[:, None]
    assert (shamir.centred(shamir.decode((a + b) % primes, 2, 2).values) == first + second).all()
    assert (shamir.centred(shamir.decode(a * b % primes, 4, 0).values) == first * second).all()
    with pytest.raises(RefusedError):
        shamir.decode(a * b % primes, 2, 2)


@given(liars=some.sets(some.integers(0, 6), max_size=2), column=some.integers(0, 30), prime=some.integers(0, 2))
@settings(max_examples=40)
def test_wrong_shares_are_corrected_and_named(liars: set[int], column: int, prime: int) -> None:
    numbers = np.arange(-15, 16)
    shares = shamir.split(shamir.residues(numbers), 2, 7, KEY)
    for liar in liars:
        shares[liar, prime, column] = (shares[liar, prime, column] + 1 + liar) % PRIMES[prime]
    found = shamir.decode(shares, 2, shamir.correctable(7, 2, 2))
    assert found.liars == tuple(sorted(liars))
    assert (shamir.centred(found.values) == numbers).all()


def test_three_of_seven_wrong_shares_are_refused_and_so_are_too_few() -> None:
    shares = shamir.split(shamir.residues(np.array([9])), 2, 7, KEY)
    shares[:3] = (shares[:3] + np.array([3, 1, 8])[:, None, None]) % np.array(PRIMES)[:, None]
    with pytest.raises(RefusedError, match="more than 2 of 7"):
        shamir.decode(shares, 2, 2)
    with pytest.raises(RefusedError, match="4 shares of degree 2"):
        shamir.decode(shares[:4], 2, 2)


def test_what_can_be_corrected_though_liars_work_together() -> None:
    assert [shamir.correctable(7, degree, 2) for degree in (2, 4)] == [2, 0]
    assert [shamir.correctable(9, degree, 2) for degree in (2, 4)] == [2, 2]
    assert shamir.correctable(6, 4, 2) == -1
    # Why not more: n = 7, degree 4. Two liars make four honest shares and theirs agree on another number; with one
    # correction allowed that would blame the third honest miner.
    shares = shamir.split(shamir.residues(np.array([9])), 4, 7, KEY)
    honest = shares[[0, 1, 2, 3]]
    for at, prime in enumerate(PRIMES):
        points = {place + 1: int(honest[place, at, 0]) for place in range(4)} | {6: int(shares[5, at, 0] + 1) % prime}
        shares[5, at, 0], shares[6, at, 0] = points[6], twin_at(points, 7, prime)
    misled = shamir.decode(shares, 4, 1)
    assert misled.liars == (4,)
    assert shamir.integers(misled.values) != [9]
    with pytest.raises(RefusedError):
        shamir.decode(shares, 4, shamir.correctable(7, 4, 2))


def test_integers_come_back_from_residues() -> None:
    values = [0, 1, MODULUS - 1, MODULUS // 2, (1 << 91) + 12345]
    columns = np.array([[value % prime for value in values] for prime in PRIMES])
    assert shamir.integers(columns) == values
    assert shamir.centred(columns[:, :3]).tolist() == [0, 1, -1]


@pytest.mark.parametrize("value", [(1 << 61) + 1, -(1 << 61) - 1, 1 << 70, MODULUS // 2, pow(2, -1, MODULUS), 1 << 62])
def test_numbers_of_more_than_61_bits_are_refused(value: int) -> None:
    with pytest.raises(InputError, match="61 bits"):
        shamir.centred(np.array([[value % prime] for prime in PRIMES]))


@pytest.mark.parametrize(("degree", "holders"), [(2, 2), (-1, 3), (2, 33)])
def test_numbers_of_holders_that_make_no_sense_are_refused(degree: int, holders: int) -> None:
    with pytest.raises(InputError, match="holders"):
        shamir.split(shamir.residues(NUMBERS), degree, holders, KEY)
