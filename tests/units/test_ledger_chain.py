"""The chain on disk: what is appended replays, every byte class flipped is named, nothing wrong is appended."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from consortium import HOMES, MAKER, MINERS, TASK, Play, certified, extend, genesis, honest_chain, key, secret

from privet.apps.cli.main import privet
from privet.errors import InputError, PrivetError, RefusedError, RunError
from privet.ledger.blocks import Block, Header
from privet.ledger.chain import Chain
from privet.ledger.folder_store import FolderStore
from privet.ledger.merkle import root
from privet.ledger.replay import Replay
from privet.ledger.show import blocks
from privet.ledger.sortition import rank, vrf_message
from privet.ledger.store import Store
from privet.ledger.verification import CHAIN_FILE, GENESIS_FILE, find, verify
from privet.ledger.votes import Certificate


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    chain = honest_chain(run)
    chain.close()
    return run


@pytest.fixture
def run(built, tmp_path):
    shutil.copytree(built, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def fresh(tmp_path):
    chain = Chain.create(tmp_path / "run", genesis())
    yield chain
    chain.close()


def change(run, statement, *values):
    file = sqlite3.connect(run / "ledger" / CHAIN_FILE)
    file.execute("PRAGMA synchronous=OFF")
    file.execute(statement, values)
    file.commit()
    file.close()
    # So that the rows themselves give it away.
    (run / "ledger" / "chain.sha256").unlink(missing_ok=True)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_an_honest_chain_verifies(built):
    found = verify(built)
    assert (found.height, found.transactions, found.first_wrong) == (5, 6 + 5 + 2 + 1 + 1, None)
    assert verify(built / "ledger") == found


def test_a_reopened_chain_goes_on(run):
    chain = Chain(run)
    assert chain.state.height == 5
    assert chain.state.reputation(key(HOMES[0])) == 0
    play = Play(chain.genesis)
    play.state, play.draft = chain.state, chain.state.draft()
    paid = play.make(HOMES[1], "pay", to=key(MAKER), amount=2)
    extend(chain, [paid])
    assert chain.find(paid.id) == (6, 0)
    assert chain.find(bytes(32)) is None
    chain.close()
    assert verify(run).height == 6


def test_all_but_the_last_blocks_replay_alike(built):
    store = Store(built / "ledger" / CHAIN_FILE)
    replay = Replay(genesis())
    for height in range(1, 6):
        block = Block.decode(store.block(height)[0])
        replay.accept(block, replay.check(block))
    store.close()
    assert replay.state.height == 5
    assert replay.state.tokens() == 1_000_000


# Every byte


def test_every_flipped_byte_of_a_block_or_certificate_is_noticed(built):
    store = Store(built / "ledger" / CHAIN_FILE)
    replay = Replay(genesis())
    for height in range(1, 6):
        encoded, certified = store.block(height)
        for data, other in ((encoded, certified), (certified, encoded)):
            for at in range(0, len(data), 1 if height == 4 else 11):
                pair = (flipped(data, at), other) if data is encoded else (other, flipped(data, at))
                with pytest.raises(PrivetError):
                    follow(replay, *pair)
        block, draft = follow(replay, encoded, certified)
        replay.accept(block, draft)
    store.close()


def follow(replay, encoded, certified):
    block = Block.decode(encoded)
    replay.check_certificate(block.header, Certificate.decode(certified))
    return block, replay.check(block)


def test_flipped_bytes_of_a_block_are_named(run):
    store = Store(run / "ledger" / CHAIN_FILE)
    block = store.block(4)[0]
    store.close()
    for at in range(0, len(block), 29):
        change(run, "UPDATE blocks SET block = ? WHERE height = 4", flipped(block, at))
        found = verify(run)
        assert found.first_wrong is not None, at
        assert (found.first_wrong.height, found.first_wrong.file) == (4, CHAIN_FILE)
        assert found.height == 3


def test_flipped_bytes_of_a_certificate_are_named(run):
    store = Store(run / "ledger" / CHAIN_FILE)
    certificate = store.block(2)[1]
    store.close()
    for at in range(0, len(certificate), 29):
        change(run, "UPDATE blocks SET certificate = ? WHERE height = 2", flipped(certificate, at))
        found = verify(run)
        assert found.first_wrong is not None, at
        assert (found.first_wrong.height, found.height) == (2, 1)


def test_every_flipped_byte_of_the_genesis_is_named(run):
    path = run / "ledger" / GENESIS_FILE
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(flipped(sound, at))
        found = verify(run)
        assert found.first_wrong is not None, at
        assert (found.first_wrong.height, found.height) == (0, 0)
        assert GENESIS_FILE in found.first_wrong.file + found.first_wrong.reason
    path.unlink()
    assert "missing" in verify(run).first_wrong.reason


@pytest.mark.parametrize(
    ("statement", "height"),
    [
        ("UPDATE transactions SET position = 7 WHERE height = 3 AND position = 1", 3),
        ("UPDATE transactions SET height = 1 WHERE height = 3 AND position = 1", 3),
        ("UPDATE transactions SET id = zeroblob(32) WHERE height = 2 AND position = 4", 2),
        ("DELETE FROM transactions WHERE height = 1 AND position = 0", 1),
        ("INSERT INTO transactions VALUES (zeroblob(32), 1, 9)", 5),
        ("DELETE FROM blocks WHERE height = 3", 3),
        ("UPDATE blocks SET height = 30 WHERE height = 5", 5),
        ("UPDATE blocks SET block = (SELECT block FROM blocks WHERE height = 2) WHERE height = 3", 3),
        ("UPDATE blocks SET certificate = (SELECT certificate FROM blocks WHERE height = 2) WHERE height = 3", 3),
        ("UPDATE blocks SET block = zeroblob(9000000) WHERE height = 3", 3),
        ("CREATE TABLE more (x)", 0),
        ("DELETE FROM blocks WHERE height = 0", 0),
    ],
)
def test_rows_that_were_changed_are_named(run, statement, height):
    change(run, statement)
    found = verify(run)
    assert found.first_wrong.height == height
    assert found.first_wrong.file == CHAIN_FILE
    with pytest.raises(RunError, match=f"block {height} is wrong"):
        Chain(run)


def test_every_flipped_byte_of_a_stored_model_is_named(run):
    stored = sorted(path for path in (run / "ledger" / "store").rglob("*") if path.is_file())
    assert len(stored) == 2
    heights = set()
    for path in stored:
        sound = path.read_bytes()
        for at in range(0, len(sound), 37):
            path.write_bytes(flipped(sound, at))
            found = verify(run)
            assert run / "ledger" / found.first_wrong.file == path
            assert found.height == found.first_wrong.height - 1
            heights.add(found.first_wrong.height)
        path.write_bytes(sound)
    assert heights == {1, 3}
    stored[0].unlink()
    assert verify(run).first_wrong is None  # not at hand is not wrong


def test_flipped_bytes_of_the_file_itself_are_named(run):
    path = run / "ledger" / CHAIN_FILE
    sound = path.read_bytes()
    for at in range(3, len(sound), max(1, len(sound) // 400)):
        path.write_bytes(flipped(sound, at))
        assert verify(run).first_wrong.file == CHAIN_FILE, at
    path.write_bytes(sound)
    assert verify(run).first_wrong is None


def test_after_a_crash_bytes_that_belong_to_no_block_go_unnoticed_and_no_others(run):
    path = run / "ledger" / CHAIN_FILE
    path.with_suffix(".sha256").unlink()
    store = Store(path)
    rows = [store.block(height) for height in range(6)]
    store.close()
    sound, named = path.read_bytes(), 0
    for at in range(3, len(sound), max(1, len(sound) // 400)):
        path.write_bytes(flipped(sound, at))
        wrong = verify(run).first_wrong
        named += wrong is not None
        if wrong is None:
            store = Store(path)
            assert [store.block(height) for height in range(6)] == rows
            store.close()
    assert named


def test_a_damaged_structure_that_no_row_shows_is_named(run):
    path = run / "ledger" / CHAIN_FILE
    path.with_suffix(".sha256").unlink()
    path.write_bytes(flipped(path.read_bytes(), 39))  # the count of free pages
    wrong = verify(run).first_wrong
    assert wrong.file == CHAIN_FILE
    assert "damaged" in wrong.reason


def test_a_file_that_is_cut_short_or_another_is_named(run):
    path = run / "ledger" / CHAIN_FILE
    sound = path.read_bytes()
    for data in (sound[: len(sound) // 2], b"", b"no database at all" * 100, bytes(4096)):
        path.write_bytes(data)
        assert verify(run).first_wrong is not None
    path.unlink()
    assert verify(run).first_wrong.height == 0


def test_verdicts_are_worked_out_again_when_the_updates_are_at_hand(run):
    seen = []

    def scores(contents, rule, f):
        seen.append((contents, rule, f))
        return [10_000 if content == f"{HOMES[0]} 1 1".encode() else 100 for content in contents]

    assert verify(run, scores).first_wrong is None
    assert not seen  # no update is at hand
    store = FolderStore(run / "ledger" / "store")
    for name in HOMES:
        store.put(f"{name} 1 1".encode())
    assert verify(run, scores).first_wrong is None
    assert seen == [([f"{name} 1 1".encode() for name in HOMES], "multi-krum", 1)]
    found = verify(run, lambda contents, rule, f: [100] * 5)
    wrong = found.first_wrong
    assert (wrong.height, found.height, found.transactions) == (3, 2, 11)
    assert f"by {key(MINERS[0]).hex()[:16]}, are not those of its updates" in wrong.reason


# What is not appended


def test_wrong_headers_are_refused(fresh):
    block, _ = fresh.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [])
    header = block.header
    wrong = {
        "does not follow": [{"height": 2}, {"previous": bytes(32)}, {"genesis": bytes(32)}],
        "state is not": [{"state": bytes(32)}],
        "VRF proof or the seed": [{"seed": bytes(64)}, {"proof": bytes(80)}, {"proposer": key(MINERS[1])}],
        "no miner": [{"proposer": key("stranger")}],
        "was not drawn": [{"draw": bytes(80)}, {"draw": header.proof}, {"period": 1}],
        "seed of the empty": [{"proposer": b"", "proof": b""}],
        "Merkle root": [{"root": bytes(32)}],
        "count": [{"count": 1}],
    }
    for said, changes in wrong.items():
        for each in changes:
            with pytest.raises(InputError, match=said):
                fresh.check(Block(dataclasses.replace(header, **each)))
    assert fresh.state.height == 0


def test_somebody_elses_proof_is_refused(fresh):
    theirs, _ = fresh.propose(secret(MINERS[1]), secret(MINERS[0] + " vrf"), [])
    with pytest.raises(InputError, match="VRF proof"):
        fresh.check(theirs)


def test_who_was_not_drawn_proposes_nothing(tmp_path):
    *others, last = genesis().miners
    staked = (*(dataclasses.replace(each, stake=500) for each in others), dataclasses.replace(last, stake=1))
    small = dataclasses.replace(genesis(), miners=staked)
    chain = Replay(small)
    poor = next(name for name in MINERS if key(name) == small.miners[3].key)
    refused = 0
    for period in range(20):
        block, _ = chain.propose(secret(poor), secret(poor + " vrf"), [], period)
        message = vrf_message("propose", chain.seed, 1, period)
        if rank(small.miners[3].vrf, message, block.header.draw, 1, 1501):
            chain.check(block)
            continue
        refused += 1
        with pytest.raises(InputError, match=f"was not drawn for height 1 and period {period}"):
            chain.check(block)
    assert refused > 10
    rich = next(name for name in MINERS if name != poor)
    chain.check(chain.propose(secret(rich), secret(rich + " vrf"), [])[0])


def test_wrong_certificates_are_refused(fresh):
    block, _ = fresh.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [], period=2)
    sound = certified(fresh, block)
    for each in ({"step": "soft"}, {"block": bytes(32)}, {"height": 2}, {"chain": "x"}, {"genesis": bytes(32)}):
        with pytest.raises(InputError, match="for another block"):
            fresh.append(block, dataclasses.replace(sound, **each))
    with pytest.raises(InputError, match="a period before"):
        fresh.append(block, dataclasses.replace(sound, period=1))
    with pytest.raises(InputError, match="weight 2 of 4"):
        fresh.append(block, certified(fresh, block, MINERS[:2]))
    assert fresh.state.height == 0
    fresh.append(block, certified(fresh, block, MINERS[1:]))
    assert fresh.state.height == 1


def test_an_empty_block_that_nobody_proposed_is_the_same_on_every_miner(fresh):
    other = Replay(genesis())
    assert fresh.empty(1) == other.empty(1)
    block = fresh.empty(1)
    fresh.append(block, certified(fresh, block))
    assert fresh.seed == block.header.seed != genesis().hash


def test_proposals_leave_out_what_is_refused_and_blocks_with_it_are_refused(fresh):
    play = Play()
    task = play.make(MAKER, "task", **TASK)
    poor = play.make(HOMES[0], "pay", to=key(MAKER), amount=1)
    block, refused = fresh.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [task, poor, task])
    assert block.transactions == (task,)
    assert [reason.split(";")[0] for _, reason in refused] == [
        f"{key(HOMES[0]).hex()[:16]} holds 0 tokens, 1 are needed",
        "nonce 0 is a replay",
    ]
    with pytest.raises(RefusedError, match=r"transaction 1 \(pay\) is refused"):
        fresh.check(
            Block(dataclasses.replace(block.header, count=2, root=root([task.encode(), poor.encode()])), (task, poor))
        )


def test_a_dropped_or_reordered_transaction_changes_the_root(built):
    store = Store(built / "ledger" / CHAIN_FILE)
    block = Block.decode(store.block(3)[0])
    store.close()
    for listed in (block.transactions[:1], block.transactions[::-1], (*block.transactions, block.transactions[0])):
        with pytest.raises(InputError, match="Merkle root"):
            Block.decode(Block(block.header, listed).encode())


def test_blocks_that_are_malformed_are_refused():
    header = Replay(genesis()).empty(0).header
    with pytest.raises(InputError, match="needs two proofs"):
        Header.read(dataclasses.replace(header, proposer=key(MINERS[0])).table())
    made = Play().make(MAKER, "task", **TASK)
    crowded = dataclasses.replace(header, root=root([made.encode()]), count=1)
    with pytest.raises(InputError, match="without a proposer"):
        Block.decode(Block(crowded, (made,)).encode())
    from privet.ledger.encoding import encode

    with pytest.raises(InputError, match="no byte string"):
        Block.decode(encode({"header": header.table(), "transactions": [1]}))
    with pytest.raises(InputError, match="block must hold exactly"):
        Block.decode(encode({"header": header.table()}))


def test_a_chain_is_created_once_and_found(fresh, tmp_path):
    with pytest.raises(RunError, match="holds a chain already"):
        Chain.create(tmp_path / "run", genesis())
    with pytest.raises(RunError, match="no chain in"):
        find(tmp_path / "nowhere")


def test_a_write_that_fails_leaves_nothing(run):
    store = Store(run / "ledger" / CHAIN_FILE, write=True)
    with pytest.raises(RunError, match="is damaged"):
        store.append(6, b"block", b"certificate", [bytes(32), bytes(32)])
    assert store.block(6) is None
    store.close()
    assert verify(run).first_wrong is None


def test_two_writers_at_once_are_refused(run):
    store = Store(run / "ledger" / CHAIN_FILE, write=True)
    store._file.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match="another process writes"):
        Store(run / "ledger" / CHAIN_FILE, write=True)
    store.close()


def test_the_file_is_written_ahead_and_synced_in_full(run):
    store = Store(run / "ledger" / CHAIN_FILE, write=True)
    assert store._file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._file.execute("PRAGMA synchronous").fetchone() == (2,)
    # While somebody writes, others read.
    assert verify(run).first_wrong is None
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_verifies(run):
    (run / "ledger").chmod(0o500)
    assert verify(run).first_wrong is None
    (run / "ledger").chmod(0o700)


def test_a_killed_writer_leaves_a_chain_that_verifies(tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; import consortium;"
        "chain = consortium.honest_chain(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "run"), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert verify(tmp_path / "run") == verify(tmp_path / "run")
    chain = Chain(tmp_path / "run")
    assert chain.state.height == 5
    chain.close()


# The commands


def test_verify_command(run):
    done = CliRunner().invoke(privet, ["ledger", "verify", str(run), "--json"], standalone_mode=False)
    assert json.loads(done.output) == {"valid": True, "height": 5, "transactions": 15, "first_wrong": None}
    assert done.return_value == 0
    assert "verifies: height 5" in CliRunner().invoke(privet, ["ledger", "verify", str(run)]).output
    change(run, "UPDATE blocks SET block = zeroblob(300) WHERE height = 2")
    done = CliRunner().invoke(privet, ["ledger", "verify", str(run), "--json"], standalone_mode=False)
    said = json.loads(done.output)
    assert (said["valid"], said["height"], said["transactions"]) == (False, 1, 6)
    assert said["first_wrong"]["height"] == 2
    assert said["first_wrong"]["file"] == CHAIN_FILE
    assert said["first_wrong"]["reason"]
    assert done.return_value == 2
    assert "block 2 is wrong" in CliRunner().invoke(privet, ["ledger", "verify", str(run)]).output


def test_show_command(run):
    lines = CliRunner().invoke(privet, ["ledger", "show", str(run), "--json"]).output.splitlines()
    shown = [json.loads(line) for line in lines]
    assert [row["height"] for row in shown] == [1, 2, 3, 4, 5]
    assert [each["kind"] for each in shown[2]["transactions"]] == ["verdict", "model"]
    assert sorted(score for _, score in shown[2]["transactions"][0]["body"]["scores"]) == [100] * 4 + [10_000]
    assert len(shown[0]["certificate"]["votes"]) == 4
    assert shown[1]["previous"] == shown[0]["hash"]
    assert shown == list(blocks(run))
    plain = CliRunner().invoke(privet, ["ledger", "show", str(run)]).output.splitlines()
    assert plain[3].endswith("settle")
    change(run, "UPDATE blocks SET block = zeroblob(300) WHERE height = 2")
    with pytest.raises(RunError, match="block 2 can't be read"):
        list(blocks(run))


def test_the_hash_of_a_header_is_that_of_its_bytes(built):
    from privet.ledger.encoding import encode

    store = Store(built / "ledger" / CHAIN_FILE)
    header = Block.decode(store.block(1)[0]).header
    store.close()
    assert header.hash == hashlib.sha256(encode(header.table())).digest()
