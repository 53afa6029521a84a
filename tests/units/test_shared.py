"""Multi-Krum over shares: the same integers as in the open, every liar caught or at least never believed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from shared_round import Outcome, run

from privet.aggregation import exact, share_checks, shared
from privet.aggregation.exact import LARGEST
from privet.aggregation.share_checks import BOUND, REPEATS, ROWS, SETS, Dealing, Terms, deal
from privet.aggregation.shared import Customer, Miner
from privet.crypto import shamir
from privet.crypto.shamir import MODULUS, PRIMES, Residues
from privet.errors import ContentError, InputError, RefusedError

TERMS = Terms(miners=7, liars=2, size=40, context=b"chain, task 1, round 2")
SEED = bytes(range(32))
P = np.array(PRIMES)[:, None]


def updates(count: int, size: int = TERMS.size) -> list[exact.Steps]:
    return [np.random.default_rng(each).integers(-1000, 1000, size).astype(np.int32) for each in range(count)]


def name(number: int) -> bytes:
    return bytes([number]) * 32


def customers(terms: Terms = TERMS, count: int = 7) -> list[Customer]:
    return [Customer(update, terms, name(at)) for at, update in enumerate(updates(count, terms.size))]


def miners(terms: Terms = TERMS, liars: dict[int, type[Miner]] | None = None) -> list[Miner]:
    return [(liars or {}).get(index, Miner)(index, terms) for index in range(terms.miners)]


def round_of(all_: Sequence[Customer], liars: dict[int, type[Miner]] | None = None, terms: Terms = TERMS) -> Outcome:
    return run(terms, all_, miners(terms, liars), SEED, 2, 3)


def expected(left_out: Sequence[int] = (), count: int = 7) -> exact.Aggregated:
    return exact.aggregate([u for at, u in enumerate(updates(count)) if at not in left_out], "multi-krum", 2, 3)


def same(outcome: Outcome, wanted: exact.Aggregated) -> bool:
    assert outcome.result is not None, outcome.failed
    got = outcome.result
    return (
        exact.to_bytes(got.update) == exact.to_bytes(wanted.update)
        and got.scores == wanted.scores
        and got.evaluations == wanted.evaluations
    )


# --- the honest round


@given(
    count=some.integers(3, 9),
    size=some.integers(1, 50),
    f=some.integers(0, 3),
    shape=some.sampled_from([(4, 1), (5, 1), (7, 2), (10, 3)]),
    seed=some.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_a_round_gives_the_bytes_of_the_open_path(
    count: int, size: int, f: int, shape: tuple[int, int], seed: int
) -> None:
    f = min(f, (count - 3) // 2)
    terms = Terms(*shape, size, b"")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-LARGEST, LARGEST, (count, size), endpoint=True).astype(np.int32)
    drawn[rng.random((count, size)) < 0.2] = LARGEST
    drawn[rng.random((count, size)) < 0.2] = -LARGEST
    outcome = run(terms, [Customer(u, terms, name(at)) for at, u in enumerate(drawn)], miners(terms), SEED, f, 3)
    assert same(outcome, exact.aggregate(list(drawn), "multi-krum", f, 3))
    assert (outcome.lying_customers, outcome.lying_miners, outcome.failed) == ({}, {}, "")


def test_the_order_of_names_not_of_arrival_decides() -> None:
    assert same(round_of(customers()[::-1]), expected())


def test_scores_from_distances_are_the_krum_scores() -> None:
    stacked = np.stack(updates(8))
    assert shared.scores_from(exact.squared_distances(stacked), 2) == exact.krum_scores(stacked, 2)


# --- slow and obvious twins


def test_products_of_shares_are_those_of_python_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_BLOCK", 4)
    shares = shamir.uniform(SEED, 3, 10)
    shares[0, :, :5] = P - 1
    gram = shared._gram([each.astype(np.uint32) for each in shares])
    for at, prime in enumerate(PRIMES):
        for i, j in itertools.product(range(3), repeat=2):
            assert (
                gram[at, i, j]
                == sum(int(a) * int(b) for a, b in zip(shares[i, at], shares[j, at], strict=True)) % prime
            )


def test_projections_are_sums_with_factors_of_0_1_and_minus_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_checks, "_BLOCK", 64)
    size = 150
    blocks = list(share_checks._ternary(SEED, size))
    assert [start for start, _ in blocks] == [0, 64, 128]
    factors = np.concatenate([block for _, block in blocks], axis=1).astype(int)
    counts = [(factors == value).mean() for value in (-1, 0, 1)]
    assert factors.shape == (ROWS, size)
    assert np.allclose(counts, [0.25, 0.5, 0.25], atol=0.03)
    assert len({row.tobytes() for row in factors}) == ROWS
    row = shamir.uniform(SEED, size)[0]
    twin = [sum(int(v) * int(x) for v, x in zip(each, row, strict=True)) for each in factors]
    assert share_checks.project(SEED, size, row[None])[0].tolist() == twin


def test_combinations_are_those_of_python_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_checks, "_BLOCK", 64)
    shares = shamir.uniform(bytes(32), 2, 100 + REPEATS)
    shares[0, :, :9] = P - 1
    factors = shamir.uniform(SEED, REPEATS, 100)[:, 2].tolist()
    got = share_checks.combine(SEED, shares)
    for who, at, repeat in itertools.product(range(2), range(3), range(REPEATS)):
        column = [int(x) for x in shares[who, at]]
        total = sum(r * x for r, x in zip(factors[repeat], column, strict=False)) + column[100 + repeat]
        assert got[who, at, repeat] == total % PRIMES[at]


# --- lying customers


class Bent(Customer):
    """Shares other numbers than its update."""

    def __init__(
        self, update: exact.Steps, terms: Terms, who: bytes, columns: slice, value: int | Sequence[int]
    ) -> None:
        self.columns, self.value = columns, value
        super().__init__(update, terms, who)

    def _deal(self, values: Residues) -> Dealing:
        wanted = [self.value] * 3 if isinstance(self.value, int) else self.value
        values[:, self.columns] = np.array([v % p for v, p in zip(wanted, PRIMES, strict=True)])[:, None]
        values[:, self._terms.size :] = 0  # masks that hide nothing are a liar's best
        return super()._deal(values)


def bent(columns: slice, value: int | Sequence[int], terms: Terms = TERMS, count: int = 8) -> Outcome:
    all_ = customers(terms, count)
    all_[3] = Bent(updates(count, terms.size)[3], terms, name(3), columns, value)
    return round_of(all_, terms=terms)


def redealt(customer: Customer, shares: NDArray[np.int64]) -> Customer:
    customer.dealing = deal(TERMS, customer.name, shares)
    return customer


def shares_of(customer: Customer) -> NDArray[np.int64]:
    return np.stack(
        [
            share_checks.take(TERMS, customer.name, at, message, customer.dealing.commitments[at], TERMS.columns)
            for at, message in enumerate(customer.dealing.messages)
        ]
    )


def test_the_half_of_one_attack_would_work_on_distances_and_is_caught_before() -> None:
    terms = replace(TERMS, size=64)
    half = pow(2, -1, MODULUS)
    # What the range test is for: modulo the product of the primes, halves in four columns are 5 steps from 3, 3, 3, 3.
    assert 4 * (half - 3) ** 2 % MODULUS == 25
    outcome = bent(slice(0, 16), half, terms)
    assert outcome.lying_customers == {name(3): "its numbers are out of range"}
    wanted = exact.aggregate([u for at, u in enumerate(updates(8, 64)) if at != 3], "multi-krum", 2, 3)
    assert same(outcome, wanted)


@pytest.mark.parametrize(
    "value",
    [1 << 60, -(1 << 60), MODULUS // 3, MODULUS // 2, (5, 6, 7), (1, 1, 0), (0, 1 << 20, 0)],
    ids=str,
)
def test_numbers_out_of_range_and_unlike_modulo_the_primes_are_caught(value: int | tuple[int, ...]) -> None:
    outcome = bent(slice(5, 6), value)
    assert outcome.lying_customers == {name(3): "its numbers are out of range"}
    assert same(outcome, expected([3], 8))


def test_masks_do_not_help_a_liar_whose_numbers_are_out_of_range() -> None:
    terms, key = replace(TERMS, size=16), SEED
    factors = np.concatenate([b for _, b in share_checks._ternary(share_checks._key(key, b"range"), 16)], axis=1)
    for value in (MODULUS // 2, MODULUS // 3, 4 * BOUND + 1):
        for mask in (0, MODULUS // 2, MODULUS - value, value // 2):
            opened_ = [(int(row.sum()) * value + mask) % MODULUS for row in factors]
            within = sum(min(each, MODULUS - each) <= BOUND for each in opened_)
            assert within <= 50  # of 68, each with probability at most 1/2: more than 50 once in 20,000
    assert terms.columns == 16 + SETS * ROWS + REPEATS


def test_the_probabilities_that_the_docstring_states() -> None:
    import math

    assert 2 * 0.56 * math.sqrt(2) * 0.25 + math.erf(1 / 11) < 0.5
    assert (22 * BOUND) ** 2 < MODULUS // 2
    assert SETS * 2.0**-ROWS <= 2.0**-64
    assert PRIMES[2] ** -REPEATS < 2.0**-61.9
    assert 2 * ROWS * math.exp(-49) < 2.0**-63
    assert share_checks.MAX_SIZE * (PRIMES[0] - 1) < 2**53
    largest = Terms(4, 1, share_checks.MAX_SIZE, b"")
    assert (BOUND / largest.mask) ** ROWS > 0.35
    assert (1 - (BOUND / Terms(7, 2, 154_000, b"").mask) ** ROWS) ** SETS < 1e-11


def test_a_column_of_too_high_a_degree_is_caught() -> None:
    all_ = customers(count=8)
    shares = shares_of(all_[3])
    wild = shamir.split(shamir.residues(np.array([5])), 3, 7, SEED)
    shares[:, :, 17:18] = wild
    redealt(all_[3], shares)
    outcome = round_of(all_)
    assert list(outcome.lying_customers) == [name(3)]
    assert "polynomial" in outcome.lying_customers[name(3)]
    assert same(outcome, expected([3], 8))


def test_one_wrong_share_is_shown_and_the_customer_named_not_the_miner() -> None:
    all_ = customers(count=8)
    shares = shares_of(all_[3])
    shares[5, 1, 17] ^= 1
    redealt(all_[3], shares)
    outcome = round_of(all_)
    assert outcome.lying_customers == {name(3): "its share for miner 5 is not on the polynomial of the others"}
    assert outcome.lying_miners == {}
    assert same(outcome, expected([3], 8))


@pytest.mark.parametrize("how", ["other bytes", "too short", "no residue"])
def test_a_share_that_is_not_what_was_committed_to_names_the_customer(how: str) -> None:
    all_ = customers(count=8)
    messages = list(all_[3].dealing.messages)
    if how == "other bytes":
        messages[4] = messages[4][:-1] + bytes([messages[4][-1] ^ 1])
        commitments = all_[3].dealing.commitments
    else:
        messages[4] = messages[4][:-4] if how == "too short" else messages[4][:32] + b"\xff" * (len(messages[4]) - 32)
        commitments = tuple(share_checks._commitment(TERMS, name(3), at, m) for at, m in enumerate(messages))
    all_[3].dealing = Dealing(tuple(messages), commitments)
    outcome = round_of(all_)
    assert list(outcome.lying_customers) == [name(3)]
    assert same(outcome, expected([3], 8))


def test_a_dealing_for_fewer_miners_names_the_customer() -> None:
    all_ = customers(count=8)
    all_[3].dealing = Dealing(all_[3].dealing.messages, all_[3].dealing.commitments[:6])
    outcome = round_of(all_)
    assert outcome.lying_customers == {name(3): "it did not deal to 7 miners"}
    assert same(outcome, expected([3], 8))


def test_masks_that_do_not_exist_name_the_customer(monkeypatch: pytest.MonkeyPatch) -> None:
    all_ = customers(count=8)
    monkeypatch.setattr(all_[3], "choose", lambda key: SETS)
    outcome = round_of(all_)
    assert outcome.lying_customers == {name(3): "it named masks that don't exist"}
    assert same(outcome, expected([3], 8))


def test_a_number_beyond_the_clip_may_pass_the_test_but_not_the_selection_nor_the_sum() -> None:
    outcome = bent(slice(0, 1), 1 << 40)
    assert outcome.lying_customers == {}
    assert outcome.result is not None
    assert not outcome.result.evaluations[3].selected
    assert not outcome.result.evaluations[3].high
    answers = {at: np.full((3, 1), 3 * LARGEST + 1) for at in range(7)}
    with pytest.raises(RefusedError, match="larger than the clip"):
        shared.open_mean(replace(TERMS, size=1), answers, 3)
    with pytest.raises(RefusedError, match="larger than the clip"):
        shared.open_mean(replace(TERMS, size=1), {at: np.array([[5], [6], [7]]) for at in range(7)}, 3)


# --- lying miners


class LiesInTests(Miner):
    def test(self, key, chosen):  # type: ignore[no-untyped-def]
        return {who: (each + 1) % P for who, each in super().test(key, chosen).items()}


class ShowsAnother(LiesInTests):
    def show(self, dealer: bytes) -> bytes:
        shown = super().show(dealer)
        return shown[:-1] + bytes([shown[-1] ^ 1])


class LiesInZeroTests(Miner):
    def test_zeros(self, key):  # type: ignore[no-untyped-def]
        return {dealer: (each + 1) % P for dealer, each in super().test_zeros(key).items()}


class DealsOnes(Miner):
    def zeros(self, customers_: int) -> Dealing:
        count = customers_ * (customers_ - 1) // 2 + REPEATS
        ones = shamir.split(np.ones((3, count), np.int64), 4, 7, SEED)
        return deal(self._terms, shared.dealer_of(self.index), ones)


class DealsToHighADegree(Miner):
    def zeros(self, customers_: int) -> Dealing:
        count = customers_ * (customers_ - 1) // 2 + REPEATS
        wild = shamir.split(np.zeros((3, count), np.int64), 5, 7, SEED)
        return deal(self._terms, shared.dealer_of(self.index), wild)


class DealsNoShares(Miner):
    def zeros(self, customers_: int) -> Dealing:
        return deal(self._terms, shared.dealer_of(self.index), np.zeros((7, 3, 1), np.int64))


class Complains(Miner):
    def take(self, customer: bytes, message: bytes, commitments: Sequence[bytes]) -> None:
        raise ContentError("I don't like it")


class ComplainsOfZeros(Miner):
    def take_zeros(self, dealer: int, customers_: int, message: bytes, commitments: Sequence[bytes]) -> None:
        raise ContentError("I don't like them")


class LiesAboutTheSum(Miner):
    def total(self, customers_: Sequence[bytes]) -> Residues:
        lie = super().total(customers_)
        lie[:, 3] = (lie[:, 3] + 1) % PRIMES[2]
        return lie


class LiesAboutDistances(Miner):
    def distances(self, customers_: Sequence[bytes], dealers: Sequence[int]) -> Residues:
        return (super().distances(customers_, dealers) + self.index) % P


@pytest.mark.parametrize(
    ("liar", "reason"),
    [
        (LiesInTests, "a test that does not follow"),
        (ShowsAnother, "a test that does not follow"),
        (LiesInZeroTests, "a test of zeros that does not follow"),
        (DealsOnes, "zeros that are none"),
        (DealsToHighADegree, "zeros that are none"),
        (DealsNoShares, "has 44 bytes"),
        (Complains, "complained of a share that is sound"),
        (ComplainsOfZeros, "complained of zeros that are sound"),
        (LiesAboutTheSum, "wrong share of the sum"),
    ],
)
def test_two_lying_miners_of_seven_are_named_and_change_nothing(liar: type[Miner], reason: str) -> None:
    outcome = round_of(customers(), {2: liar, 6: liar})
    assert sorted(outcome.lying_miners) == [2, 6]
    assert all(reason in said for said in outcome.lying_miners.values())
    assert outcome.lying_customers == {}
    assert same(outcome, expected())


def test_wrong_distances_are_corrected_with_four_t_plus_one_miners() -> None:
    terms = replace(TERMS, miners=9)
    outcome = round_of(customers(terms), {2: LiesAboutDistances, 6: LiesAboutDistances}, terms)
    assert sorted(outcome.lying_miners) == [2, 6]
    assert same(outcome, expected())


def test_wrong_distances_of_two_of_seven_are_detected_and_nobody_is_believed() -> None:
    outcome = round_of(customers(), {2: LiesAboutDistances, 6: LiesAboutDistances})
    assert outcome.result is None
    assert "more than 0 of 7 shares of degree 4 are wrong" in outcome.failed
    assert outcome.lying_miners == {}


def test_a_lying_customer_and_two_lying_miners_change_nothing_together() -> None:
    all_ = customers(count=8)
    all_[3] = Bent(updates(8)[3], TERMS, name(3), slice(0, 1), 1 << 60)
    outcome = round_of(all_, {2: LiesInTests, 6: LiesAboutTheSum})
    assert list(outcome.lying_customers) == [name(3)]
    assert sorted(outcome.lying_miners) == [2, 6]
    assert same(outcome, expected([3], 8))


def test_three_lying_miners_of_seven_stop_a_round() -> None:
    outcome = round_of(customers(), {1: Complains, 2: Complains, 6: Complains})
    assert outcome.result is None
    assert outcome.failed


def test_too_few_updates_are_refused_before_a_distance_is_opened() -> None:
    outcome = round_of(customers(count=6))
    assert "6 update(s) for multi-krum with f = 2" in outcome.failed


def test_a_negative_distance_is_refused() -> None:
    polynomial = np.full((7, 3, 1), np.array(PRIMES)[:, None] - 1)
    with pytest.raises(RefusedError, match="negative"):
        shared.open_distances(TERMS, dict(enumerate(polynomial)), 2)


# --- what a miner opens once, and what it gives away


def held() -> tuple[Miner, list[bytes]]:
    all_ = customers(count=5)
    miner = Miner(0, TERMS)
    for each in all_:
        miner.take(each.name, each.dealing.messages[0], each.dealing.commitments)
    for dealer in range(3):
        dealing = Miner(dealer, TERMS).zeros(5)
        miner.take_zeros(dealer, 5, dealing.messages[0], dealing.commitments)
    return miner, [each.name for each in all_]


def test_a_miner_opens_one_test_one_set_of_distances_and_one_sum() -> None:
    miner, names = held()
    first = miner.test(SEED, dict.fromkeys(names, 0))
    assert (miner.test(SEED, dict.fromkeys(names, 0))[names[0]] == first[names[0]]).all()
    for key, chosen in ((SEED, 1), (bytes(32), 0)):
        with pytest.raises(RefusedError, match="already opened other tests"):
            miner.test(key, dict.fromkeys(names, chosen))
    miner.distances(names, [0, 1, 2])
    with pytest.raises(RefusedError, match="already opened other distances"):
        miner.distances(names[:4], [0, 1, 2])
    with pytest.raises(RefusedError, match="zeros of 2 miners"):
        miner.distances(names, [0, 1, 1])
    miner.total(names[:4])
    with pytest.raises(RefusedError, match="already opened other sum"):
        miner.total(names[:3])
    with pytest.raises(RefusedError, match="the sum of 2"):
        miner.total(names[:2])


def test_tests_of_unknown_customers_and_masks_are_refused() -> None:
    miner, names = held()
    for chosen in ({}, {name(99): 0}, {names[0]: SETS}, {names[0]: -1}):
        with pytest.raises(InputError, match="a test of customers"):
            miner.test(SEED, chosen)


def test_zeros_change_every_opened_share_of_a_distance_and_no_distance() -> None:
    terms, all_ = TERMS, customers(count=3)
    names = [each.name for each in all_]
    seen = []
    for _ in range(2):
        everybody = miners(terms)
        for each in everybody:
            for customer in all_:
                each.take(customer.name, customer.dealing.messages[each.index], customer.dealing.commitments)
        for dealer in everybody:
            dealing = dealer.zeros(3)
            for each in everybody:
                each.take_zeros(dealer.index, 3, dealing.messages[each.index], dealing.commitments)
        seen.append({each.index: each.distances(names, range(7)) for each in everybody})
    assert not any((seen[0][at] == seen[1][at]).any() for at in range(7))
    wanted = exact.squared_distances(np.stack(updates(3)))
    assert [shared.open_distances(terms, each, 3) for each in seen] == [(wanted, ())] * 2


def test_what_is_opened_is_the_projection_plus_the_mask_and_a_combination_plus_what_hides_it() -> None:
    customer = Customer(updates(1)[0], TERMS, name(0))
    at = customer.choose(SEED)
    answers = {}
    for miner in miners():
        miner.take(customer.name, customer.dealing.messages[miner.index], customer.dealing.commitments)
        answers[miner.index] = miner.test(SEED, {customer.name: at})[customer.name]
    found = shamir.decode(np.stack([answers[index] for index in range(7)]), 2, 2)
    plain = share_checks.project(share_checks._key(SEED, b"range"), TERMS.size, customer._update[None].astype(np.int64))
    assert shamir.centred(found.values[:, :ROWS]).tolist() == (plain[0] + customer._masks[at]).tolist()
    assert np.abs(plain).max() < 1 << 20 < np.abs(customer._masks[at]).max()  # the masks are what is seen
    columns = shamir.decode(shares_of(customer), 2, 2).values
    hidden = share_checks.combine(share_checks._key(SEED, b"degree"), columns[None])[0]
    assert (found.values[:, ROWS:] == hidden).all()
    assert len(np.unique(columns[:, -REPEATS:])) == 3 * REPEATS  # drawn, not left at 0
    assert share_checks.examine(TERMS, answers) == ("", ())


def test_what_the_range_test_opens_is_uniform_whatever_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    # With masks hardly wider than the projections, the places where an update shows without rejection.
    monkeypatch.setattr(share_checks, "ROWS", 1)
    monkeypatch.setattr(share_checks, "BOUND", LARGEST)
    terms, rng = Terms(4, 1, 1, b""), np.random.default_rng(1)
    for update in (np.array([0]), np.array([LARGEST])):
        seen: list[int] = []
        chosen: list[int] = []
        for number in range(4000):
            key = number.to_bytes(32, "big")
            masks = rng.integers(-terms.mask, terms.mask, (SETS, 1), endpoint=True)
            try:
                at = share_checks.choose(terms, key, update, masks)
            except RefusedError:
                continue
            factor = next(share_checks._ternary(share_checks._key(key, b"range"), 1))[1][0, 0]
            seen.append(int(factor * update[0] + masks[at, 0]))
            chosen.append(at)
        counts = np.histogram(seen, bins=16, range=(-LARGEST, LARGEST))[0]
        assert max(abs(each) for each in seen) <= LARGEST
        assert ((counts - len(seen) / 16) ** 2 / (len(seen) / 16)).sum() < 45  # 15 degrees: 1 in 10,000
        # The place of the first that fits is geometric with the same parameter for both.
        assert abs(chosen.count(0) / 4000 - 1 / 8) < 0.02


def test_a_customer_without_masks_that_fit_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    all_ = customers(count=8)
    all_[3]._masks[:] = TERMS.mask
    outcome = round_of(all_)
    assert outcome.customers == [name(at) for at in range(8) if at != 3]
    assert outcome.lying_customers == {}
    for customer in all_:
        customer._masks[:] = TERMS.mask
    assert round_of(all_).failed == "no customer takes part"


def test_shares_have_degree_t_and_zeros_2_t_in_every_column_and_no_less() -> None:
    shares = shares_of(Customer(updates(1)[0], TERMS, name(0)))
    dealing = Miner(1, TERMS).zeros(3)
    count = 3 + REPEATS
    zeros = np.stack(
        [
            share_checks.take(TERMS, shared.dealer_of(1), at, message, dealing.commitments[at], count)
            for at, message in enumerate(dealing.messages)
        ]
    )
    for dealt, degree in ((shares, TERMS.liars), (zeros, 2 * TERMS.liars)):
        shamir.decode(dealt, degree, 0)
        for column in range(dealt.shape[2]):
            with pytest.raises(RefusedError):
                shamir.decode(dealt[:, :, [column]], degree - 1, 0)
    assert not shamir.decode(zeros, 4, 0).values.any()


def test_equal_updates_are_dealt_in_messages_that_have_nothing_in_common() -> None:
    first, second = (Customer(updates(1)[0], TERMS, name(0)).dealing for _ in range(2))
    assert not set(first.commitments) & set(second.commitments)
    assert first.messages[0][:32] != second.messages[0][:32]
    assert len({message[:32] for message in first.messages}) == 7  # the salts


def test_coins_depend_on_everything_that_was_dealt() -> None:
    base = (TERMS, SEED, {name(1): (b"a" * 32,)})
    others = [
        (replace(TERMS, context=b""), SEED, base[2]),
        (replace(TERMS, size=41), SEED, base[2]),
        (TERMS, bytes(32), base[2]),
        (TERMS, SEED, {name(1): (b"b" * 32,)}),
        (TERMS, SEED, {name(2): (b"a" * 32,)}),
    ]
    assert len({share_checks.coins(*each) for each in [base, *others]}) == 6


# --- what is refused at once


@pytest.mark.parametrize(
    ("miners_", "liars", "size"), [(6, 2, 1), (7, 0, 1), (33, 2, 1), (7, 2, 0), (7, 2, share_checks.MAX_SIZE + 1)]
)
def test_terms_that_make_no_sense_are_refused(miners_: int, liars: int, size: int) -> None:
    with pytest.raises(InputError):
        Terms(miners_, liars, size, b"")


def test_fewer_answers_than_honest_miners_are_refused() -> None:
    assert [TERMS.allowance(answers, 2) for answers in (7, 6, 5)] == [2, 1, 0]
    assert [TERMS.allowance(answers, 4) for answers in (7, 6, 5)] == [0, 0, 0]
    with pytest.raises(RefusedError, match="4 of 7 miners answered"):
        TERMS.allowance(4, 2)


@pytest.mark.parametrize(
    "update",
    [
        np.zeros(39, np.int32),
        np.zeros(40, np.int64),
        np.full(40, LARGEST + 1, np.int32),
        np.full(40, -(2**31), np.int32),
    ],
)
def test_an_update_that_is_none_is_not_dealt(update: exact.Steps) -> None:
    with pytest.raises(InputError):
        Customer(update, TERMS, name(0))
