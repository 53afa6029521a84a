"""Sortition: exact against fractions, against the float that broke a chain, and against who would cheat."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.crypto import ecvrf
from privet.errors import InputError
from privet.ledger.sortition import (
    MAX_STAKE,
    POLICIES,
    chosen_units,
    count_leaders,
    empty_seed,
    next_seed,
    normalised,
    priority,
    proposer_priority,
    vrf_message,
)

STAKES = (40, 10, 10, 10, 10, 10, 10)
SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = ecvrf.public_key(SECRET)


def slow_chosen(output, stake, total, expected):
    """The smallest j with u < F(j), in fractions, as the definition says."""
    u = Fraction(int.from_bytes(output, "big"), 2 ** (8 * len(output)))
    p, below = Fraction(expected, total), Fraction(0)
    for j in range(stake + 1):
        below += comb(stake, j) * p**j * (1 - p) ** (stake - j)
        if u < below:
            return j
    raise AssertionError("F(stake) is 1")


@given(data=some.data(), output=some.binary(min_size=1, max_size=20), stake=some.integers(0, 30))
@settings(max_examples=300)
def test_equals_its_slow_twin(data, output, stake):
    total = data.draw(some.integers(max(stake, 1), 60))
    expected = data.draw(some.integers(1, total))
    assert chosen_units(output, stake, total, expected) == slow_chosen(output, stake, total, expected)


def test_the_boundary_belongs_to_the_next_interval():
    # F(0) = (3/4)^2 = 144/256 and F(1) = 240/256 are outputs of one byte.
    assert [chosen_units(bytes([u]), 2, 4, 1) for u in (0, 143, 144, 239, 240, 255)] == [0, 0, 1, 1, 2, 2]


def test_chooses_as_many_as_expected():
    chosen = [chosen_units(u.to_bytes(2, "big"), 8, 16, 4) for u in range(2**16)]  # F has steps of 2^-16 here
    assert Fraction(sum(chosen), len(chosen)) == Fraction(8 * 4, 16)


def test_the_documents_intervals_choose_one_too_few_and_have_no_answer_below_the_first():
    edges = [Fraction(9, 16), Fraction(15, 16), Fraction(1)]  # F(0), F(1), F(2) for 2 of 4 units, 1 expected

    def literal(u):
        return next((j for j in (0, 1) if edges[j] <= u < edges[j + 1]), None)

    for u in range(256):
        chosen = chosen_units(bytes([u]), 2, 4, 1)
        assert literal(Fraction(u, 256)) == (chosen - 1 if chosen else None)


@given(output=some.binary(min_size=8, max_size=8), stake=some.integers(0, 50))
@settings(max_examples=100)
def test_grows_with_the_output_and_with_the_stake(output, stake):
    chosen = chosen_units(output, stake, 100, 26)
    larger = min(int.from_bytes(output, "big") + 2**56, 2**64 - 1).to_bytes(8, "big")
    assert 0 <= chosen <= chosen_units(larger, stake, 100, 26) <= stake
    assert chosen <= chosen_units(output, stake + 1, 100, 26)


def float_chosen(output, stake, total, expected):
    """What chains have shipped: the output as a float, the distribution function as a sum of floats."""
    u, p = int.from_bytes(output, "big") / 2 ** (8 * len(output)), expected / total
    term = below = (1 - p) ** stake
    for j in range(stake):
        if u < below:
            return j
        term *= (stake - j) / (j + 1) * p / (1 - p)
        below += term
    return stake


def test_a_floats_tail_chooses_everybody_and_whole_numbers_do_not():
    output = b"\xff" * 8 + bytes(56)  # one output in 2^64 is as large; as a float it is 1
    assert float_chosen(output, 10_000, 10**5, 26) == 10_000
    assert chosen_units(output, 10_000, 10**5, 26) == slow_chosen(output, 10_000, 10**5, 26) == 28
    ordinary = hashlib.sha512(b"ordinary").digest()
    assert float_chosen(ordinary, 10_000, 10**5, 26) == chosen_units(ordinary, 10_000, 10**5, 26)


def test_everybody_expected_and_nobodys_stake():
    assert chosen_units(b"\x00", 7, 7, 7) == 7
    assert chosen_units(b"\xff" * 64, 0, 7, 3) == 0
    assert 26 < chosen_units(b"\xff" * 64, 100, 1000) < 100


@pytest.mark.parametrize(
    ("output", "stake", "total", "expected"),
    [
        (b"", 1, 2, 1),
        (b"x", -1, 2, 1),
        (b"x", 3, 2, 1),
        (b"x", 1, 2, 0),
        (b"x", 1, 2, 3),
        (b"x", MAX_STAKE + 1, 10**6, 1),
    ],
)
def test_a_draw_that_makes_no_sense_is_refused(output, stake, total, expected):
    with pytest.raises(InputError, match="no draw with a stake"):
        chosen_units(output, stake, total, expected)


def test_priorities():
    output = hashlib.sha512(b"output").digest()
    hashes = [hashlib.sha256(b"privet priority\0" + output + i.to_bytes(8, "big")).digest() for i in range(1, 6)]
    for units in range(1, 6):
        assert priority("min-hash", output, units) == min(hashes[:units])
        assert priority("count", output, units)[8:] == min(hashes[:units])
    by_count = [priority("count", output, units) for units in (1, 2, 255, 256, MAX_STAKE)]
    assert by_count == sorted(by_count, reverse=True)
    with pytest.raises(InputError, match="has no priority"):
        priority("min-hash", output, 0)
    with pytest.raises(InputError, match=r"no priority called 'stake'; allowed: min-hash, count"):
        priority("stake", output, 1)


def test_leaders_by_smallest_hash_follow_the_stake_and_by_count_they_do_not():
    led = count_leaders(STAKES, 10_000)
    assert sum(led) == 10_000
    assert all(abs(count / 100 - stake) < 2 for count, stake in zip(led, STAKES, strict=True))
    assert count_leaders(STAKES, 1_000, "count")[0] > 950


def test_leaders_repeat_and_depend_on_the_seed():
    assert count_leaders(STAKES, 100) == count_leaders(STAKES, 100)
    assert count_leaders(STAKES, 100) != count_leaders(STAKES, 100, seed=b"another")


def test_rounds_in_which_nobody_is_chosen_count_for_nobody():
    assert sum(count_leaders((1, 1, 98, 0), 200, expected=1)) < 200
    assert count_leaders((0, 1), 20, expected=1) == [0, 20]


def place(**changes):
    return {"stake": 40, "total": 100} | changes


def test_a_proposers_priority_is_worked_out_by_whoever_asks():
    message = vrf_message("propose", b"seed", 7, 0)
    proof = ecvrf.prove(SECRET, message)
    output = ecvrf.proof_to_hash(proof)
    for policy in POLICIES:
        found = proposer_priority(PUBLIC, message, proof, **place(policy=policy))
        assert found == priority(policy, output, chosen_units(output, 40, 100))


def test_who_cheats_has_no_priority():
    message = vrf_message("propose", b"seed", 7, 0)
    proof, theirs = ecvrf.prove(SECRET, message), ecvrf.prove(OTHER, message)
    assert proposer_priority(PUBLIC, message, proof, **place()) is not None
    assert proposer_priority(PUBLIC, message, bytes(80), **place()) is None
    assert proposer_priority(PUBLIC, message, theirs, **place()) is None
    assert proposer_priority(ecvrf.public_key(OTHER), message, proof, **place()) is None
    for other in (
        vrf_message("propose", b"seed", 7, 1),
        vrf_message("propose", b"seed", 8, 0),
        vrf_message("propose", b"another seed", 7, 0),
        vrf_message("seed", b"seed", 7, 0),
    ):
        assert proposer_priority(PUBLIC, other, proof, **place()) is None
    assert proposer_priority(PUBLIC, message, proof, **place(stake=0)) is None


def test_a_stake_changed_after_the_seed_is_known_changes_who_leads():
    # Why stakes and keys are those registered before the seed: with another stake the same proof has another priority.
    message = vrf_message("propose", b"seed", 7, 0)
    proof = ecvrf.prove(SECRET, message)
    assert len({proposer_priority(PUBLIC, message, proof, **place(stake=s, policy="count")) for s in (5, 40, 90)}) == 3


def test_seeds_follow_from_the_leaders_proof_or_from_the_hash():
    message = vrf_message("seed", b"old", 7)
    proof = ecvrf.prove(SECRET, message)
    assert next_seed(b"old", 7, PUBLIC, proof) == ecvrf.proof_to_hash(proof)
    assert next_seed(b"old", 8, PUBLIC, proof) is None
    assert next_seed(b"older", 7, PUBLIC, proof) is None
    assert next_seed(b"old", 7, ecvrf.public_key(OTHER), proof) is None
    empty = {empty_seed(b"old", 7), empty_seed(b"old", 8), empty_seed(b"older", 7), ecvrf.proof_to_hash(proof)}
    assert len(empty) == 4
    assert all(len(seed) == 64 for seed in empty)


def test_messages_are_never_alike():
    calls = [
        ("a", b"", 1),
        ("a", b"", 1, 0),
        ("a", b"\0", 1),
        ("ab", b"", 1),
        ("a", (1).to_bytes(8, "big")),
        ("a", b""),
    ]
    assert len({vrf_message(*call) for call in calls}) == len(calls)
    for role in ("röle", "ro\0le"):
        with pytest.raises(InputError, match="no role"):
            vrf_message(role, b"seed")


@given(stakes=some.lists(some.integers(0, 10**12), min_size=1, max_size=20).filter(any), units=some.integers(1, 2000))
def test_normalised_stakes_are_less_than_a_unit_off(stakes, units):
    found, total = normalised(stakes, units), sum(stakes)
    if total <= units:
        assert found == stakes
        return
    assert sum(found) == units
    assert all(abs(Fraction(stake * units, total) - each) < 1 for stake, each in zip(stakes, found, strict=True))


def test_normalised_examples():
    assert normalised([1, 1, 1], 2) == [1, 1, 0]
    assert normalised([40_000, 10_000]) == [800, 200]
    for wrong in ([0, 0], [-1, 2], []):
        with pytest.raises(InputError, match="whole numbers from 0"):
            normalised(wrong)
