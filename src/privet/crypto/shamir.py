"""Shamir's sharing of many numbers at once, modulo three primes of 31 bits.

A number is kept as its three residues, so it is one modulo their product, about 2^93, and negative ones are
represented by what is congruent. Products of residues fit 62 bits, so everything is exact in int64. Miner ``m`` (0, 1,
...) holds the value at ``m + 1`` of a polynomial whose value at 0 is the number and whose other coefficients are
uniform: any ``degree`` of the shares say nothing, whatever computing power looks at them.

Shares of degree g that are right in all but c of n places are decoded by trying which c are wrong. Up to t liars can
work together, so c is at most n - g - t - 1: with more, liars could make a wrong polynomial agree with as many places
as the right one. For n = 3t + 1 that corrects t wrong shares of degree t, and of degree 2t it only detects them; with
n = 4t + 1 those are corrected as well.

Cost: n multiplications of a residue for each coefficient; 7 shares of degree 2 of 154,000 numbers take about 30 ms.

References:
    Shamir, CACM 22(11), 1979; McEliece and Sarwate, CACM 24(9), 1981 (wrong shares are errors of a Reed-Solomon code).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from privet.errors import InputError, RefusedError

PRIMES = ((1 << 31) - 1, (1 << 31) - 19, (1 << 31) - 61)
MODULUS = PRIMES[0] * PRIMES[1] * PRIMES[2]

MAX_HOLDERS = 32
"""Most holders of shares: decoding tries sets of liars."""

Residues = NDArray[np.int64]
"""Shape (..., 3, count): a number's residue modulo each of :data:`PRIMES`, in the order there."""

_P: NDArray[np.int64] = np.array(PRIMES, np.int64)[:, None]
_LOW = PRIMES[0] * PRIMES[1]


@dataclass(frozen=True)
class Decoded:
    """What shares stand for.

    Attributes:
        values: (3, count).
        liars: places whose shares are not on the polynomials.
    """

    values: Residues
    liars: tuple[int, ...]


def stream(key: bytes, count: int) -> NDArray[np.uint32]:
    """Returns ``count`` uniform 32-bit numbers from a key of 32 bytes: the key stream of ChaCha20 (RFC 8439).

    A key gives one stream: use each for one purpose.
    """
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(4 * count)), "<u4").astype(np.uint32)


def uniform(key: bytes, *shape: int) -> Residues:
    """Returns residues, each exactly uniform below its prime.

    Args:
        key: 32 bytes that decide everything.
        shape: what stands before (3, count), then count.
    """
    *before, count = shape
    size = int(np.prod(before, dtype=np.int64)) * 3 * count
    # 31 random bits are below the prime but in 31 of 10^9 draws; such a draw is replaced by the next spare one.
    drawn = (stream(key, size + _spare(size)) & 0x7FFFFFFF).astype(np.int64)
    flat = drawn[:size].reshape(-1, 3, count)
    spares = iter(drawn[size:].tolist())
    for at in zip(*np.nonzero(flat >= _P), strict=True):
        flat[at] = next(number for number in spares if number < PRIMES[at[1]])
    return flat.reshape(*before, 3, count)


def _spare(size: int) -> int:
    return 64 + size // 1_000_000


def residues(values: NDArray[np.integer]) -> Residues:
    """Returns the residues of integers of shape (count,)."""
    return values.astype(np.int64)[None, :] % _P


def split(secrets: Residues, degree: int, holders: int, key: bytes) -> Residues:
    """Returns shares of shape (holders, 3, count).

    Args:
        secrets: (3, count).
        degree: this many shares say nothing.
        holders: more than ``degree``.
        key: 32 bytes of fresh randomness, never used again.

    Raises:
        InputError: there are too few or too many holders.
    """
    check_holders(degree, holders)
    return evaluate(np.concatenate([secrets[None], uniform(key, degree, secrets.shape[-1])]), holders)


def evaluate(coefficients: Residues, holders: int) -> Residues:
    """Returns polynomials, given as (degree + 1, 3, count) from the constant up, at 1, ..., ``holders``."""
    shares = np.empty((holders, *coefficients.shape[1:]), np.int64)
    for holder in range(holders):
        value, bound = coefficients[-1], PRIMES[0]
        for coefficient in coefficients[-2::-1]:
            if (bound := bound * (holder + 1) + PRIMES[0]) >= 1 << 63:
                value, bound = value % _P, PRIMES[0] * (holder + 2)
            value = value * (holder + 1) + coefficient
        shares[holder] = value % _P
    return shares


def decode(shares: Residues, degree: int, wrong: int, places: Sequence[int] | None = None) -> Decoded:
    """Returns what shares stand for, if all but at most ``wrong`` places are on polynomials of this degree.

    Args:
        shares: (m, 3, count).
        degree: of the polynomials.
        wrong: see :func:`correctable`; a place counts as wrong when any of its numbers is.
        places: the m holders, rising; by default 0, ..., m - 1.

    Raises:
        RefusedError: too few shares, or more of them are wrong.
    """
    places = range(len(shares)) if places is None else places
    if len(shares) <= degree + wrong:
        raise RefusedError(f"{len(shares)} shares of degree {degree}", allowed=f"{degree + wrong + 1} or more")
    for liars in range(wrong + 1):
        for left_out in itertools.combinations(range(len(places)), liars):
            kept = [at for at in range(len(places)) if at not in left_out]
            values = _interpolate(shares[kept], [places[at] for at in kept], degree)
            if values is not None:
                return Decoded(values, tuple(places[at] for at in left_out))
    raise RefusedError(f"more than {wrong} of {len(places)} shares of degree {degree} are wrong")


def correctable(holders: int, degree: int, liars: int) -> int:
    """Returns how many wrong shares can be corrected, and so named; below 0, liars could pass a wrong polynomial off.

    Args:
        holders: n.
        degree: g of the polynomials.
        liars: t, the most that lie; they may work together.
    """
    return min(liars, holders - degree - liars - 1)


def check_holders(degree: int, holders: int) -> None:
    """Refuses a number of holders.

    Raises:
        InputError: not more than ``degree``, or more than :data:`MAX_HOLDERS`.
    """
    if not 0 <= degree < holders <= MAX_HOLDERS:
        raise InputError(f"{holders} holders of shares of degree {degree}", allowed=f"{degree + 1} to {MAX_HOLDERS}")


def centred(values: Residues) -> NDArray[np.int64]:
    """Returns the integers of smallest size with these residues, as int64.

    Raises:
        InputError: one is not within plus or minus 2^61.
    """
    first, second, third = (values + _LOW % _P) % _P
    # Garner: the number is first + p1 k2 + p1 p2 k3, after p1 p2 was added so that small ones are positive.
    p1, p2, p3 = PRIMES
    k2 = (second - first) % p2 * pow(p1, -1, p2) % p2
    partly = (first + p1 % p3 * k2) % p3
    k3 = (third - partly) % p3 * pow(_LOW, -1, p3) % p3
    if (k3 > 1).any():
        raise InputError("a number is larger than 61 bits")
    whole: NDArray[np.int64] = first + p1 * k2 + (k3 - 1) * _LOW
    if np.abs(whole).max(initial=0) > 1 << 61:
        raise InputError("a number is larger than 61 bits")
    return whole


def integers(values: Residues) -> list[int]:
    """Returns the integers from 0 to MODULUS - 1 with these residues; slow, for a few."""
    weights = [MODULUS // p * pow(MODULUS // p, -1, p) for p in PRIMES]
    return [sum(w * int(v) for w, v in zip(weights, column, strict=True)) % MODULUS for column in values.T]


def _interpolate(shares: Residues, places: Sequence[int], degree: int) -> Residues | None:
    """The values at 0 of the polynomials through all shares, or None where there is none of this degree."""
    base, rest = places[: degree + 1], places[degree + 1 :]
    known = shares[: degree + 1]
    for at, place in enumerate(rest, degree + 1):
        # A few columns first: a wrong set of liars is mostly seen there.
        for columns in (slice(0, 8), slice(8, None)):
            if (_at(known[..., columns], base, place + 1) != shares[at][:, columns]).any():
                return None
    return _at(known, base, 0)


def _at(shares: Residues, places: Sequence[int], where: int) -> Residues:
    total = np.zeros(shares.shape[1:], np.int64)
    for share, place in zip(shares, places, strict=True):
        weights = [_lagrange(places, place, where, prime) for prime in PRIMES]
        total += share * np.array(weights, np.int64)[:, None] % _P
    return total % _P


def _lagrange(places: Sequence[int], place: int, where: int, prime: int) -> int:
    above = below = 1
    for other in places:
        if other != place:
            above = above * (where - other - 1) % prime
            below = below * (place - other) % prime
    return above * pow(below, -1, prime) % prime
