"""The state machine: the document's traces, a reason for every refusal, conservation of tokens."""

from __future__ import annotations

import dataclasses

import pytest
from consortium import HOMES, MAKER, MINERS, TASK, Play, cid, genesis, key, secret
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import InputError, RefusedError
from privet.ledger.encoding import encode
from privet.ledger.reputation import UNSOUND, Evaluation, evaluate, next_reputation
from privet.ledger.state import SNAPSHOTS, State
from privet.ledger.transactions import MAX_BYTES, MAX_REFUTE, Transaction, admit, binding
from privet.ledger.votes import Vote

HOME = HOMES[2]


@pytest.fixture
def play():
    made = Play()
    made.begin()
    return made


def trace(bad_rounds, rounds, start=5):
    gamma, seen, earned = start, [], []
    for number in range(1, rounds + 1):
        seen.append(gamma)
        earned.append(0 if number in bad_rounds else gamma)
        gamma = next_reputation(gamma, number not in bad_rounds, 5, 100)
    return seen, earned


@pytest.mark.parametrize(
    ("bad", "reputations", "rewards"),
    [
        ((), [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]),
        ((1,), [5, 0, 1, 2], [0, 0, 1, 2]),
        ((4,), [5, 6, 7, 8, 7, 8], [5, 6, 7, 0, 7, 8]),
    ],
    ids=["honest", "malicious at 1", "malicious at 4"],
)
def test_traces_of_figures_11_and_12(bad, reputations, rewards):
    assert trace(bad, len(reputations)) == (reputations, rewards)


def test_known_weakness_attacking_every_second_round_from_six_goes_unpunished():
    assert trace(range(1, 21, 2), 20, start=6)[0] == [6, 5] * 10


def test_the_chain_gives_the_same_traces():
    for bad, expected in ((0, [5, 6, 7, 8]), (1, [5, 0, 1, 2]), (3, [5, 6, 7, 6])):
        play = Play()
        play.begin()
        seen = [play.state.reputation(key(HOME))]
        for number in (1, 2, 3):
            play.round(number, {HOME: 10_000 if number == bad else 100})
            seen.append(play.state.reputation(key(HOME)))
        assert seen == expected
        assert play.state.task(1)["phase"] == "done"


@given(st.integers(0, 100), st.booleans(), st.integers(0, 100), st.integers(1, 100))
def test_reputation_stays_in_range_and_moves_by_one_or_falls_to_zero(gamma, high, h, gamma_max):
    gamma, h = min(gamma, gamma_max), min(h, gamma_max)
    after = next_reputation(gamma, high, h, gamma_max)
    assert 0 <= after <= gamma_max
    assert after >= gamma if high else after <= gamma
    assert abs(after - gamma) <= 1 or (after == 0 and gamma == h and not high)


def test_honest_fleets_lose_no_reputation_though_krum_always_leaves_f_out():
    assert evaluate([10, 11, 12, 13, 14], "multi-krum", 1, 3) == [Evaluation(True, True)] * 4 + [
        Evaluation(False, True)
    ]
    assert not evaluate([10, 11, 12, 13, 37], "multi-krum", 1, 3)[4].high
    assert evaluate([10, 11, 12, 13, 36], "multi-krum", 1, 3)[4].high  # exactly three medians


def test_a_high_score_that_is_not_left_out_is_not_held_against_its_sender():
    judged = evaluate([1, 1, 1, 1, 50, 60, 70], "multi-krum", 2, 3)
    assert [one.selected for one in judged] == [True] * 5 + [False] * 2
    assert [one.high for one in judged] == [True] * 5 + [False] * 2


def test_equal_scores_leave_out_the_last_and_an_even_count_has_the_mean_as_median():
    assert [one.selected for one in evaluate([7] * 5, "multi-krum", 1, 3)] == [True] * 4 + [False]
    assert [one.high for one in evaluate([0] * 5, "multi-krum", 1, 3)] == [True] * 5
    # Median 1.5: 4.5 is three medians, 5 is above.
    assert evaluate([1, 1, 1, 2, 2, 4], "multi-krum", 1, 3)[5].high
    assert not evaluate([1, 1, 1, 2, 2, 5], "multi-krum", 1, 3)[5].high


def test_unsound_updates_are_left_out_and_low_and_the_others_evaluated_among_themselves():
    out = Evaluation(False, False)
    judged = evaluate([10, UNSOUND, 11, 12, 13, 37], "multi-krum", 1, 3)
    assert judged == [Evaluation(True, True), out, *[Evaluation(True, True)] * 3, out]
    assert evaluate([0, UNSOUND, 0], "mean", 1, 3) == [Evaluation(True, True), out, Evaluation(True, True)]
    # Too few are left: nobody is selected, and nobody else loses.
    assert evaluate([0, 0, 0, 0, UNSOUND], "multi-krum", 1, 3) == [Evaluation(False, True)] * 4 + [out]
    assert evaluate([UNSOUND], "mean", 1, 3) == [out]
    with pytest.raises(RefusedError, match="5 or more"):
        evaluate([UNSOUND] * 4, "multi-krum", 1, 3)


def test_a_verdict_may_say_that_an_update_is_unsound(play):
    play.round(1, {HOME: UNSOUND})
    row = next(row for row in play.state.entries["judged/1/1"] if row[0] == key(HOME))
    assert row[2:] == [False, False]
    assert [play.state.reputation(key(name)) for name in HOMES] == [0 if name == HOME else 6 for name in HOMES]


def test_under_the_mean_a_score_may_say_so_too():
    play = Play()
    play.begin(homes=HOMES[:2], rule="mean", rounds=1)
    play.round(1, {HOMES[0]: UNSOUND, HOMES[1]: 0}, HOMES[:2])
    assert play.state.task(1)["phase"] == "done"
    assert [play.state.reputation(key(name)) for name in HOMES[:2]] == [0, 6]


def test_too_few_updates_for_krum_and_f_zero():
    with pytest.raises(RefusedError, match="5 or more"):
        evaluate([1] * 4, "multi-krum", 1, 3)
    assert [one.selected for one in evaluate([1, 9, 1], "multi-krum", 0, 3)] == [True] * 3
    assert evaluate([0], "mean", 3, 3) == [Evaluation(True, True)]


# Transactions


def test_replay_nonce_gap_and_stale_nonce(play):
    sent = play.send(HOME, "update", **play.update(HOME, 1))
    before = play.draft.commitment()
    with pytest.raises(RefusedError, match="a replay"):
        play.draft.apply(sent)
    assert play.draft.commitment() == before
    play.block()
    with pytest.raises(RefusedError, match="a replay"):
        play.draft.apply(sent)
    assert "a gap" in play.refused(HOME, "pay", nonce=5, to=key(MAKER), amount=1)


def test_a_transaction_of_another_chain(play):
    other = Play(genesis(h=6))
    made = other.make(MAKER, "task", **TASK)
    with pytest.raises(RefusedError, match="another chain"):
        play.draft.apply(made)


def test_forged_and_changed_signatures(play):
    made = play.make(HOME, "update", **play.update(HOME, 1))
    for changed in (
        dataclasses.replace(made, sender=key(MAKER), nonce=1),
        dataclasses.replace(made, body={**made.body, "size": 101}),
        dataclasses.replace(made, signature=bytes(64)),
    ):
        with pytest.raises(RefusedError, match="the signature is not the sender's"):
            play.draft.apply(changed)


def test_a_malleable_signature_is_refused(play):
    made = play.make(HOME, "update", **play.update(HOME, 1))
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(made.signature[32:], "little") + order
    changed = dataclasses.replace(made, signature=made.signature[:32] + scalar.to_bytes(32, "little"))
    with pytest.raises(RefusedError, match="the signature is not the sender's"):
        play.draft.apply(changed)


def test_a_stolen_content_address(play):
    play.send(HOME, "update", **play.update(HOME, 1))
    body = play.update(HOMES[0], 1)
    assert "used before" in play.refused(HOMES[0], "update", **{**body, "cid": play.update(HOME, 1)["cid"]})
    assert "used before" in play.refused(HOMES[0], "update", **{**body, "cid": TASK["model"]})
    chain = play.chain
    assert binding(chain, 1, 1, key(HOME), b"x") != binding(chain, 1, 1, key(HOMES[0]), b"x")
    assert binding(chain, 1, 1, key(HOME), b"x") != binding(chain, 1, 2, key(HOME), b"x")


def test_late_oversize_wrong_round_twice_and_strangers(play):
    body = play.update(HOME, 1)
    assert "oversize" in play.refused(HOME, "update", **{**body, "size": 1001})
    assert "wrong round" in play.refused(HOME, "update", **{**body, "round": 2})
    assert "no task 2" in play.refused(HOME, "update", **{**body, "task": 2})
    assert "not enrolled" in play.refused("stranger", "update", **body)
    play.send(HOME, "update", **body)
    assert "already" in play.refused(HOME, "update", **{**body, "cid": cid("another")})
    play.block(3)
    assert "late" in play.refused(HOMES[0], "update", **play.update(HOMES[0], 1))


def test_the_last_height_of_the_window_counts(play):
    play.block(2)
    assert play.draft.height == play.state.task(1)["opened"] + TASK["window"]
    play.send(HOME, "update", **play.update(HOME, 1))


def test_queries(play):
    play.send(HOMES[1], "update", **play.update(HOMES[1], 1))
    play.send(HOMES[0], "update", **play.update(HOMES[0], 1))
    play.block()
    assert [each["customer"] for each in play.state.updates(1)] == [key(HOMES[0]), key(HOMES[1])]
    assert play.state.nonce(key(HOMES[0])) == 2
    assert play.state.nonce(key("nobody")) == 0


def test_a_draft_counts_once_and_only_for_its_state(play):
    draft, other = play.state.draft(), Play().state.draft()
    play.state.accept(draft)
    for wrong in (draft, other):
        with pytest.raises(InputError, match="another state or height"):
            play.state.accept(wrong)


def test_a_model_may_be_one_that_was_named_before(play):
    play.post(1)
    play.send(MINERS[0], "verdict", task=1, round=1, scores=play.scores({}))
    play.send(MINERS[0], "model", task=1, round=1, **{**play.model(1), "cid": TASK["model"]})
    play.block()
    assert play.state.entries[f"cid/{TASK['model'].hex()}"] == key(MAKER)


def test_an_update_after_the_verdict_is_late(play):
    play.post(1)
    play.send(MINERS[0], "verdict", task=1, round=1, scores=play.scores({}))
    assert "late" in play.refused(HOME, "update", **{**play.update(HOME, 1), "cid": cid("again")})


def test_enrolment(play):
    admission = admit(secret(MAKER), play.chain, 1, key("new"))
    assert "enrolled already" in play.refused(HOME, "enrol", task=1, admission=bytes(64))
    assert "places" in play.refused("new", "enrol", task=1, admission=admission)
    play.send(MAKER, "task", **{**TASK, "model": cid("second")})
    assert "admission" in play.refused("new", "enrol", task=2, admission=admission)
    assert "admission" in play.refused("new", "enrol", task=2, admission=admit(secret(HOME), play.chain, 2, key("new")))
    play.enrol("new", task=2)
    assert play.draft.changes[f"reputation/{key('new').hex()}"] == 5


def test_a_new_enrolment_keeps_the_reputation(play):
    play.round(1, {HOME: 10_000})
    play.send(MAKER, "task", **{**TASK, "model": cid("second")})
    play.enrol(HOME, task=2)
    play.block()
    assert play.state.reputation(key(HOME)) == 0
    assert play.state.reputation(key("nobody")) is None


def test_tasks_need_a_manufacturer_its_tokens_and_enough_places(play):
    assert "only a manufacturer" in play.refused(HOME, "task", **TASK)
    assert "5 or more" in play.refused(MAKER, "task", **{**TASK, "places": 4})
    assert "tokens" in play.refused(MAKER, "task", **{**TASK, "rounds": 10_000})
    assert play.state.balance(key(MAKER)) == 1_000_000 - 3 * 5 * 100


def test_verdicts(play):
    for name in HOMES[:4]:
        play.send(name, "update", **play.update(name, 1))
    early = {"task": 1, "round": 1, "scores": play.scores({}, HOMES[:4])}
    assert "takes updates up to" in play.refused(MINERS[0], "verdict", **early)
    play.send(HOMES[4], "update", **play.update(HOMES[4], 1))
    good = {"task": 1, "round": 1, "scores": play.scores({})}
    assert "no miner" in play.refused(HOME, "verdict", **good)
    assert "exactly the updates" in play.refused(MINERS[0], "verdict", **{**good, "scores": good["scores"][1:]})
    padded = [[who, b"\x00" + score] for who, score in good["scores"]]
    assert "leading zero" in play.refused(MINERS[0], "verdict", **{**good, "scores": padded})
    assert "wrong round" in play.refused(MINERS[0], "verdict", **{**good, "round": 2})
    assert "while it is judged" in play.refused(MINERS[0], "model", task=1, round=1, **play.model(1))
    with pytest.raises(RefusedError, match="no verdict"):
        play.state.settlement(1)
    play.send(MINERS[0], "verdict", **good)
    assert "while it is open" in play.refused(MINERS[1], "verdict", **good)


def test_too_few_updates_make_a_round_void_and_nobody_loses(play):
    for name in HOMES[:4]:
        play.send(name, "update", **play.update(name, 1))
    assert "only when its time is over" in play.refused(MINERS[0], "void", task=1, round=1)
    play.block(3)
    scores = play.scores({}, HOMES[:4])
    assert "5 or more" in play.refused(MINERS[0], "verdict", task=1, round=1, scores=scores)
    play.send(MINERS[0], "void", task=1, round=1)
    play.block()
    assert play.state.task(1)["round"] == 2
    assert [play.state.reputation(key(name)) for name in HOMES] == [5] * 5
    play.post(2)
    play.block(3)
    assert "fewer than 5" in play.refused(MINERS[0], "void", task=1, round=2)


def test_the_mean_needs_scores_of_zero_and_one_update():
    play = Play()
    play.begin(homes=HOMES[:1], rule="mean", rounds=1)
    play.post(1, HOMES[:1])
    wrong = play.scores({}, HOMES[:1])
    assert "under the mean" in play.refused(MINERS[0], "verdict", task=1, round=1, scores=wrong)
    play.judge(1, dict.fromkeys(HOMES, 0), HOMES[:1])
    assert play.state.task(1)["phase"] == "done"
    assert "is done" in play.refused(HOMES[0], "update", **play.update(HOMES[0], 2))


# Economy


def test_reward_inflation_and_wrong_reputations(play):
    play.post(1)
    play.send(MINERS[0], "verdict", task=1, round=1, scores=play.scores({HOME: 10_000}))
    play.block()
    honest = play.state.settlement(1)
    assert "while it is aggregated" in play.refused(MINERS[0], "settle", **honest)
    play.send(MINERS[0], "model", task=1, round=1, **play.model(1))
    more = [[who, amount + 1] for who, amount in honest["rewards"]]
    assert "rewards are not those" in play.refused(MINERS[0], "settle", **{**honest, "rewards": more})
    raised = [[who, before, 100] for who, before, _ in honest["reputations"]]
    assert "reputations are not those" in play.refused(MINERS[0], "settle", **{**honest, "reputations": raised})
    assert "rewards are not those" in play.refused(MINERS[0], "settle", **{**honest, "rewards": honest["rewards"][1:]})
    play.send(MINERS[0], "settle", **honest)
    assert "wrong round" in play.refused(MINERS[0], "settle", **honest)


def test_rewards_are_claimed_once_and_by_their_owner(play):
    play.round(1, {HOME: 10_000})
    assert "has no reward" in play.refused(HOME, "claim", task=1, round=1)
    assert "has no reward" in play.refused("stranger", "claim", task=1, round=1)
    assert "has no reward" in play.refused(HOMES[0], "claim", task=1, round=2)
    play.send(HOMES[0], "claim", task=1, round=1)
    assert "claimed already" in play.refused(HOMES[0], "claim", task=1, round=1)
    play.block()
    assert "claimed already" in play.refused(HOMES[0], "claim", task=1, round=1)
    assert play.state.balance(key(HOMES[0])) == 5
    assert "holds 5 tokens, 6 are needed" in play.refused(HOMES[0], "pay", to=key(MAKER), amount=6)
    play.send(HOMES[0], "pay", to=key(MAKER), amount=5)
    play.block()
    assert play.state.balance(key(HOMES[0])) == 0
    assert play.state.tokens() == 1_000_000


def test_what_a_task_did_not_cost_goes_back_and_rewards_stay_claimable(play):
    for number in (1, 2, 3):
        play.round(number, {})
    assert play.state.task(1)["escrow"] == 5 * (5 + 6 + 7)
    assert play.state.balance(key(MAKER)) == 1_000_000 - 5 * (5 + 6 + 7)
    play.send(HOME, "claim", task=1, round=2)
    play.block()
    assert play.state.balance(key(HOME)) == 6


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 3000)), max_size=40))
def test_tokens_are_conserved_whatever_is_tried(steps):
    play = Play(genesis(tokens=6000))
    play.begin()
    kinds = ("task", "update", "verdict", "model", "settle", "void", "claim", "pay", "block", "round")
    for kind_at, who, amount in steps:
        kind, name = kinds[kind_at], [*HOMES, MAKER, MINERS[0]][who]
        number = play.state.task(1)["round"]
        done = play.state.task(1)["phase"] == "done"
        bodies = {
            "task": {**TASK, "places": 5 + amount % 3, "rounds": 1 + amount % 5},
            "update": play.update(name, number),
            "verdict": {"task": 1, "round": number, "scores": play.scores({HOME: amount})},
            "model": {"task": 1, "round": number, **play.model(number)},
            "void": {"task": 1, "round": number},
            "claim": {"task": 1, "round": 1 + amount % 3},
            "pay": {"to": key(HOMES[amount % 5]), "amount": amount + 1},
        }
        try:
            if kind == "block":
                play.block()
            elif kind == "round" and not done:
                play.block()
                play.round(number, {HOME: amount})
            elif kind == "settle":
                play.send(name, kind, **play.state.settlement(1))
            elif kind != "round":
                play.send(name, kind, **bodies[kind])
        except RefusedError:
            continue
    play.block()
    assert play.state.tokens() == 6000
    for entry, value in play.state.entries.items():
        if entry.startswith("balance/"):
            assert value >= 0
        if entry.startswith("reputation/"):
            assert 0 <= value <= 100


# Evidence


def test_evidence_of_equivocation_names_the_miner_once(play):
    def vote(block, name=MINERS[3], chain="tests", step="soft"):
        return Vote.signed(secret(name), chain, play.chain, 7, 0, step, block).encode()

    first, second = vote(b"a" * 32), vote(b"b" * 32)
    assert "contradict" in play.refused(HOME, "evidence", first=first, second=first)
    assert "contradict" in play.refused(HOME, "evidence", first=first, second=vote(b"b" * 32, step="certify"))
    assert "another chain" in play.refused(HOME, "evidence", first=vote(b"a" * 32, chain="x"), second=second)
    strange = [vote(block * 32, name="stranger") for block in (b"a", b"b")]
    assert "stranger" in play.refused(HOME, "evidence", first=strange[0], second=strange[1])
    forged = second[:-1] + bytes([second[-1] ^ 1])
    assert play.refused(HOME, "evidence", first=first, second=forged)
    assert "vote" in play.refused(HOME, "evidence", first=first, second=b"\xa0")
    play.send(HOME, "evidence", first=first, second=second)
    assert "recorded already" in play.refused(MAKER, "evidence", first=second, second=first)
    play.block()
    assert play.state.offences() == [f"{key(MINERS[3]).hex()}/7/0/soft"]


# Shape


def test_bodies_are_checked_when_they_are_read():
    play = Play()
    with pytest.raises(InputError, match="task must hold exactly"):
        play.make(MAKER, "task", rounds=1)
    with pytest.raises(InputError, match="rounds is of the wrong type"):
        play.make(MAKER, "task", **{**TASK, "rounds": True})
    with pytest.raises(InputError, match="no transaction of kind 'gift'"):
        play.make(MAKER, "gift")
    with pytest.raises(InputError, match="float can't be encoded"):
        play.make(MAKER, "pay", to=key(HOME), amount=1.5)
    with pytest.raises(InputError, match="scores is of the wrong type"):
        play.make(MAKER, "verdict", task=1, round=1, scores=[[key(HOME), b""], [key(HOME), b""]])
    with pytest.raises(InputError, match="scores is of the wrong type"):
        play.make(MAKER, "verdict", task=1, round=1, scores=7)
    with pytest.raises(InputError, match="oversize"):
        Transaction.decode(bytes(MAX_REFUTE + 1))
    large = dict.fromkeys(("chain", "sender"), bytes(32)) | {"nonce": 0, "kind": "pay", "signature": bytes(64)}
    with pytest.raises(InputError, match="oversize"):
        Transaction.decode(encode({**large, "body": {"to": bytes(MAX_BYTES)}}))


def test_a_transaction_keeps_its_bytes():
    made = Play().make(MAKER, "task", **TASK)
    assert Transaction.decode(made.encode()) == made
    assert len(made.id) == 32


# Determinism


def test_two_machines_agree_and_an_order_that_differs_is_noticed():
    states = []
    for _ in range(2):
        play = Play()
        play.begin()
        play.round(1, {HOME: 10_000})
        states.append(play.state)
    assert states[0].commitment == states[1].commitment
    assert states[0].entries == states[1].entries
    other = Play()
    other.begin(homes=HOMES[::-1])
    assert other.state.commitment == Play_after(HOMES).commitment  # the same entries, whatever the order


def Play_after(homes):  # noqa: N802
    play = Play()
    play.begin(homes=homes)
    return play.state


def test_a_snapshot_commits_to_every_entry():
    state = State(genesis())
    for _ in range(SNAPSHOTS):
        state.accept(state.draft())
    fresh = State(genesis())
    assert state.commitment == fresh.commitment  # the same entries as at the genesis, and nothing else


def test_a_commitment_covers_what_went_before():
    quiet, paid = Play(), Play()
    paid.send(MAKER, "pay", to=key(HOME), amount=1)
    for play in (quiet, paid):
        play.block(2)
    assert quiet.state.commitment != paid.state.commitment
