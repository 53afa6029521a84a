"""Multi-Krum over updates that no miner sees: the same integers as :mod:`privet.aggregation.exact`, from shares.

Customers share their fixed-point updates among n miners so that t of them together learn nothing; the miners test the
shares (:mod:`privet.aggregation.share_checks`), obtain the exact squared distance of every two updates, select as on
the open path, and open the sum of those selected, no more. One round:

1. A customer deals shares of degree t (:class:`Customer`), each miner zeros of degree 2 t (:meth:`Miner.zeros`); the
   hashes of all are on the chain before the seed that becomes the coins is known.
2. A customer names the masks to open; every miner opens its tests (:meth:`Miner.test`, :meth:`Miner.test_zeros`). Who
   differs from the others shows its share, once: either it is what the customer committed to and the customer lied, or
   the miner did.
3. Every miner opens its share of each distance: a sum of products of shares, degree 2 t, plus everybody's zeros, which
   make the polynomial uniform but for its value (:meth:`Miner.distances`, :func:`open_distances`).
4. Every miner opens the sum of its shares of the selected updates (:meth:`Miner.total`, :func:`open_mean`).

**Who learns what.** Up to t miners together, and anybody who reads what is opened: who took part, all pairwise
distances, who was selected, and the sum. Nothing else about an update, whatever their computing power, as long as the
channel of each message holds. That is not nothing: customers who work with them know their own updates, and each gives
one distance to a victim's, which fixes it along one more direction; as many as there are numbers fix it wholly. Where
all others that were selected are theirs, the sum gives the last one away. t + 1 miners together see everything. A
share that is shown in a dispute is one that its miner gave away: it counts among the t.

**What t lying miners can do.** Give away what they hold. Their tests and sums are corrected, and they are named. Wrong
distances are always detected; they are corrected and their senders named where n >= 4 t + 1. With fewer miners the
round then fails, and all that is known is that somebody lied. Nobody has audited this code.

References:
    So, Guler and Avestimehr, IEEE JSAC 39(7), 2021 (BREA: distances from shares); Ben-Or, Goldwasser and Wigderson,
    STOC 1988 (sharings of zero before a product is opened).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privet.aggregation.exact import LARGEST, Steps
from privet.aggregation.share_checks import (
    REPEATS,
    ROWS,
    SETS,
    Dealing,
    Terms,
    choose,
    deal,
    open_zeros,
    opened,
    take,
)
from privet.crypto.shamir import (
    MODULUS,
    PRIMES,
    Residues,
    centred,
    decode,
    evaluate,
    integers,
    residues,
    split,
    uniform,
)
from privet.errors import InputError, RefusedError

LEAST = 3
"""Fewest updates whose sum is opened; Multi-Krum never selects fewer."""

_BLOCK = 1 << 16
_P: NDArray[np.int64] = np.array(PRIMES, np.int64)[:, None]


class Customer:
    """One customer in one round.

    Args:
        update: shape (size,), each number from -LARGEST to LARGEST.
        terms: of the round.
        name: its public key.

    Attributes:
        dealing: its shares.

    Raises:
        InputError: the update has another shape or type, or a number is too large.
    """

    def __init__(self, update: Steps, terms: Terms, name: bytes) -> None:
        if update.shape != (terms.size,) or update.dtype != np.int32:
            raise InputError(f"an update of shape {update.shape}, {update.dtype}", allowed=f"({terms.size},), int32")
        if max(int(update.max()), -int(update.min())) > LARGEST:
            raise InputError("an update holds a number that is too large", allowed=f"-{LARGEST} to {LARGEST}")
        self.name, self._terms, self._update = name, terms, update
        drawn = [secrets.randbelow(2 * terms.mask + 1) - terms.mask for _ in range(SETS * ROWS)]
        self._masks = np.array(drawn, np.int64).reshape(SETS, ROWS)
        self.dealing = self._deal(residues(np.concatenate([update.astype(np.int64), self._masks.reshape(-1)])))

    def choose(self, key: bytes) -> int:
        """Returns which set of masks is to be opened.

        Raises:
            RefusedError: none hides the update, by chance; the customer takes no part in the round.
        """
        return choose(self._terms, key, self._update, self._masks)

    def _deal(self, values: Residues) -> Dealing:
        terms = self._terms
        hiding = uniform(secrets.token_bytes(32), REPEATS)
        columns = np.concatenate([values, hiding], axis=1)
        return deal(terms, self.name, split(columns, terms.liars, terms.miners, secrets.token_bytes(32)))


class Miner:
    """One miner in one round.

    Args:
        index: 0, 1, ..., n - 1.
        terms: of the round.
    """

    def __init__(self, index: int, terms: Terms) -> None:
        self.index, self._terms = index, terms
        self._shares: dict[bytes, NDArray[np.uint32]] = {}
        self._messages: dict[bytes, bytes] = {}
        self._zeros: dict[int, Residues] = {}
        self._opened: dict[str, object] = {}

    def take(self, customer: bytes, message: bytes, commitments: Sequence[bytes]) -> None:
        """Keeps a customer's share.

        Raises:
            ContentError: it is not what the customer committed to, or malformed; tell the others.
        """
        shares = take(self._terms, customer, self.index, message, commitments[self.index], self._terms.columns)
        self._shares[customer], self._messages[customer] = shares.astype(np.uint32), message

    def zeros(self, customers: int) -> Dealing:
        """Returns sharings of 0 of degree 2 t, one for each pair of customers."""
        terms, count = self._terms, customers * (customers - 1) // 2 + REPEATS
        drawn = uniform(secrets.token_bytes(32), 2 * terms.liars, count)
        shares = evaluate(np.concatenate([np.zeros((1, 3, count), np.int64), drawn]), terms.miners)
        return deal(terms, dealer_of(self.index), shares)

    def take_zeros(self, dealer: int, customers: int, message: bytes, commitments: Sequence[bytes]) -> None:
        """Keeps another miner's, or its own, sharings of 0.

        Raises:
            ContentError: as :meth:`take`.
        """
        count = customers * (customers - 1) // 2 + REPEATS
        name = dealer_of(dealer)
        self._zeros[dealer] = take(self._terms, name, self.index, message, commitments[self.index], count)
        self._messages[name] = message

    def test(self, key: bytes, chosen: Mapping[bytes, int]) -> dict[bytes, Residues]:
        """Returns what the miner opens to test each customer: (3, ROWS + REPEATS).

        Args:
            key: the coins.
            chosen: the set of masks that each customer named.

        Raises:
            RefusedError: it has opened others of this round before, which could give an update away.
            InputError: a customer is unknown, or there is no such set.
        """
        names = sorted(chosen)
        if not names or not set(names) <= self._shares.keys() or not all(0 <= chosen[n] < SETS for n in names):
            raise InputError("a test of customers who sent no share, or of masks that don't exist")
        self._once("tests", (key, dict(chosen)))
        shares = np.stack([self._shares[name] for name in names])
        results = opened(self._terms, key, [chosen[name] for name in names], shares)
        return dict(zip(names, results, strict=True))

    def test_zeros(self, key: bytes) -> dict[int, Residues]:
        """Returns what the miner opens to test each dealer of zeros: (3, REPEATS)."""
        return {dealer: open_zeros(key, shares) for dealer, shares in self._zeros.items()}

    def show(self, dealer: bytes) -> bytes:
        """Returns the message of a dealer, for everybody to judge; only when its test is disputed."""
        return self._messages[dealer]

    def distances(self, customers: Sequence[bytes], dealers: Sequence[int]) -> Residues:
        """Returns the miner's shares of the squared distances, (3, pairs): (0, 1), (0, 2), ..., (1, 2), ...

        Args:
            customers: rising; they have passed.
            dealers: miners whose zeros have passed, t + 1 or more, so that one of them is honest.

        Raises:
            RefusedError: there are too few dealers, or it has opened others of this round before: the zeros hide one
                opening only.
        """
        if len(set(dealers)) <= self._terms.liars:
            raise RefusedError(f"zeros of {len(set(dealers))} miners", allowed=f"{self._terms.liars + 1} or more")
        self._once("distances", (tuple(customers), tuple(sorted(dealers))))
        gram = _gram([self._shares[name][:, : self._terms.size] for name in customers])
        first, second = np.triu_indices(len(customers), 1)
        squares = np.diagonal(gram, axis1=1, axis2=2)
        products = squares[:, first] + squares[:, second] - 2 * gram[:, first, second]
        hidden: Residues = (products + sum(self._zeros[dealer][:, : len(first)] for dealer in sorted(dealers))) % _P
        return hidden

    def total(self, customers: Sequence[bytes]) -> Residues:
        """Returns the miner's share of the sum of updates, (3, size).

        Args:
            customers: whom the miner itself finds selected by the distances; never what somebody asks for.

        Raises:
            RefusedError: fewer than three, or it has opened another sum of this round before: two sums give a
                difference away.
        """
        if len(set(customers)) < LEAST:
            raise RefusedError(f"the sum of {len(set(customers))} update(s)", allowed=f"{LEAST} or more")
        self._once("sum", tuple(customers))
        total = np.zeros((3, self._terms.size), np.int64)
        for name in customers:
            total += self._shares[name][:, : self._terms.size]
        return total % _P

    def _once(self, what: str, asked: object) -> None:
        if self._opened.setdefault(what, asked) != asked:
            raise RefusedError(f"this miner has already opened other {what} of the round")


def dealer_of(miner: int) -> bytes:
    """Returns the name under which a miner deals zeros; no customer's key has its length."""
    return b"zeros of miner" + miner.to_bytes(2, "big")


def examine_zeros(terms: Terms, answers: Mapping[int, Residues]) -> bool:
    """Returns whether a dealer's zeros are sharings of 0 of degree 2 t, by what everybody opened of them.

    A dealer that fails is left out. Its zeros are then worthless, so all show them, and whoever lied is named.

    Raises:
        RefusedError: too few miners answered.
    """
    places = sorted(answers)
    terms.allowance(len(places), 2 * terms.liars)
    try:
        found = decode(np.stack([answers[at] for at in places]), 2 * terms.liars, 0, places)
    except RefusedError:
        return False
    return not found.values.any()


def open_distances(
    terms: Terms, answers: Mapping[int, Residues], customers: int
) -> tuple[list[list[int]], tuple[int, ...]]:
    """Returns the exact squared distances of every two updates, as rows, and the miners that lied.

    Raises:
        RefusedError: too few miners answered, or more lied than can be corrected; nothing wrong is ever returned.
    """
    places = sorted(answers)
    wrong = terms.allowance(len(places), 2 * terms.liars)
    found = decode(np.stack([answers[at] for at in places]), 2 * terms.liars, wrong, places)
    rows = [[0] * customers for _ in range(customers)]
    for first, second, value in zip(*np.triu_indices(customers, 1), integers(found.values), strict=True):
        if value > MODULUS // 2:
            raise RefusedError("a distance is negative: an update wraps around")
        rows[first][second] = rows[second][first] = value
    return rows, found.liars


def scores_from(distances: Sequence[Sequence[int]], f: int) -> list[int]:
    """Returns the Krum scores of :func:`privet.aggregation.exact.krum_scores`, from distances."""
    return [sum(sorted(row)[1 : len(distances) - f - 1]) for row in distances]


def open_mean(terms: Terms, answers: Mapping[int, Residues], selected: int) -> tuple[Steps, tuple[int, ...]]:
    """Returns the mean of :func:`privet.aggregation.exact.mean` of the selected updates, and the miners that lied.

    Raises:
        RefusedError: too few miners answered, or an update holds numbers beyond the clip; then nobody can say whose.
    """
    places = sorted(answers)
    wrong = terms.allowance(len(places), terms.liars)
    found = decode(np.stack([answers[at] for at in places]), terms.liars, wrong, places)
    try:
        total = centred(found.values)
    except InputError:
        total = np.array([1 << 62])
    if np.abs(total).max() > selected * LARGEST:
        raise RefusedError("the sum is larger than the clip allows: a selected update is beyond it")
    whole, left = np.divmod(total, selected)
    up = (2 * left > selected) | ((2 * left == selected) & (whole % 2 == 1))
    return (whole + up).astype(np.int32), found.liars


def _gram(shares: Sequence[NDArray[np.uint32]]) -> NDArray[np.int64]:
    """Products of every two rows modulo each prime, (3, m, m); limbs of 16 bits in float64, sums below 2^48: exact."""
    stacked = np.stack(shares, axis=1)
    total = np.zeros((3, len(shares), len(shares)), np.int64)
    for prime in range(3):
        p = PRIMES[prime]
        for start in range(0, stacked.shape[2], _BLOCK):
            block = stacked[prime, :, start : start + _BLOCK]
            low, high = (block & 0xFFFF).astype(np.float64), (block >> 16).astype(np.float64)
            cross = (low @ high.T).astype(np.int64)
            ends = (low @ low.T).astype(np.int64) + (high @ high.T).astype(np.int64) % p * ((1 << 32) % p)
            total[prime] = (total[prime] + ends % p + (cross + cross.T) % p * (1 << 16)) % p
    return total
