"""How miners' messages travel: there and back, one encoding each, and nothing hostile gets through."""

import pytest
from consortium import MINERS, certified, genesis, key, secret
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.errors import InputError
from privet.ledger import wire
from privet.ledger.encoding import encode
from privet.ledger.messages import Final, Lock, Opening, Proposal
from privet.ledger.replay import Replay
from privet.ledger.transactions import Transaction
from privet.ledger.votes import NOTHING, STEPS, Vote
from privet.ledger.wire import (
    BATCH,
    LIMIT,
    decode_batch,
    decode_final,
    decode_message,
    encode_batch,
    encode_final,
    encode_message,
)

START = genesis()
PAID = [Transaction.signed(secret("maker"), START.hash, at, "pay", {"to": key("home"), "amount": 1}) for at in range(2)]
BLOCK, _ = Replay(START).propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), PAID)
CERTIFICATE = certified(Replay(START), BLOCK)
PROOF = bytes(80)


def vote(height=1, period=0, step="soft", block=NOTHING):
    return Vote.signed(secret(MINERS[0]), START.name, START.hash, height, period, step, block)


FINAL = Final(BLOCK, CERTIFICATE)
LOCKED = Opening(key(MINERS[0]), 1, 1, PROOF, (vote(step="next"), vote(step="certify")), Lock(BLOCK, CERTIFICATE))
PROPOSAL = Proposal(BLOCK, vote(block=BLOCK.header.hash), PROOF, CERTIFICATE)

counts = some.integers(0, (1 << 53) - 1)
votes = some.builds(
    vote,
    counts.map(lambda at: at + 1 if at < 1 << 52 else at),
    counts,
    some.sampled_from(STEPS),
    some.just(NOTHING) | some.binary(min_size=32, max_size=32),
)
messages = (
    votes
    | some.builds(
        Opening,
        some.binary(min_size=32, max_size=32),
        some.integers(1, (1 << 53) - 1),
        counts,
        some.binary(min_size=80, max_size=80),
        some.lists(votes, max_size=4).map(tuple),
        some.none() | some.just(LOCKED.lock),
    )
    | some.builds(
        Proposal,
        some.just(BLOCK),
        votes,
        some.binary(min_size=80, max_size=80),
        some.none() | some.just(CERTIFICATE),
    )
    | some.just(FINAL)
)


@settings(max_examples=60)
@given(messages)
def test_what_goes_comes_back_in_one_encoding(message):
    data = encode_message(message)
    assert decode_message(data) == message
    assert encode_message(decode_message(data)) == data
    assert len(data) <= LIMIT


@pytest.mark.parametrize("message", [vote(), LOCKED, PROPOSAL, FINAL], ids=["vote", "opening", "proposal", "final"])
def test_cut_anywhere_or_longer_it_is_refused(message):
    data = encode_message(message)
    for end in range(len(data)):
        with pytest.raises(InputError):
            decode_message(data[:end])
    with pytest.raises(InputError):
        decode_message(data + b"\0")


@settings(max_examples=150)
@given(some.sampled_from([LOCKED, PROPOSAL, FINAL]), some.data())
def test_a_flipped_byte_is_refused_or_another_message(message, data):
    encoded = bytearray(encode_message(message))
    encoded[data.draw(some.integers(0, len(encoded) - 1))] ^= data.draw(some.integers(1, 255))
    try:
        found = decode_message(bytes(encoded))
    except InputError:
        return
    assert found != message
    assert encode_message(found) == bytes(encoded)


@settings(max_examples=200)
@given(some.binary(max_size=200))
def test_noise_is_refused(data):
    for refuse in (decode_message, decode_batch):
        with pytest.raises(InputError):
            refuse(data)


def test_bounds_hold_before_anything_is_built(monkeypatch):
    built = []
    monkeypatch.setattr(wire, "decode", built.append)
    with pytest.raises(InputError, match="oversize"):
        decode_message(bytes(LIMIT + 1))
    with pytest.raises(InputError, match="oversize"):
        decode_batch(bytes(LIMIT + 16 * BATCH + 1))
    assert not built


@pytest.mark.parametrize(
    "value",
    [
        ["vote"],
        ["vote", {}, 1],
        ["offer", {}],
        [["vote"], {}],
        ["vote", {"vote": "text"}],
        ["opening", {**vars(LOCKED), "entry": [vote().encode()] * 101, "lock": None}],
        ["opening", {**vars(LOCKED), "entry": [], "lock": [BLOCK.encode()]}],
        ["opening", {**vars(LOCKED), "entry": [], "lock": [BLOCK.encode(), b""]}],
        ["opening", {**vars(LOCKED), "entry": [], "lock": [LOCKED.lock.block.encode(), CERTIFICATE.encode(), None]}],
        ["opening", {**vars(LOCKED), "entry": [], "lock": None, "proof": bytes(79)}],
        ["opening", {**vars(LOCKED), "entry": [], "lock": None, "height": 0}],
        ["final", {"block": BLOCK.encode(), "certificate": BLOCK.encode()}],
    ],
)
def test_what_is_well_encoded_and_no_message_is_refused(value):
    with pytest.raises(InputError):
        decode_message(encode(value))


def test_batches_are_taken_whole_or_not_at_all():
    encoded = [encode_message(vote()), encode_message(FINAL)]
    assert decode_batch(encode_batch(encoded)) == [vote(), FINAL]
    for wrong in ([], [encoded[0]] * (BATCH + 1), [encoded[0], b"junk"], [encoded[0], 1]):
        with pytest.raises(InputError):
            decode_batch(encode(wrong))


def test_a_final_block_or_none():
    assert decode_final(encode_final(FINAL)) == FINAL
    assert decode_final(encode_final(None)) is None
    with pytest.raises(InputError, match="another message"):
        decode_final(encode_message(vote()))
