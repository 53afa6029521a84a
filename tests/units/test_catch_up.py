"""Snapshots, and catching up from peers that lie, break off, never end or take too long."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner
from consortium import HOMES, MAKER, MINERS, Play, certified, extend, genesis, honest_chain, key, secret

from privet.apps.cli.main import privet
from privet.errors import ContentError, InputError, RefusedError, RunError, UnreachableError
from privet.ledger import catch_up as catching
from privet.ledger import replay, snapshot
from privet.ledger import state as rules
from privet.ledger.catch_up import catch_up, peer_of
from privet.ledger.chain import Chain
from privet.ledger.encoding import encode
from privet.ledger.replay import Replay
from privet.ledger.verification import BASE_FILE, CHAIN_FILE, verify


@pytest.fixture(autouse=True)
def _snapshots_at_every_fourth_height(monkeypatch):
    monkeypatch.setattr(rules, "SNAPSHOTS", 4)


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A chain of height 11 whose snapshots are those of heights 4 and 8."""
    before = rules.SNAPSHOTS
    rules.SNAPSHOTS = 4
    chain = honest_chain(tmp_path_factory.mktemp("far"), rounds=3)
    yield chain
    chain.close()
    rules.SNAPSHOTS = before


def pair(chain, height):
    return peer_of(chain).final(height)


def peer(chain, name="honest", upto=10**9, **changed):
    short = {
        "height": lambda: min(chain.state.height, upto),
        "final": lambda height: pair(chain, height) if height <= upto else None,
    }
    return dataclasses.replace(peer_of(chain, name), **{**short, **changed})


def caught(run, *peers, **options):
    found = catch_up(run, peers, **{"genesis": genesis(), **options})
    found.chain.close()
    return found


def equal(chain, far):
    return (chain.state.entries, chain.state.commitment, chain.head, chain.seed, chain.state.height) == (
        far.state.entries,
        far.state.commitment,
        far.head,
        far.seed,
        far.state.height,
    )


# Snapshots


def test_a_chain_keeps_its_newest_snapshots_and_any_piece_of_them(far):
    assert sorted(path.name for path in far.folder.glob("snapshot-*")) == ["snapshot-4.cbor", "snapshot-8.cbor"]
    whole = snapshot.piece(far.folder, 8, 0, 10**9)
    assert snapshot.piece(far.folder, 8, 10, 20) == whole[10:30]
    assert [snapshot.piece(far.folder, height, at, 20) for height, at in ((12, 0), (-8, 0), (8, -1))] == [b""] * 3
    assert [snapshot.newest(height) for height in (0, 3, 4, 11)] == [0, 0, 4, 8]


def test_older_snapshots_are_dropped(tmp_path):
    chain = honest_chain(tmp_path, rounds=3)
    extend(chain, [])
    assert sorted(path.name for path in chain.folder.glob("snapshot-*")) == ["snapshot-12.cbor", "snapshot-8.cbor"]
    chain.close()


def test_a_replay_that_begins_at_a_snapshot_goes_on_as_one_from_the_genesis(far):
    final = far.final(8)
    whole = snapshot.piece(far.folder, 8, 0, 10**9)
    begun = Replay(genesis())
    snapshot.begin(begun, final.block, final.certificate, whole)
    assert (begun.since, snapshot.pack(begun.state)) == (8, whole)
    for height in range(9, 12):
        block = far.final(height).block
        begun.accept(block, begun.check(block))
    assert equal(begun, far)
    with pytest.raises(InputError, match="can't begin anew"):
        snapshot.begin(begun, final.block, final.certificate, whole)


def test_what_is_no_snapshot_is_refused_and_changes_nothing(far):
    final, whole, fresh = far.final(8), snapshot.piece(far.folder, 8, 0, 10**9), Replay(genesis())
    other = Replay(genesis(h=6))
    for at in range(0, len(whole), 97):
        with pytest.raises(ContentError, match="is not the state"):
            snapshot.begin(fresh, final.block, final.certificate, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for block, certificate, said in (
        (far.final(7).block, far.final(7).certificate, "no snapshot"),
        (final.block, far.final(7).certificate, "another block"),
        (final.block, dataclasses.replace(final.certificate, votes=final.certificate.votes[:2]), "weight 2 of 4"),
    ):
        with pytest.raises(InputError, match=said):
            snapshot.begin(fresh, block, certificate, whole)
    with pytest.raises(InputError, match="of this chain"):
        snapshot.begin(other, final.block, final.certificate, whole)
    assert (fresh.state.height, fresh.since, fresh.head) == (0, 0, genesis().hash)


# Catching up


def test_a_new_miner_begins_with_the_newest_snapshot_and_opens_again(far, tmp_path):
    found = catch_up(tmp_path, [peer(far)], genesis())
    assert equal(found.chain, far)
    assert (found.left, found.chain.since) == ({}, 8)
    play = Play(found.chain.genesis)
    play.state, play.draft = found.chain.state, found.chain.state.draft()
    extend(found.chain, [play.make(MAKER, "pay", to=key(HOMES[0]), amount=1)])  # height 12: its own snapshot
    assert [found.chain.final(height) is None for height in (0, 7, 8, 12, 13)] == [True, True, False, False, True]
    found.chain.close()
    again = Chain(tmp_path)
    assert (again.state.height, again.since) == (12, 8)
    again.close()
    told = verify(tmp_path)
    assert (told.height, told.first_wrong, told.since) == (12, None, 8)
    done = CliRunner().invoke(privet, ["ledger", "verify", str(tmp_path), "--json"])
    assert json.loads(done.output)["since"] == 8
    assert (
        "checked from the snapshot at height 8"
        in CliRunner().invoke(privet, ["ledger", "verify", str(tmp_path)]).output
    )
    shown = CliRunner().invoke(privet, ["ledger", "show", str(tmp_path), "--json"]).output.splitlines()
    assert [json.loads(line)["height"] for line in shown] == [8, 9, 10, 11, 12]


def test_a_miner_that_was_away_takes_blocks_only(far, tmp_path):
    assert caught(tmp_path, peer(far, upto=3, snapshot=lambda height, at: b"")).chain.state.height == 3
    found = caught(tmp_path, peer(far, upto=6), peer(far, "further"))
    assert found.chain.since == 0
    assert equal(found.chain, far)
    assert verify(tmp_path).since == 0


def test_without_a_genesis_it_is_the_one_that_all_peers_give(far, tmp_path):
    assert equal(caught(tmp_path / "a", peer(far), peer(far, "b"), genesis=None).chain, far)
    other = peer(far, "other", genesis=genesis(h=6).encode)
    with pytest.raises(RefusedError, match="honest and other give different ones"):
        caught(tmp_path / "b", peer(far), other, genesis=None)
    silent = peer(far, genesis=lambda: b"x" * (catching.GENESIS_BYTES + 1))
    with pytest.raises(UnreachableError, match="no peer gives a genesis"):
        caught(tmp_path / "b", silent, genesis=None)
    assert not (tmp_path / "b").exists()
    found = caught(tmp_path / "b", silent, peer(far, "b"), genesis=None)
    assert list(found.left) == ["honest"]
    # With a genesis in hand, who follows another is only left.
    assert caught(tmp_path / "c", other, peer(far)).left == {"other": "its genesis is another"}


def fails(error):
    def ask(*_):
        raise error

    return ask


def certified_by_two(far):
    def final(height):
        found = far.final(height)
        votes = found.certificate.votes[:2]
        return found.block.encode(), dataclasses.replace(found.certificate, votes=votes).encode()

    return final


def other_block(far):
    """A block that is right but for its votes: those of strangers."""

    def final(height):
        block = far.final(height).block
        return block.encode(), certified(far, block, ["stranger 1", "stranger 2", "stranger 3"]).encode()

    return final


LIARS = {
    "wrong state": (
        {"snapshot": lambda far: lambda height, at: encode({"balance/x": 1})},
        "is not the state that its header commits to",
    ),
    "truncated state": (
        {"snapshot": lambda far: lambda height, at: snapshot.piece(far.folder, height, at, 100)},
        "is not the state",
    ),
    "endless state": ({"snapshot": lambda far: lambda height, at: bytes(catching.PIECE)}, "more than"),
    "too large a piece": ({"snapshot": lambda far: lambda height, at: bytes(catching.PIECE + 1)}, "is not up to"),
    "no bytes": ({"snapshot": lambda far: lambda height, at: "text"}, "is not up to"),
    "too few votes": ({"final": certified_by_two}, "weight 2 of 4"),
    "votes of strangers": ({"final": other_block}, "is no miner of this chain"),
    "another height": ({"final": lambda far: lambda height: pair(far, 5)}, "asked for block 8, sent block 5"),
    "no block": ({"final": lambda far: lambda height: (b"\xa0", b"\xa0")}, "block 8: block must hold exactly"),
    "an oversize block": ({"final": lambda far: lambda height: (bytes(1 << 24), b"")}, "more than 8388608 bytes"),
    "no pair": ({"final": lambda far: lambda height: b"x"}, "is not a block and a certificate"),
    "no numbers": ({"final": lambda far: lambda height: (1, 2)}, "is not a block and a certificate"),
    "unreachable": ({"final": lambda far: fails(UnreachableError("it went away"))}, "it went away"),
    "broken": ({"final": lambda far: fails(OSError())}, "OSError"),
    "no height": ({"height": lambda far: lambda: "far"}, "its height is no number"),
    "below": ({"height": lambda far: lambda: -1}, "its height is no number"),
    "height beyond all": ({"height": lambda far: lambda: 10**30, "final": lambda far: fails(InputError("no"))}, "no"),
}


@pytest.mark.parametrize("lie", LIARS)
def test_a_lying_peer_is_left_for_the_next_and_named(far, tmp_path, lie, monkeypatch):
    monkeypatch.setattr(catching, "LARGEST", 3 * catching.PIECE)
    calls, said = LIARS[lie]
    liar = peer(far, "liar", **{name: make(far) for name, make in calls.items()})
    found = caught(tmp_path / "new", liar, peer(far))
    assert list(found.left) == ["liar"]
    assert said in found.left["liar"]
    assert equal(found.chain, far)
    with pytest.raises(UnreachableError, match="no peer gave anything that verifies"):
        caught(tmp_path / "alone", liar)
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("lie", ["too few votes", "votes of strangers", "no block", "broken"])
def test_a_peer_that_lies_about_a_later_block_is_left(far, tmp_path, lie):
    calls, _ = LIARS[lie]
    wrong = calls["final"](far)
    liar = peer(far, "liar", final=lambda height: wrong(height) if height == 10 else pair(far, height))
    found = caught(tmp_path, liar, peer(far, upto=10), peer(far, "last"))
    assert list(found.left) == ["liar"]
    assert equal(found.chain, far)


def test_a_peer_that_never_has_more_delays_nobody(far, tmp_path):
    short = peer(far, "short", height=lambda: 10**12, final=lambda height: None)
    found = caught(tmp_path, short, peer(far))
    assert found.left == {}
    assert equal(found.chain, far)


def test_a_slow_peer_is_left(far, tmp_path):
    now = [0.0]

    def slowly(height, at):
        now[0] += 11
        return snapshot.piece(far.folder, height, at, catching.PIECE)

    found = caught(tmp_path, peer(far, "slow", snapshot=slowly), peer(far), clock=lambda: now[0])
    assert found.left == {"slow": "an answer took more than 10 seconds"}
    assert equal(found.chain, far)


def test_without_any_snapshot_it_begins_at_the_genesis(far, tmp_path):
    found = caught(tmp_path, peer(far, snapshot=lambda height, at: b""))
    assert found.chain.since == 0
    assert equal(found.chain, far)


def test_what_miners_certified_and_this_program_refuses_is_nobodys_lie(far, tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "KNOWN", frozenset())
    with pytest.raises(RefusedError, match=r"miners certified block 9, .*rules of version 1.*pip install"):
        caught(tmp_path, peer(far))
    monkeypatch.undo()
    # More than two thirds of the miners, lying together: a second block 10 beside the first.
    monkeypatch.setattr(rules, "SNAPSHOTS", 4)
    forked = Replay(genesis())
    for height in range(1, 10):
        block = far.final(height).block
        forked.accept(block, forked.check(block))
    block, _ = forked.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [])
    other = (block.encode(), certified(forked, block).encode())
    split = peer(far, final=lambda height: other if height == 10 else pair(far, height))
    with pytest.raises(RefusedError, match=r"certified block 11, .*does not follow.*more than a third"):
        caught(tmp_path, split)


def test_a_folder_of_another_chain_is_refused(far, tmp_path):
    Chain.create(tmp_path, genesis(h=6)).close()
    with pytest.raises(RunError, match="another genesis"):
        caught(tmp_path, peer(far))
    final = far.final(8)
    with pytest.raises(RunError, match="holds a chain already"):
        Chain.create_at(tmp_path, genesis(), final.block, final.certificate, snapshot.piece(far.folder, 8, 0, 10**9))


def test_a_folder_that_is_damaged_is_nobodys_lie(far, tmp_path, monkeypatch):
    monkeypatch.setattr(Chain, "create_at", fails(RunError("the disk is full")))
    with pytest.raises(RunError, match="the disk is full"):
        caught(tmp_path, peer(far))


# A chain that began with a snapshot


@pytest.fixture
def begun(far, tmp_path):
    caught(tmp_path, peer(far))
    return tmp_path


def test_a_damaged_base_is_named(begun):
    path = begun / "ledger" / BASE_FILE
    whole = path.read_bytes()
    for at in range(0, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = verify(begun)
        assert (found.height, found.first_wrong.height, found.first_wrong.file) == (0, 8, BASE_FILE)
    path.unlink()
    assert verify(begun).first_wrong.reason == "block 1 is missing"


def test_blocks_after_a_base_are_checked(begun):
    import sqlite3

    (begun / "ledger" / "chain.sqlite").with_suffix(".sha256").unlink()
    for statement, height in (
        ("UPDATE blocks SET certificate = x'a0' WHERE height = 9", 9),
        ("UPDATE blocks SET certificate = x'a0' WHERE height = 8", 8),
        ("DELETE FROM transactions WHERE height = 8", 8),
        ("DELETE FROM blocks WHERE height = 8", 9),
        ("DELETE FROM blocks WHERE height > 0", 0),
    ):
        file = sqlite3.connect(begun / "ledger" / CHAIN_FILE)
        file.execute(statement)
        file.commit()
        file.close()
        (begun / "ledger" / "chain.sha256").unlink(missing_ok=True)
        found = verify(begun)
        assert (found.first_wrong.height, found.first_wrong.file) == (height, CHAIN_FILE), statement
