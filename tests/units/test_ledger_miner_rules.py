"""What names a miner for good, and what miners say about themselves: falsehoods, epoch keys, upgrades."""

from __future__ import annotations

import dataclasses

import pytest
from consortium import HOMES, MAKER, MINERS, Play, certified, genesis, key, secret

from privet.errors import RefusedError
from privet.ledger import replay
from privet.ledger.miner_rules import NOTICE
from privet.ledger.replay import Replay
from privet.ledger.transactions import MAX_BYTES, MAX_REFUTE, Transaction

LIAR = MINERS[3]


@pytest.fixture
def play():
    made = Play()
    made.begin()
    made.post(1)
    made.judge(1, {HOMES[0]: 10_000})
    return made


def said(play, kind, name=LIAR, nonce=77, **body):
    return Transaction.signed(secret(name), play.chain, nonce, kind, {"task": 1, "round": 1, **body})


def refuse(play, claim):
    return play.refused(HOMES[0], "refute", transaction=claim if isinstance(claim, bytes) else claim.encode())


# Falsehoods


def test_a_false_verdict_and_a_false_model_name_their_miner_once(play):
    verdict = said(play, "verdict", scores=play.scores({HOMES[0]: 9_999}))
    model = said(play, "model", **{**play.model(1), "digest": b"x" * 32})
    play.send(HOMES[1], "refute", transaction=verdict.encode())
    play.send("stranger", "refute", transaction=model.encode())
    assert "recorded already" in refuse(play, verdict)
    again = said(play, "verdict", nonce=78, scores=play.scores({}))
    assert "recorded already" in refuse(play, again)
    play.block()
    where = f"{key(LIAR).hex()}/1/1/"
    assert play.state.falsehoods() == [where + "model", where + "verdict"]
    assert play.state.entries["falsehood/" + where + "verdict"] == verdict.id
    assert Play().state.falsehoods() == []


def test_what_is_not_false_is_refused_with_a_reason(play):
    honest = said(play, "verdict", scores=play.scores({HOMES[0]: 10_000}))
    assert "says the same" in refuse(play, honest)
    other_seal = {**play.model(1), "cid": play.model(2)["cid"]}
    assert "says the same" in refuse(play, said(play, "model", **other_seal))
    assert "no verdict yet" in refuse(play, said(play, "verdict", round=2, scores=play.scores({})))
    assert "no model yet" in refuse(play, said(play, "model", task=2, **play.model(1)))
    false = said(play, "verdict", scores=play.scores({}))
    assert "of a stranger" in refuse(play, said(play, "verdict", name=HOMES[0], scores=play.scores({})))
    forged = dataclasses.replace(false, signature=bytes(64), nonce=79)
    assert "not its sender's" in refuse(
        play, Transaction(**{f.name: getattr(forged, f.name) for f in dataclasses.fields(forged)})
    )
    other = Play(genesis(h=6))
    assert "another chain" in refuse(play, said(other, "verdict", scores=play.scores({})))
    assert "can't be refuted" in refuse(play, play.make(MAKER, "pay", to=key(LIAR), amount=1))
    assert "transaction must hold" in refuse(play, b"\xa0")
    play.block()
    assert play.state.falsehoods() == []


def test_a_verdict_from_before_the_last_update_came_is_nobodys_lie(play):
    early = said(play, "verdict", scores=play.scores({}, HOMES[:4]))  # homes post in this order
    assert "older than the last" in refuse(play, early)
    assert "older than the last" in refuse(play, said(play, "verdict", scores=[]))
    # Whoever leaves out one that came before others, or adds one that never came, did not see any round of this task.
    dropped = said(play, "verdict", scores=play.scores({}, HOMES[1:]))
    play.send(HOMES[0], "refute", transaction=dropped.encode())
    added = said(play, "verdict", MINERS[2], scores=play.scores({}, [*HOMES, "home 9"]))
    play.send(HOMES[0], "refute", transaction=added.encode())
    play.block()
    assert len(play.state.falsehoods()) == 2


def test_no_lie_is_too_long_to_be_shown(play):
    rows = [[bytes(27) + at.to_bytes(5, "big"), b"\x01" * 32] for at in range(3_796)]
    long = said(play, "verdict", scores=rows)
    assert MAX_BYTES - 100 < len(long.encode()) <= MAX_BYTES
    sent = play.send(HOMES[0], "refute", transaction=long.encode())
    assert MAX_BYTES < len(sent.encode()) <= MAX_REFUTE


# Keys of an epoch


def test_epoch_keys_follow_each_other(play):
    first, second = b"\x09" + bytes(31), b"\x0a" + bytes(31)
    assert "no miner" in play.refused(HOMES[0], "epoch", number=1, key=first)
    assert "does not follow; allowed: 1" in play.refused(LIAR, "epoch", number=2, key=first)
    play.send(LIAR, "epoch", number=1, key=first)
    assert "allowed: 2" in play.refused(LIAR, "epoch", number=1, key=second)
    play.send(MINERS[0], "epoch", number=1, key=first)
    play.send(LIAR, "epoch", number=2, key=second)
    play.block()
    assert play.state.epochs() == {key(LIAR): (2, second), key(MINERS[0]): (1, first)}


LOW = [  # the u-coordinates of low order, and how else the same ones can be written
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    2**255 - 20,
    2**255 - 19,
    2**255 - 18,
]


@pytest.mark.parametrize("number", LOW + [each + 2**255 for each in LOW])
def test_epoch_keys_of_low_order_are_refused(number):
    play = Play()
    assert "low order" in play.refused(LIAR, "epoch", number=1, key=number.to_bytes(32, "little"))


# Upgrades


def ask(play, names, version=2, height=40):
    for name in names:
        play.send(name, "upgrade", version=version, height=height)
    play.block()


def test_an_upgrade_needs_more_than_two_thirds_asking_the_same():
    play = Play()
    ask(play, MINERS[:2])
    ask(play, MINERS[2:3], height=41)
    ask(play, MINERS[3:], version=3)
    assert [play.state.version(height) for height in (1, 39, 40, 99)] == [1] * 4
    ask(play, MINERS[2:3])
    assert [play.state.version(height) for height in (1, 39, 40, 99)] == [1, 1, 2, 2]
    ask(play, MINERS[1:], version=3, height=50)
    assert [play.state.version(height) for height in (39, 40, 49, 50)] == [1, 2, 2, 3]


def test_what_is_no_upgrade_is_refused():
    play = Play()
    assert "no miner" in play.refused(HOMES[0], "upgrade", version=2, height=40)
    assert f"allowed: {NOTICE + 1} or higher" in play.refused(LIAR, "upgrade", version=2, height=NOTICE)
    play.send(LIAR, "upgrade", version=2, height=40)
    assert "already" in play.refused(LIAR, "upgrade", version=2, height=40)
    play.block()
    ask(play, MINERS[:2])
    assert "is decided" in play.refused(MINERS[2], "upgrade", version=2, height=50)
    assert "is decided" in play.refused(MINERS[2], "upgrade", version=3, height=40)
    assert "is decided" in play.refused(MINERS[2], "upgrade", version=3, height=30)


def test_from_the_height_of_an_upgrade_an_old_program_says_what_to_install(monkeypatch):
    chain, play = Replay(genesis()), Play()

    def step(*sent):
        block, refused = chain.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), sent)
        assert not refused
        chain.check_certificate(block.header, certified(chain, block))
        chain.accept(block, chain.check(block))

    step(*(play.make(name, "upgrade", version=2, height=NOTICE + 1) for name in MINERS[:3]))
    for _ in range(NOTICE - 1):
        step()
    assert chain.state.height == NOTICE
    said = f"block {NOTICE + 1} follows the rules of version 2; this program knows version 1; install a privet"
    monkeypatch.setattr(replay, "KNOWN", frozenset({1, 2}))
    block, _ = chain.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [])
    chain.check(block)
    monkeypatch.setattr(replay, "KNOWN", frozenset({1}))
    with pytest.raises(RefusedError, match=said):
        chain.check(block)
    with pytest.raises(RefusedError, match=said):
        chain.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [])
