"""Laws of agreement: whatever the schedule, one block a height; it goes on after healing; only what counts is counted.

Signatures and VRF proofs are real throughout.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.ledger import claims, tally, votes
from privet.ledger.consensus import Consensus
from privet.ledger.messages import (
    Final,
    Lock,
    Look,
    Offence,
    Opening,
    Proposal,
    Send,
    Start,
    Stopped,
    Timeout,
    Timer,
)
from privet.ledger.sign_state import SignState
from privet.ledger.sortition import rank, vrf_message
from privet.ledger.transactions import Transaction
from privet.ledger.votes import NOTHING, Certificate, Vote
from privet.study import consensus_trials
from privet.study.consensus_trials import FAULTS, KeptReplay, Memory, Trial, consortium, secret

FOUR = consortium(4)
NAMES = [f"miner {at}" for at in range(4)]
KEYS = {name: public_key(secret(name)) for name in NAMES}
BLOCK = bytes(range(32))


def miner(name=NAMES[0], genesis=FOUR, storage=None, **given):
    chain = KeptReplay(genesis)
    signs = SignState(storage or Memory(), genesis, secret(name), 0)
    made = Consensus(chain, secret(name), secret(name + " vrf"), signs, **given)
    return made, made.handle(Start())


def vote(name, step="soft", block=NOTHING, *, period=0, height=1, chain="trial", genesis=FOUR.hash):
    return Vote.signed(secret(name), chain, genesis, height, period, step, block)


def proof(name, period, seed=FOUR.hash):
    return ecvrf.prove(secret(name + " vrf"), vrf_message("propose", seed, 1, period))


def leader(period):
    def place(name):
        message = vrf_message("propose", FOUR.hash, 1, period)
        return rank(ecvrf.public_key(secret(name + " vrf")), message, proof(name, period), 1, 4) or b"\xff" * 40

    return min(NAMES, key=place)


def cast(actions):
    return [each.message for each in actions if isinstance(each, Send) and isinstance(each.message, Vote)]


def sent(actions, kind):
    return [each.message for each in actions if isinstance(each, Send) and isinstance(each.message, kind)]


def others(name):
    return [each for each in NAMES if each != name]


# Random schedules


@settings(max_examples=25, derandomize=True)
@given(seed=st.integers(0, 2**32), count=st.sampled_from((4, 5, 7)))
def test_random_schedules_never_certify_two_blocks_and_go_on_after_healing(seed, count):
    trial = Trial(consortium(count), random.Random(seed))  # noqa: S311 - a schedule
    assert trial.run(storm=8_000, heights=3, patience=120_000)
    finals = {}
    for node in trial.honest:
        for final in node.chain.finals:
            finals.setdefault(final.block.header.height, set()).add(final.block.header.hash)
    for height, blocks in finals.items():
        assert len(blocks | trial.certified.get(height, set())) == 1
    assert not trial.named & {node.key for node in trial.honest}
    assert trial.counts["honest_stopped"] == 0


def calm(partition="none", fault="", seed=0):
    """Returns a trial of four miners without drops and restarts; the second may be at fault."""
    trial = Trial(FOUR, random.Random(seed))  # noqa: S311 - a schedule
    trial.drop, trial.delay, trial.partition, trial.restart_rate = 0.0, 20, partition, 0.0
    for node in trial.nodes:
        node.fault = ""
    trial.nodes[1].fault = fault
    trial.honest = [node for node in trial.nodes if not node.fault]
    return trial


def test_the_trials_notice_a_quorum_that_is_too_small(monkeypatch):
    for module in (claims, tally, votes, consensus_trials):
        monkeypatch.setattr(module, "is_quorum", lambda cast, all_of: 2 * cast >= all_of)
    trial = calm("halves")
    trial.run(storm=20_000, heights=0, patience=0)
    assert max(len(blocks) for blocks in trial.certified.values()) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_one_of_four_at_fault_stops_nothing(fault):
    trial = calm(fault=fault, seed=3)
    assert trial.run(storm=0, heights=25, patience=200_000)
    by = {trial.nodes[0].chain.final(height).block.header.proposer for height in range(1, 26)}
    assert KEYS["miner 0"] in by
    assert (KEYS["miner 1"] in by) == (fault == "equivocating")
    assert trial.named == ({KEYS["miner 1"]} if fault == "equivocating" else set())
    assert all(len(blocks) == 1 for blocks in trial.certified.values())


def test_half_of_the_miners_decide_nothing_and_go_on_when_they_hear_of_each_other():
    trial = calm("halves")
    trial.run(storm=60_000, heights=0, patience=0)
    assert trial.certified == {}
    assert trial.run(storm=0, heights=3, patience=60_000)


# What is counted


def test_votes_of_more_than_two_thirds_count():
    made, _ = miner()
    assert cast(made.handle(vote(NAMES[1]))) == []
    assert cast(made.handle(vote(NAMES[2]))) == []  # two of four: a quorum minus one
    assert cast(made.handle(vote(NAMES[2]))) == []  # and the same again
    assert [(each.step, each.block) for each in cast(made.handle(vote(NAMES[3])))] == [("next", NOTHING)]


@pytest.mark.parametrize(
    "wrong",
    [
        vote(NAMES[3], height=2),
        vote(NAMES[3], height=7),
        vote(NAMES[3], period=1),
        vote(NAMES[3], period=5),
        vote(NAMES[3], chain="other"),
        vote(NAMES[3], genesis=bytes(32)),
        vote("stranger"),
        vote(NAMES[3], step="certify", block=BLOCK),
        dataclasses.replace(vote(NAMES[3]), signature=bytes(64)),
        dataclasses.replace(vote(NAMES[1]), voter=KEYS[NAMES[3]]),
        dataclasses.replace(vote(NAMES[3], height=2), height=1),
        dataclasses.replace(vote(NAMES[3], period=1), period=0),
    ],
)
def test_replayed_forged_and_foreign_votes_do_not_count(wrong):
    made, _ = miner()
    for name in NAMES[1:3]:
        made.handle(vote(name))
    assert cast(made.handle(wrong)) == []
    assert cast(made.handle(vote(NAMES[3]))) != []


def test_who_votes_twice_is_named_once_with_evidence_that_the_chain_takes():
    made, _ = miner()
    assert made.handle(vote(NAMES[1])) == []
    offences = [each for each in made.handle(vote(NAMES[1], block=BLOCK)) if isinstance(each, Offence)]
    assert len(offences) == 1
    assert [each for each in made.handle(vote(NAMES[1], block=BLOCK)) if isinstance(each, Offence)] == []
    body = offences[0].body()
    assert body == Offence(offences[0].second, offences[0].first).body()
    draft = made.chain.state.draft()
    draft.apply(Transaction.signed(secret(NAMES[0]), FOUR.hash, 0, "evidence", body))
    made.chain.state.accept(draft)
    assert made.chain.state.offences() == [f"{KEYS[NAMES[1]].hex()}/1/0/soft"]


def test_a_miner_whose_key_signed_elsewhere_votes_no_more():
    made, _ = miner()
    stopped = made.handle(vote(NAMES[0], block=BLOCK))
    assert [type(each) for each in stopped] == [Stopped]
    assert made.stopped
    for name in NAMES[1:]:
        assert cast(made.handle(vote(name))) == []
    assert cast(made.handle(Timeout(1, 0, "soft"))) == []


# Proposals


def proposal(period=0, certificate=None, block=None):
    """Returns who leads a period and its proposal."""
    name = leader(period)
    made = block or KeptReplay(FOUR).propose(secret(name), secret(name + " vrf"), (), period)[0]
    named = vote(name, "soft", made.header.hash, period=period)
    return name, Proposal(made, named, proof(name, period), certificate)


def heard(made, period=0, entry=()):
    """Lets a miner hear everybody's opening; returns what it did."""
    done = []
    for name in NAMES:
        if KEYS[name] != made.key:
            done += made.handle(Opening(KEYS[name], 1, period, proof(name, period), entry))
    return done


def test_the_leader_proposes_and_the_others_vote_for_its_block():
    lead, offered = proposal()
    made, _ = miner(lead)
    actions = heard(made)
    assert [each.block.header.proposer for each in sent(actions, Proposal)] == [KEYS[lead]]
    follower, _ = miner(others(lead)[0])
    assert cast(follower.handle(offered)) == []  # a smaller priority could still come
    assert [each.block for each in cast(heard(follower))] == [offered.vote.block]


def test_a_block_is_voted_for_only_when_all_bytes_are_in_hand():
    lead, offered = proposal()
    here = []
    made, _ = miner(others(lead)[0], in_hand=lambda block: bool(here))
    heard(made)
    assert cast(made.handle(offered)) == []
    here.append(True)
    assert [each.block for each in cast(made.handle(Look()))] == [offered.vote.block]
    here.clear()
    for name in others(lead)[1:]:
        assert cast(made.handle(vote(name, block=offered.vote.block))) == []  # no certify vote without them
    here.append(True)
    assert [each.step for each in cast(made.handle(Look()))] == ["certify"]
    late, _ = miner(others(lead)[0], in_hand=lambda block: False)
    heard(late)
    late.handle(offered)
    assert [each.block for each in cast(late.handle(Timeout(1, 0, "soft")))] == [NOTHING]


def test_wrong_blocks_and_proposers_get_no_vote():
    lead, offered = proposal()
    header = offered.block.header
    other = others(lead)[1]
    altered = dataclasses.replace(offered.block, header=dataclasses.replace(header, state=bytes(32)))
    later = KeptReplay(FOUR).propose(secret(lead), secret(lead + " vrf"), (), 1)[0]
    for block in (altered, later):
        made, _ = miner(others(lead)[0])
        heard(made)
        wrong = Proposal(block, vote(lead, "soft", block.header.hash), offered.proof)
        assert [each.block for each in cast(made.handle(wrong))] == [NOTHING]
    made, _ = miner(others(lead)[0])
    heard(made)
    stolen = Proposal(offered.block, vote(other, "soft", header.hash), proof(other, 0))
    mismatched = Proposal(altered, offered.vote, offered.proof)
    for wrong in (stolen, mismatched):
        assert cast(made.handle(wrong)) == []
    soft, certify = cast(made.handle(offered))  # with the other's vote that is a quorum already
    assert (soft.step, soft.block, certify.step) == ("soft", header.hash, "certify")


def locked(name, block):
    """Returns the storage of a miner that certified a block in period 0."""
    storage = Memory()
    soft = Certificate.of([vote(each, "soft", block.header.hash) for each in NAMES[:3]])
    signs = SignState(storage, FOUR, secret(name), 0)
    signs.vote(1, 0, "certify", block.header.hash, lock=Lock(block, soft))
    return storage, Lock(block, soft)


def nils(name, period=0):
    return tuple(vote(each, "next", NOTHING, period=period) for each in others(name))


@pytest.mark.parametrize("unlocks", [False, True])
def test_a_restarted_miner_keeps_its_lock_until_a_later_one_is_shown(unlocks):
    name = next(each for each in NAMES if each not in (leader(1), leader(2)))
    first = KeptReplay(FOUR).propose(secret(NAMES[0]), secret(NAMES[0] + " vrf"), (), 0)[0]
    storage, _ = locked(name, first)
    made, _ = miner(name, storage=storage)
    heard(made, 1, nils(name))
    assert made.period == 1
    _, other = proposal(1)
    assert [each.block for each in cast(made.handle(other))] == [NOTHING]
    heard(made, 2, nils(name, 1))
    since = [vote(each, "soft", other.vote.block, period=1) for each in others(name)]
    certificate = Certificate.of(since if unlocks else since[:2])
    _, again = proposal(2, certificate, other.block)
    assert [each.block for each in cast(made.handle(again))] == [other.vote.block if unlocks else NOTHING]


def test_openings_bring_lock_and_period_to_others():
    lead = leader(1)
    first = KeptReplay(FOUR).propose(secret(NAMES[0]), secret(NAMES[0] + " vrf"), (), 0)[0]
    _, lock = locked(NAMES[0], first)
    made, _ = miner(lead)
    helper = others(lead)[0]
    short = Opening(KEYS[helper], 1, 1, proof(helper, 1), nils(lead)[:2], lock)
    made.handle(short)
    assert made.period == 0  # two of four have not ended the period
    actions = heard(made, 1, nils(lead))
    assert made.period == 1
    (offered,) = sent(actions, Proposal)
    assert (offered.block, offered.certificate) == (lock.block, lock.certificate)


def test_who_is_behind_is_given_the_final_block_and_checks_it():
    lead, offered = proposal()
    sound = Certificate.of([vote(each, "certify", offered.vote.block) for each in others(lead)])
    few = Certificate.of([vote(each, "certify", offered.vote.block) for each in others(lead)[:2]])
    made, _ = miner(lead)
    assert made.handle(Final(offered.block, few)) == []
    assert [each for each in made.handle(Final(offered.block, sound)) if isinstance(each, Final)]
    (reply,) = made.handle(Opening(KEYS[NAMES[1]], 1, 0, b""))
    assert reply == Send(Final(offered.block, sound), KEYS[NAMES[1]])


def test_alone_a_miner_agrees_with_itself_one_block_at_a_time():
    made, actions = miner(genesis=consortium(1))
    for height in range(1, 4):
        assert made.chain.state.height == height
        (begin,) = [each for each in actions if isinstance(each, Timer) and each.timeout.name == "begin"]
        actions = made.handle(begin.timeout)


def test_nothing_is_done_before_the_start_and_everything_is_sent_again():
    signs = SignState(Memory(), FOUR, secret(NAMES[0]), 0)
    made = Consensus(KeptReplay(FOUR), secret(NAMES[0]), secret(NAMES[0] + " vrf"), signs)
    assert made.handle(vote(NAMES[1])) == []
    (opening,) = sent(made.handle(Start()), Opening)
    (voted,) = cast(made.handle(Timeout(1, 0, "soft")))
    again = made.handle(Timeout(1, 0, "again"))
    assert sent(again, Opening) == [opening]
    assert cast(again) == [voted]
    waits = {each.timeout.name: each.milliseconds for each in again if isinstance(each, Timer)}
    assert waits == {"again": 600}


# What hostile or late messages may not do


def test_messages_of_another_height_or_of_strangers_change_nothing():
    lead, offered = proposal()
    made, _ = miner(others(lead)[0])
    sound = Certificate.of([vote(each, "certify", offered.vote.block) for each in others(lead)])
    assert made.handle(Opening(KEYS[lead], 9, 0, b"")) == []
    assert made.handle(Opening(public_key(secret("stranger")), 1, 0, b"")) == []
    assert made.handle(Opening(KEYS[lead], 1, 0, b"no proof")) == []
    heard(made)
    made.handle(offered)
    assert made.handle(Final(offered.block, sound)) != []
    assert made.handle(Final(offered.block, sound)) == []
    assert made.handle(Timeout(1, 0, "again")) == []
    assert made.height == 2


def test_an_opening_with_votes_of_another_place_or_step_moves_nobody():
    made, _ = miner()
    sound = nils(NAMES[0])
    for wrong in (
        (*sound[:2], sound[1]),
        (*sound[:2], vote("stranger", "next")),
        (*sound[:2], vote(NAMES[3], "soft")),
        (*sound[:2], vote(NAMES[3], "next", period=1)),
        (*sound[:2], dataclasses.replace(sound[2], signature=bytes(64))),
    ):
        made.handle(Opening(KEYS[NAMES[1]], 1, 1, proof(NAMES[1], 1), wrong))
        assert made.period == 0
    made.handle(Opening(KEYS[NAMES[1]], 1, 1, proof(NAMES[1], 1), sound))
    assert made.period == 1
    (reply,) = made.handle(Opening(KEYS[NAMES[2]], 1, 0, proof(NAMES[2], 0)))
    assert (reply.to, reply.message.period, reply.message.entry) == (KEYS[NAMES[2]], 1, sound)


def test_a_lock_that_does_not_prove_itself_is_not_taken_over():
    lead = leader(1)
    first = KeptReplay(FOUR).propose(secret(NAMES[0]), secret(NAMES[0] + " vrf"), (), 0)[0]
    _, lock = locked(NAMES[0], first)
    altered = dataclasses.replace(first, header=dataclasses.replace(first.header, state=bytes(32)))
    unsound = Certificate.of([vote(each, "soft", altered.header.hash) for each in NAMES[:3]])
    few = dataclasses.replace(lock.certificate, votes=lock.certificate.votes[:2])
    made, _ = miner(lead)
    helper = others(lead)[0]
    for wrong in (Lock(altered, lock.certificate), Lock(altered, unsound), Lock(first, few)):
        made.handle(Opening(KEYS[helper], 1, 0, proof(helper, 0), (), wrong))
    (offered,) = sent(heard(made, 1, nils(lead)), Proposal)
    assert offered.certificate is None


def test_a_leader_without_the_bytes_proposes_nothing_and_one_with_them_proposes_again():
    here = []
    lead = leader(0)
    made, _ = miner(lead, in_hand=lambda block: bool(here))
    assert sent(heard(made), Proposal) == []
    here.append(True)
    (offered,) = sent(made.handle(Look()), Proposal)
    assert sent(made.handle(Timeout(1, 0, "again")), Proposal) == [offered]


def test_a_leader_that_hears_of_a_later_lock_leaves_the_period_to_others():
    lead = leader(0)
    first = KeptReplay(FOUR).propose(secret(NAMES[0]), secret(NAMES[0] + " vrf"), (), 0)[0]
    later = Certificate.of([vote(each, "soft", first.header.hash, period=4) for each in NAMES[:3]])
    made, _ = miner(lead)
    helper = others(lead)[0]
    made.handle(Opening(KEYS[helper], 1, 0, proof(helper, 0), (), Lock(first, later)))
    assert sent(heard(made), Proposal) == []


def test_a_vote_that_could_not_be_written_does_not_leave_and_none_follows():
    storage = Memory()
    made, _ = miner(storage=storage)
    storage.fail = "before"
    with pytest.raises(OSError, match="killed"):
        made.handle(Timeout(1, 0, "soft"))
    stopped = made.handle(Look())
    assert [type(each) for each in stopped] == [Stopped]
    assert made.handle(Look()) == []
    again, _ = miner(storage=storage)
    assert cast(again.handle(Timeout(1, 0, "soft"))) == [vote(NAMES[0])]


def test_who_sends_much_too_early_fills_no_memory():
    made, _ = miner()
    for period in range(100):
        made.handle(vote(NAMES[1], height=2, block=bytes([period]) * 32))
    assert len(made._early) == 8 * 4
