"""What keeps a customer from sharing nonsense: two public tests of shares that nobody may see.

A *dealing* is one vector of shares for each miner, with a salted hash of each in public. After all dealings of a round
are on the chain, its next seed becomes coins, and each miner opens for each dealing a few random combinations of its
shares:

**Degree.** Two combinations of all columns with uniform factors, each hidden by a column of its own. If the honest
miners' shares of any column are not on one polynomial of degree t, a combination is on one with probability at most
2^-30.99, both with less than 2^-61.9.

**Range.** 68 projections of the update with factors 0, 1, -1 (probabilities 1/2, 1/4, 1/4), each hidden by a mask of
the customer, which it shared *before* the coins; each must lie within Z = 2^41. If a coordinate, read modulo the
93-bit modulus, is beyond 2 Z, at most half of the factors of its column bring a projection within Z, whatever the mask
and the other columns are. If none is, sums don't wrap; and if the length of the update is beyond 11 Z, then either a
coordinate is beyond a quarter of the length, with the same consequence, or the projection is close to normal (Berry
and Esseen, constant 0.56, and an interval of 2 Z: 0.396 + erf(1 / 11) < 1/2). So a longer update passes with
probability at most 2^-68, times 16 sets of masks to choose from: 2^-64. Two updates that passed are at most 22 Z apart,
and (22 Z)^2 < 2^91 is below half the modulus: their distance is exact. A share that stands for different numbers
modulo different primes is a huge number, and caught alike. The tests don't say that each coordinate is within the clip.

**What the tests give away: nothing.** A mask is uniform within Z + T, where an honest projection is within T but with
probability 2^-63. The customer names the first of its 16 sets with which all are within Z. What is opened is then
uniform within Z, and which set it is depends on chance only.

**Coins** must come after the dealings. Who leads can hold a block back and so choose
between two seeds: one bit of the above.

References:
    Bellare, Garay and Rabin, EUROCRYPT 1998 (tests by random combinations); Gentry, Halevi and Lyubashevsky,
    EUROCRYPT 2022 (ranges by random projections); Lyubashevsky, ASIACRYPT 2009 (rejection); Shevtsova, Doklady
    Mathematics 82, 2010 (the constant of Berry and Esseen).
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.aggregation.exact import LARGEST
from privet.crypto.shamir import MAX_HOLDERS, PRIMES, Residues, centred, correctable, decode, stream, uniform
from privet.errors import ContentError, InputError, RefusedError
from privet.ledger.encoding import Value, encode

ROWS, SETS, REPEATS = 68, 16, 2
BOUND = 1 << 41
"""Z: an opened projection is within."""

MAX_SIZE = 1 << 22
SALT_BYTES = 32

_BLOCK = 1 << 13
_P: NDArray[np.int64] = np.array(PRIMES, np.int64)[:, None]


@dataclass(frozen=True)
class Terms:
    """What everybody in a round knows before it.

    Attributes:
        miners: n, at least 3 t + 1; with 4 t + 1 liars are named at every step.
        liars: t: as many miners may lie, stay silent or put together all that they saw.
        size: numbers in an update.
        context: canonical bytes of chain, task and round.

    Raises:
        InputError: there are too few miners, or the update is too large.
    """

    miners: int
    liars: int
    size: int
    context: bytes

    def __post_init__(self) -> None:
        if self.liars < 1 or not 3 * self.liars < self.miners <= MAX_HOLDERS:
            raise InputError(
                f"{self.miners} miners of whom {self.liars} may lie", allowed=f"t >= 1, 3 t + 1 to {MAX_HOLDERS} miners"
            )
        if not 0 < self.size <= MAX_SIZE:
            raise InputError(f"an update of {self.size} numbers", allowed=f"1 to {MAX_SIZE}")

    @property
    def spread(self) -> int:
        """T: an honest projection is within, but with probability 2^-63."""
        return 7 * LARGEST * (math.isqrt(self.size - 1) + 1)

    @property
    def mask(self) -> int:
        """Masks are uniform within this."""
        return BOUND + self.spread

    @property
    def columns(self) -> int:
        """Numbers in a customer's dealing: update, masks, what hides the degree test."""
        return self.size + SETS * ROWS + REPEATS

    def allowance(self, answers: int, degree: int) -> int:
        """Returns how many of the answers may be wrong and are corrected; those who are silent are liars, too.

        Raises:
            RefusedError: there are so few answers that a wrong result could pass.
        """
        wrong = correctable(answers, degree, self.liars - (self.miners - answers))
        if wrong < 0 or answers < self.miners - self.liars:
            raise RefusedError(f"{answers} of {self.miners} miners answered", allowed=f"{self.miners - self.liars}")
        return wrong


@dataclass(frozen=True)
class Dealing:
    """Shares that one party made.

    Attributes:
        messages: one for each miner, for its eyes only: a salt, then its shares.
        commitments: their hashes, for the transaction.
    """

    messages: tuple[bytes, ...]
    commitments: tuple[bytes, ...]


def deal(terms: Terms, dealer: bytes, shares: Residues) -> Dealing:
    """Returns the messages and commitments for shares of shape (n, 3, count)."""
    # Without the salt, who holds t shares could try guesses of the update against another miner's hash.
    messages = tuple(secrets.token_bytes(SALT_BYTES) + share.astype("<u4").tobytes() for share in shares)
    return Dealing(messages, tuple(_commitment(terms, dealer, at, message) for at, message in enumerate(messages)))


def take(terms: Terms, dealer: bytes, miner: int, message: bytes, commitment: bytes, count: int) -> Residues:
    """Returns the shares in a message, (3, count), after checking them.

    Raises:
        ContentError: it is not what was committed to, has another length, or holds no residues.
    """
    if not hmac.compare_digest(_commitment(terms, dealer, miner, message), commitment):
        raise ContentError(f"the share of {dealer.hex()[:16]} for miner {miner} is not what was committed to")
    if len(message) != SALT_BYTES + 12 * count:
        raise ContentError(f"the share of {dealer.hex()[:16]} for miner {miner} has {len(message)} bytes")
    shares = np.frombuffer(message, "<u4", offset=SALT_BYTES).reshape(3, count).astype(np.int64)
    if (shares >= _P).any():
        raise ContentError(f"the share of {dealer.hex()[:16]} for miner {miner} holds what is no residue")
    return shares


def coins(terms: Terms, seed: bytes, commitments: Mapping[bytes, tuple[bytes, ...]]) -> bytes:
    """Returns the coins of a round, 32 bytes.

    Args:
        terms: of the round.
        seed: of the chain; known only after all dealings were.
        commitments: of every dealing, by dealer.
    """
    listed: list[Value] = [[dealer, list(each)] for dealer, each in sorted(commitments.items())]
    about: list[Value] = [terms.context, terms.miners, terms.liars, terms.size]
    return hashlib.sha256(encode(["privet/shared/coins/1", *about, seed, listed])).digest()


def project(key: bytes, size: int, rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns the projections of rows of shape (m, >= size) with numbers below 2^31: (m, ROWS), exact below 2^53."""
    total = np.zeros((len(rows), ROWS), np.int64)
    for start, factors in _ternary(key, size):
        block = rows[:, start : start + factors.shape[1]].astype(np.float64)
        total += (block @ factors.T).astype(np.int64)  # sums below 2^31 * 2^13: exact in any order
    return total


def combine(key: bytes, shares: NDArray[np.integer]) -> NDArray[np.int64]:
    """Returns uniform combinations of the columns of shares (m, 3, count) but the last REPEATS, plus one of those each.

    Returns:
        (m, 3, REPEATS) residues.
    """
    m, _, count = shares.shape
    count -= REPEATS
    factors = uniform(key, REPEATS, count)[:, 2]  # below the smallest prime, so uniform enough modulo each
    total = np.zeros((m, 3, REPEATS), np.int64)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        for high, part in enumerate(_limbs(factors[:, start:stop])):
            for higher, piece in enumerate(_limbs(shares[..., start:stop])):
                product = (piece.reshape(m * 3, -1) @ part.T).astype(np.int64).reshape(m, 3, REPEATS)  # below 2^45
                total = (total + product % _P * ((1 << 16 * (high + higher)) % _P) % _P) % _P
    return (total + shares[..., count:]) % _P


def opened(terms: Terms, key: bytes, chosen: list[int], shares: NDArray[np.integer]) -> Residues:
    """Returns what a miner opens of customers' shares (m, 3, columns): (m, 3, ROWS + REPEATS).

    Args:
        terms: of the round.
        key: the coins.
        chosen: the set of masks that each customer named.
        shares: of m customers.
    """
    m = len(shares)
    rows = project(_key(key, b"range"), terms.size, shares.reshape(m * 3, -1)).reshape(m, 3, ROWS)
    masks = shares[..., terms.size : terms.size + SETS * ROWS].reshape(m, 3, SETS, ROWS)
    rows += np.stack([masks[at, :, number] for at, number in enumerate(chosen)])
    return np.concatenate([rows % _P, combine(_key(key, b"degree"), shares)], axis=2)


def open_zeros(key: bytes, shares: Residues) -> Residues:
    """Returns what a miner opens of one dealer's zeros (3, pairs + REPEATS): (3, REPEATS)."""
    return combine(_key(key, b"zeros"), shares[None])[0]


def choose(terms: Terms, key: bytes, update: NDArray[np.integer], masks: NDArray[np.int64]) -> int:
    """Returns the first of a customer's sets of masks (SETS, ROWS) that may be opened.

    Raises:
        RefusedError: none may; happens by chance, and the customer takes no part in the round.
    """
    rows = project(_key(key, b"range"), terms.size, update[None].astype(np.int64))[0]
    fits = (np.abs(rows + masks) <= BOUND).all(axis=1)
    if not fits.any() or np.abs(rows).max() > terms.spread:
        raise RefusedError("no set of masks hides the update", do="take part in the next round")
    return int(np.argmax(fits))


def examine(terms: Terms, answers: Mapping[int, Residues]) -> tuple[str, tuple[int, ...]]:
    """Returns why a customer's dealing fails, or "", and the miners whose answers don't fit the others'.

    Args:
        terms: of the round.
        answers: (3, ROWS + REPEATS) of each miner that answered.

    Raises:
        RefusedError: too few miners answered.
    """
    places = sorted(answers)
    wrong = terms.allowance(len(places), terms.liars)
    try:
        found = decode(np.stack([answers[at] for at in places]), terms.liars, wrong, places)
    except RefusedError:
        return "its shares are on no polynomial", ()
    try:
        beyond = np.abs(centred(found.values[:, :ROWS])).max() > BOUND
    except InputError:
        beyond = True
    return ("its numbers are out of range" if beyond else ""), found.liars


def _ternary(key: bytes, size: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for number, start in enumerate(range(0, size, _BLOCK)):
        count = ROWS * min(_BLOCK, size - start)
        words = stream(hmac.digest(key, number.to_bytes(4, "big"), "sha256"), 2 * (count // 32 + 1))
        plus, minus = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(2, -1), axis=1)[:, :count].view(np.int8)
        yield start, (plus - minus).reshape(ROWS, -1).astype(np.float64)


def _limbs(numbers: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (numbers & 0xFFFF).astype(np.float64), (numbers >> 16).astype(np.float64)


def _key(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose, "sha256")


def _commitment(terms: Terms, dealer: bytes, miner: int, message: bytes) -> bytes:
    head = encode(["privet/shared/share/1", terms.context, terms.miners, terms.liars, terms.size, dealer, miner])
    return hashlib.sha256(len(head).to_bytes(4, "big") + head + message).digest()
