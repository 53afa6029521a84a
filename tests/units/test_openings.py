"""Opening what customers shared, from signed statements: everybody finds the same, and whoever lies is out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from privet.aggregation.exact import LARGEST, Steps, aggregate
from privet.aggregation.share_checks import REPEATS, Terms, deal, take
from privet.aggregation.shared import Customer, dealer_of
from privet.crypto.shamir import PRIMES, residues, split
from privet.crypto.signatures import public_key
from privet.errors import ContentError, InputError, RefusedError
from privet.ledger.encoding import decode, encode
from privet.ledger.epoch_keys import EpochKeys
from privet.ledger.reputation import UNSOUND
from privet.study.openings import Record, Statement, steps
from privet.study.parties import Party
from privet.study.sharing import Dealer, Dealt, largest, liars, terms

SIZE, COUNT = 12, 6
TERMS = terms(5, SIZE, bytes(32), 1, 1)
MINERS = [bytes([at, 1]) * 16 for at in range(5)]
CUSTOMERS = sorted((bytes([at, 2]) * 16 for at in range(COUNT)), key=public_key)
NAMES = [public_key(secret) for secret in CUSTOMERS]
KEYS = [public_key(secret) for secret in MINERS]

Tamper = Callable[[str, list[Statement]], list[Statement]]


def update(at: int) -> Steps:
    return np.random.default_rng(at).integers(-1000, 1000, SIZE).astype(np.int32)


class Table:
    """Five miners and six customers; what a customer dealt and what is said can be tampered with."""

    def __init__(self, rule: str = "multi-krum") -> None:
        self.rule = rule
        self.epochs = [EpochKeys() for _ in MINERS]
        self.public = {key: epochs.begin(1) for key, epochs in zip(KEYS, self.epochs, strict=True)}
        self.customers = {name: Customer(update(at), TERMS, name) for at, name in enumerate(NAMES)}
        self.sealed: dict[bytes, Dealt] = {}
        self.answers = self.masks = True

    def deal(self, name: bytes, values: Any) -> None:
        """Has a customer deal other columns than an honest one."""
        shares = split(values, TERMS.liars, TERMS.miners, bytes(32))
        self.customers[name].dealing = deal(TERMS, name, shares)

    def play(self, tamper: Tamper = lambda step, said: said) -> list[Record]:
        dealt = {
            name: self.sealed.get(name) or Dealt.sealed(TERMS, name, one.dealing, KEYS, self.public)
            for name, one in self.customers.items()
        }
        hashes = {name: one.commitments for name, one in dealt.items()}
        records = [Record(TERMS, self.rule, 1, 3, bytes(64), hashes, KEYS) for _ in MINERS]
        parties = [
            Party(record, dealt, secret, epochs, self.public)
            for record, secret, epochs in zip(records, MINERS, self.epochs, strict=True)
        ]
        for step in steps(self.rule):
            said = [party.say(step) for party in parties] + self.customers_say(step, records[0])
            self.last = said = tamper(step, said)
            for party in parties:
                party.close(step, said)
        return records

    def customers_say(self, step: str, record: Record) -> list[Statement]:
        found = []
        for secret, name in zip(CUSTOMERS, NAMES, strict=True):
            dealer = Dealer.load(TERMS, Dealer(TERMS, self.customers[name].dealing.messages).kept())
            value: Any = None
            if step == "masks" and self.masks:
                value = dealer.choose(record.key)
            if step == "answers" and self.answers and name in record.asked:
                value = [[at, dealer.messages[at]] for at in record.asked[name]]
            if value is not None:
                found.append(Statement.signed(secret, TERMS.context, step, value))
        return found


def expected(*left_out: int, rule: str = "multi-krum") -> tuple[list[int], bytes]:
    kept = [update(at) for at in range(COUNT) if at not in left_out]
    wanted = aggregate(kept, rule, 1, 3)
    scores = iter(wanted.scores)
    return [UNSOUND if at in left_out else next(scores) for at in range(COUNT)], wanted.update.tobytes()


def found(records: list[Record]) -> tuple[list[int], bytes]:
    """What came of it, after a look that all found the same."""
    told = [(*record.outcome, record.left_out, record.caught, record.failed) for record in records]
    assert all(str(one) == str(told[0]) for one in told)
    scores, mean = records[0].outcome
    return scores, mean.tobytes()


def by(miner: int, step: str, change: Callable[[Any], Any]) -> Tamper:
    """Has a miner say something else in a step; None is silence."""

    def tamper(now: str, said: list[Statement]) -> list[Statement]:
        out = []
        for one in said:
            if now != step or one.speaker != KEYS[miner]:
                out.append(one)
            elif (value := change(one.value)) is not None:
                out.append(Statement.signed(MINERS[miner], one.context, step, value))
        return out

    return tamper


def flipped(value: Any) -> Any:
    return bytes([value[0] ^ 1]) + value[1:]


@pytest.mark.parametrize("rule", ["multi-krum", "mean"])
def test_an_honest_round_gives_the_bytes_of_the_open_path(rule: str) -> None:
    records = Table(rule).play()
    assert found(records) == expected(rule=rule)
    assert (records[0].left_out, records[0].caught, records[0].failed) == ({}, {}, "")


# --- customers


def test_numbers_out_of_range_leave_their_sender_out() -> None:
    table = Table()
    columns = TERMS.columns
    values = np.zeros(columns, np.int64)
    values[0] = 1 << 50
    table.deal(NAMES[2], residues(values))
    records = table.play(lambda step, said: [*said, mask(2)] if step == "masks" else said)
    assert found(records) == expected(2)
    assert records[0].left_out == {NAMES[2]: "its numbers are out of range"}


def mask(at: int, value: Any = 0) -> Statement:
    return Statement.signed(CUSTOMERS[at], TERMS.context, "masks", value)


def test_a_share_off_the_polynomial_names_the_customer_not_the_miner() -> None:
    table = Table()
    dealing = table.customers[NAMES[1]].dealing
    message = bytearray(dealing.messages[3])
    message[40] ^= 1
    messages = [*dealing.messages[:3], bytes(message), dealing.messages[4]]
    shares = np.stack([np.frombuffer(one, "<u4", offset=32).reshape(3, -1).astype(np.int64) for one in messages])
    table.customers[NAMES[1]].dealing = deal(TERMS, NAMES[1], shares)
    records = table.play()
    assert found(records) == expected(1)
    assert "its share for miner 3" in records[0].left_out[NAMES[1]]
    assert records[0].caught == {}


@pytest.mark.parametrize("answers", [True, False])
def test_a_message_that_a_miner_cannot_read_is_shown_or_its_sender_left_out(answers: bool) -> None:
    table = Table()
    table.answers = answers
    honest = Dealt.sealed(TERMS, NAMES[4], table.customers[NAMES[4]].dealing, KEYS, table.public)
    table.sealed[NAMES[4]] = replace(honest, messages=(b"", *honest.messages[1:]))
    records = table.play()
    assert found(records) == (expected() if answers else expected(4))
    assert records[0].caught == {}


@pytest.mark.parametrize("value", [None, -1, 16, True, "0"])
def test_who_names_no_masks_is_left_out(value: Any) -> None:
    def tamper(step: str, said: list[Statement]) -> list[Statement]:
        others = [one for one in said if one.speaker != NAMES[0]]
        return [*others, *([] if value is None else [mask(0, value)])] if step == "masks" else said

    assert found(Table().play(tamper)) == expected(0)


@pytest.mark.parametrize("rule", ["multi-krum", "mean"])
def test_too_few_sound_updates_give_nothing_and_the_liars_are_named(rule: str) -> None:
    table = Table(rule)
    keep = 4 if rule == "multi-krum" else 2

    def tamper(step: str, said: list[Statement]) -> list[Statement]:
        return [one for one in said if step != "masks" or one.speaker not in NAMES[keep:]]

    records = table.play(tamper)
    scores, mean = found(records)
    assert scores == [0] * keep + [UNSOUND] * (COUNT - keep)
    assert not any(mean)
    assert records[0].failed


def test_a_sum_beyond_the_clip_gives_nothing() -> None:
    table = Table("mean")
    table.customers[NAMES[3]] = Customer(update(3), TERMS, NAMES[3])
    shares = np.stack(
        [
            np.frombuffer(one, "<u4", offset=32).reshape(3, -1).astype(np.int64)
            for one in table.customers[NAMES[3]].dealing.messages
        ]
    )
    shares[:, :, 0] = (shares[:, :, 0] + 7 * LARGEST) % np.array(PRIMES)[:, None].T
    table.customers[NAMES[3]].dealing = deal(TERMS, NAMES[3], shares)
    records = table.play()
    assert not records[0].outcome[1].any()
    assert "larger than the clip allows" in records[0].failed
    assert records[0].left_out == {}


# --- miners


@pytest.mark.parametrize(
    ("step", "change", "reason"),
    [
        ("zeros", lambda value: None, ""),
        ("zeros", lambda value: b"no dealing", ""),
        ("zeros", lambda value: 7, ""),
        ("complaints", lambda value: None, ""),
        ("complaints", lambda value: 7, None),
        ("complaints", lambda value: [NAMES[0], NAMES[0], b"stranger", 7, []], None),
        ("tests", lambda value: None, ""),
        ("tests", lambda value: value[4:], ""),
        ("tests", lambda value: b"\xff" * len(value), ""),
        ("tests", flipped, "opened a test that does not follow from its share"),
        ("tests", lambda value: value[:-1] + bytes([value[-1] ^ 1]), "opened a test that does not follow"),
        ("distances", lambda value: None, ""),
        ("distances", flipped, "opened a wrong share of the distances"),
        ("sums", lambda value: b"", ""),
        ("sums", flipped, "opened a wrong share of the sum"),
    ],
)
def test_one_miner_that_lies_changes_nothing(step: str, change: Any, reason: str | None) -> None:
    records = Table().play(by(2, step, change))
    assert found(records) == expected()
    assert records[0].left_out == {}
    assert list(records[0].caught) == ([2] if reason else [])
    assert records[0].caught.get(2, "").startswith(reason or "")
    assert (2 in records[0].present) == (reason is None)


@pytest.mark.parametrize("shows", [None, 7, [7], [[[], b""]], "nothing of the kind"])
def test_who_shows_no_share_after_a_wrong_test_is_named(shows: Any) -> None:
    first, second = by(2, "tests", flipped), by(2, "shows", lambda value: shows)
    records = Table().play(lambda step, said: second(step, first(step, said)))
    assert found(records) == expected()
    assert list(records[0].caught) == [2]


def test_a_liar_in_the_tests_brings_nobody_else_to_show_its_shares_of_zeros() -> None:
    table, told = Table(), []

    def tamper(step: str, said: list[Statement]) -> list[Statement]:
        if step == "shows":
            told.extend(one for one in said if one.value and one.speaker != KEYS[2])
        return by(2, "tests", lambda value: b"\0" * len(value))(step, said)

    records = table.play(tamper)
    assert found(records) == expected()
    assert told == []
    assert records[0].dealers == [0, 1, 3, 4]


def zeros(kind: str, epochs: dict[bytes, bytes]) -> bytes:
    """The zeros of miner 1, wrong in some way."""
    count = COUNT * (COUNT - 1) // 2 + REPEATS
    values = np.zeros((3, count), np.int64)
    degree = 2 * TERMS.liars
    if kind == "not zero":
        values[:, 0] = 1
    shares = split(values, degree + (kind == "too high"), TERMS.miners, bytes(32))
    if kind == "one off":
        shares[4, 0, 0] ^= 1
    sealed = Dealt.sealed(TERMS, dealer_of(1), deal(TERMS, dealer_of(1), shares), KEYS, epochs)
    return (replace(sealed, messages=(b"", *sealed.messages[1:])) if kind == "unreadable" else sealed).encode()


@pytest.mark.parametrize("kind", ["not zero", "too high", "one off", "unreadable"])
def test_a_miner_whose_zeros_are_none_is_named(kind: str) -> None:
    table = Table()
    records = table.play(by(1, "zeros", lambda value: zeros(kind, table.public)))
    assert found(records) == expected()
    assert list(records[0].caught) == [1]
    assert records[0].dealers == [0, 2, 3, 4]


def test_zeros_that_a_miner_could_not_read_are_shown_to_it() -> None:
    table = Table()

    def unread(value: bytes) -> bytes:
        sealed = Dealt.decode(value, 5)
        return replace(sealed, messages=(b"", *sealed.messages[1:])).encode()

    records = table.play(by(1, "zeros", unread))
    assert found(records) == expected()
    assert (records[0].caught, records[0].dealers) == ({}, [0, 1, 2, 3, 4])
    assert list(records[0].shown) == [(dealer_of(1), 0)]


def flipped_higher(value: Any) -> Any:
    return value[:2] + bytes([value[2] ^ 1]) + value[3:]


def test_two_liars_of_five_that_lie_apart_stop_the_round_and_nothing_wrong_is_found() -> None:
    # Two that work together are more than t = 1: errors in the right proportion look like one error of somebody else.
    first, second = by(1, "distances", flipped), by(2, "distances", flipped_higher)
    with pytest.raises(RefusedError):
        Table().play(lambda step, said: second(step, first(step, said)))
    first, second = by(1, "tests", lambda value: None), by(2, "tests", lambda value: None)
    with pytest.raises(RefusedError, match="3 of 5 miners"):
        Table().play(lambda step, said: second(step, first(step, said)))
    first, second = by(1, "sums", flipped), by(2, "sums", flipped_higher)
    records = Table().play(lambda step, said: second(step, first(step, said)))
    assert records[0].failed
    assert not records[0].outcome[1].any()


def test_zeros_of_one_miner_hide_no_distance() -> None:
    silent = [by(at, "zeros", lambda value: None) for at in (0, 1, 2, 3)]

    def tamper(step: str, said: list[Statement]) -> list[Statement]:
        for one in silent:
            said = one(step, said)
        return said

    with pytest.raises(RefusedError):
        Table().play(tamper)


# --- statements, contents and what a customer keeps


def test_what_is_not_signed_or_of_another_round_or_step_is_not_heard() -> None:
    record = Record(TERMS, "mean", 1, 3, bytes(64), dict.fromkeys(NAMES, ()), KEYS)
    good = [Statement.signed(secret, TERMS.context, "masks", 0) for secret in CUSTOMERS]
    bad = [replace(good[0], signature=bytes(64)), replace(good[1], context=b""), replace(good[2], step="tests")]
    record.close("masks", [*bad, *good[3:]])
    assert sorted(record.left_out) == NAMES[:3]


def test_nothing_is_known_before_it_is_opened() -> None:
    record = Record(TERMS, "mean", 1, 3, bytes(64), dict.fromkeys(NAMES, ()), KEYS)
    with pytest.raises(RefusedError, match="not opened"):
        _ = record.outcome


def test_a_content_says_what_was_dealt_and_only_its_miner_reads_a_message() -> None:
    table = Table()
    dealing = table.customers[NAMES[0]].dealing
    sealed = Dealt.sealed(TERMS, NAMES[0], dealing, KEYS, table.public)
    assert Dealt.decode(sealed.encode(), 5) == sealed
    assert len(sealed.encode()) <= largest(TERMS)
    assert not any(one[32:64] in sealed.encode() for one in dealing.messages)
    message = sealed.message(TERMS, NAMES[0], 2, KEYS[2], table.epochs[2])
    assert message == dealing.messages[2]
    take(TERMS, NAMES[0], 2, message, sealed.commitments[2], TERMS.columns)
    with pytest.raises(ContentError):
        sealed.message(TERMS, NAMES[0], 2, KEYS[1], table.epochs[1])
    with pytest.raises(InputError):
        Dealt.decode(sealed.encode(), 6)
    with pytest.raises(InputError):
        Dealt.sealed(TERMS, NAMES[0], dealing, KEYS, {})
    table_ = {**decode(sealed.encode()), "messages": [7] * 5}  # type: ignore[dict-item]
    with pytest.raises(InputError):
        Dealt.decode(encode(table_), 5)


def test_a_customer_knows_its_masks_from_what_it_dealt() -> None:
    one = Customer(update(0), TERMS, NAMES[0])
    dealer = Dealer.load(TERMS, Dealer(TERMS, one.dealing.messages).kept())
    for at in range(20):
        key = bytes([at]) * 32
        assert dealer.choose(key) == one.choose(key)
    one._masks[:] = TERMS.mask
    again = one._deal(residues(np.concatenate([update(0).astype(np.int64), one._masks.reshape(-1)])))
    assert Dealer(TERMS, again.messages).choose(bytes(32)) is None
    for kept in (encode(7), encode([b""] * 4), encode([7] * 5)):
        with pytest.raises(ContentError):
            Dealer.load(TERMS, kept)


def test_fewer_than_a_quarter_may_lie() -> None:
    assert [liars(count) for count in (5, 7, 8, 9, 13)] == [1, 1, 1, 2, 3]
    with pytest.raises(InputError):
        terms(4, 1, b"", 1, 1)
    assert isinstance(TERMS, Terms)
