"""Votes and certificates: bound to one place, more than two thirds, nothing counted twice."""

from __future__ import annotations

import dataclasses

import pytest
from consortium import MINERS, genesis, key, secret
from hypothesis import given
from hypothesis import strategies as st

from privet.crypto import ecvrf
from privet.errors import InputError
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.votes import NOTHING, Certificate, Vote, contradict, is_quorum

START = genesis()
BLOCK = bytes(range(32))
ORDER = 2**252 + 27742317777372353535851937790883648493


def vote(name=MINERS[0], *, chain="tests", start=START.hash, height=3, period=0, step="certify", block=BLOCK):
    return Vote.signed(secret(name), chain, start, height, period, step, block)


def certificate(*names, **place):
    return Certificate.of([vote(name, **place) for name in names])


def test_a_certificate_of_three_of_four_suffices_and_two_do_not():
    certificate(*MINERS[:3]).check(START.weights)
    with pytest.raises(InputError, match="weight 2 of 4; allowed: more than two thirds"):
        certificate(*MINERS[:2]).check(START.weights)


def test_exactly_two_thirds_are_too_few():
    three = genesis(miners=MINERS[:3])
    certificate(*MINERS[:3]).check(three.weights)
    with pytest.raises(InputError, match="weight 2 of 3"):
        certificate(*MINERS[:2]).check(three.weights)
    alone = genesis(miners=MINERS[:1])
    certificate(MINERS[0]).check(alone.weights)


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_two_quorums_share_more_than_a_third(total, cast):
    # The reason for strictly more than two thirds: two of them overlap in more than what may lie.
    if is_quorum(cast, total) and cast <= total:
        assert 3 * (2 * cast - total) > total


def test_weights_count_not_heads():
    def miner(name, weight):
        return Miner(key(name), ecvrf.public_key(secret(name + " vrf")), weight=weight)

    start = Genesis("tests", tuple(miner(name, weight) for name, weight in zip(MINERS, (5, 1, 1, 1), strict=True)), {})
    certificate(*MINERS[:2], start=start.hash).check(start.weights)
    with pytest.raises(InputError, match="weight 3 of 8"):
        certificate(*MINERS[1:], start=start.hash).check(start.weights)


def test_duplicates_strangers_and_disorder_are_refused():
    sound = certificate(*MINERS[:3])
    twice = dataclasses.replace(sound, votes=(*sound.votes[:2], sound.votes[1]))
    for wrong in (twice, dataclasses.replace(sound, votes=sound.votes[::-1])):
        with pytest.raises(InputError, match="twice or out of order"):
            wrong.check(START.weights)
        with pytest.raises(InputError, match="votes is of the wrong type"):
            Certificate.decode(wrong.encode())
    with pytest.raises(InputError, match="is no miner"):
        certificate(*MINERS[:3], "stranger").check(START.weights)


@pytest.mark.parametrize(
    "change",
    [{"chain": "other"}, {"start": bytes(32)}, {"height": 4}, {"period": 1}, {"step": "soft"}, {"block": bytes(32)}],
    ids=lambda change: next(iter(change)),
)
def test_a_vote_of_another_place_does_not_count(change):
    sound = certificate(*MINERS[:3])
    moved = vote(MINERS[3], **change)
    votes = tuple(sorted((*sound.votes, (moved.voter, moved.signature))))
    with pytest.raises(InputError, match=r"signature of .* is wrong"):
        dataclasses.replace(sound, votes=votes).check(START.weights)


def test_malleable_and_forged_signatures_are_refused():
    sound = certificate(*MINERS[:3])
    voter, sealed = sound.votes[0]
    shifted = (int.from_bytes(sealed[32:], "little") + ORDER).to_bytes(32, "little")
    # The point of order 1 as R and as key would sign everything.
    for wrong in (sealed[:32] + shifted, bytes(64), b"\x01" + bytes(63), sound.votes[1][1]):
        with pytest.raises(InputError, match="is wrong"):
            dataclasses.replace(sound, votes=((voter, wrong), *sound.votes[1:])).check(START.weights)


def test_a_key_of_small_order_never_verifies():
    weak = b"\x01" + bytes(31)
    anything = Vote("tests", START.hash, 3, 0, "certify", BLOCK, weak, b"\x01" + bytes(63))
    assert not anything.authentic()


def test_certificates_join_votes_of_one_place():
    with pytest.raises(InputError, match="votes for one block"):
        Certificate.of([vote(), vote(MINERS[1], period=1)])
    with pytest.raises(InputError, match="votes for one block"):
        Certificate.of([])


def test_bytes_round_trip_and_nothing_else_is_read():
    sound = certificate(*MINERS)
    assert Certificate.decode(sound.encode()) == sound
    assert Vote.decode(vote(block=NOTHING).encode()) == vote(block=NOTHING)
    for data in (b"\xa0", b"", sound.encode()[:-1], vote().encode()):
        with pytest.raises(InputError):
            Certificate.decode(data)


def test_every_flipped_byte_of_a_certificate_is_noticed():
    sound = certificate(*MINERS[:3])
    encoded = sound.encode()
    for at in range(len(encoded)):
        try:
            changed = Certificate.decode(encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :])
            changed.check(START.weights)
        except InputError:
            continue
        raise AssertionError(at)


def test_contradictions():
    assert contradict(vote(), vote(block=bytes(32)))
    assert contradict(vote(), vote(block=NOTHING))
    assert not contradict(vote(), vote())
    assert not contradict(vote(), vote(MINERS[1], block=bytes(32)))
    assert not contradict(vote(), vote(block=bytes(32), period=1))
    assert not contradict(vote(), vote(block=bytes(32), step="soft"))
    assert not contradict(vote(), dataclasses.replace(vote(block=bytes(32)), signature=bytes(64)))
    assert not contradict(dataclasses.replace(vote(), signature=bytes(64)), vote(block=bytes(32)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": ""}, "name"),
        ({"miners": ()}, "miners"),
        ({"h": 101}, "above gamma_max"),
        ({"gamma_max": 5.0}, "gamma_max is of the wrong type"),
        ({"f": -1}, "f is of"),
        ({"kappa": 0}, "kappa"),
        ({"manufacturers": {b"short": 1}}, "manufacturers"),
        ({"manufacturers": {key("a"): 2**52, key("b"): 2**52}}, "tokens"),
        ({"miners": (START.miners[0],) * 2}, "miners"),
        ({"miners": (START.miners[0], dataclasses.replace(START.miners[1], vrf=START.miners[0].vrf))}, "VRF key"),
        ({"miners": (dataclasses.replace(START.miners[0], vrf=b"\x01" + bytes(31)),)}, "VRF key"),
        ({"miners": (dataclasses.replace(START.miners[0], vrf=START.miners[0].key),)}, "also a signing key"),
        ({"miners": (dataclasses.replace(START.miners[0], stake=0),)}, "miners"),
        ({"miners": tuple(Miner(bytes([at]) * 32, bytes([at]) * 32) for at in range(101))}, "miners"),
    ],
    ids=str,
)
def test_a_genesis_that_is_wrong_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(START, **fields)


def test_a_genesis_keeps_its_bytes_and_order_does_not_matter():
    assert Genesis.decode(START.encode()) == START
    assert dataclasses.replace(START, miners=START.miners[::-1]).hash == START.hash
    assert genesis(h=6).hash != START.hash
    with pytest.raises(InputError, match="genesis must hold exactly"):
        Genesis.decode(b"\xa0")
