"""The sign-state: killed at every fsync, a miner never signs the contrary; old, lost and foreign copies are refused."""

from __future__ import annotations

import hashlib
import itertools
import os

import pytest
from consortium import MINERS, certified, genesis, key, secret

from privet.errors import RefusedError, RunError
from privet.ledger.messages import Lock
from privet.ledger.replay import Replay
from privet.ledger.sign_state import DurableFile, SignState
from privet.ledger.votes import NOTHING

START = genesis()
NAME = MINERS[0]
ONE, TWO = bytes(32), bytes([1]) * 32


def opened(path, height=0, name=NAME, start=START):
    return SignState(DurableFile(path), start, secret(name), height)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sign-state"


def lock():
    block = Replay(START).empty(0)
    return Lock(block, certified(Replay(START), block))


class KilledError(Exception):
    pass


def cast_all(signs, wished, left, held):
    for place in wished:
        block = NOTHING if place[2] == "next" else ONE
        left[place] = signs.vote(*place, block, lock=held if place[2] == "certify" else None).block


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_killed_at_each_fsync_no_vote_is_ever_contradicted(path, monkeypatch, power_cut):
    """A vote that left is on the disk; one that did not leave may be cast, or another in its place."""
    real, calls = os.fsync, itertools.count()
    wished = [(1, 0, "soft"), (1, 0, "certify"), (1, 1, "soft"), (1, 1, "next"), (2, 0, "soft")]
    points = 2 * len(wished)
    held = lock()
    for fatal in range(points):
        path.unlink(missing_ok=True)
        calls = itertools.count()
        on_disk = [None]

        def fsync(number, calls=calls, fatal=fatal, on_disk=on_disk):
            call = next(calls)
            if call == fatal:
                raise KilledError
            real(number)
            if call % 2:  # the folder: from now on the record survives a power cut
                on_disk[0] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", fsync)
        left = {}
        signs = opened(path)
        with pytest.raises(KilledError):
            cast_all(signs, wished, left, held)
        with pytest.raises(RefusedError, match="could not be written"):
            signs.vote(9, 0, "soft", TWO)
        monkeypatch.setattr(os, "fsync", real)
        if power_cut:  # what was not synced is lost
            path.unlink(missing_ok=True)
            if on_disk[0] is not None:
                path.write_bytes(on_disk[0])
        again = opened(path)
        for place, block in left.items():
            if place[0] == again.height:
                assert again.vote(*place, block).block == block
            with pytest.raises(RefusedError, match="could contradict"):
                again.vote(*place, TWO)
        if (1, 0, "certify") in left and again.height == 1:
            assert again.lock == held
    assert len(left) == len(wished) - 1


def test_file_and_folder_are_synced_before_a_vote_returns(path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(os.readlink(f"/proc/self/fd/{number}")))
    opened(path).vote(1, 0, "soft", ONE)
    assert seen == [f"{path}.part", str(path.parent)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((5, 2, "soft", ONE), (5, 2, "soft", TWO)),
        ((5, 2, "soft", ONE), (5, 2, "soft", NOTHING)),
        ((5, 2, "soft", ONE), (5, 1, "certify", ONE)),
        ((5, 2, "soft", ONE), (4, 9, "soft", ONE)),
        ((5, 2, "certify", ONE), (5, 2, "soft", ONE)),
        ((5, 2, "certify", ONE), (5, 2, "next", NOTHING)),
        ((5, 2, "next", NOTHING), (5, 2, "certify", ONE)),
    ],
)
def test_what_could_contradict_is_refused_also_after_a_restart(path, first, second):
    opened(path).vote(*first)
    before = path.read_bytes()
    with pytest.raises(RefusedError, match="could contradict what was signed"):
        opened(path, height=4).vote(*second)
    assert path.read_bytes() == before


def test_the_same_vote_is_given_again_without_writing(path, monkeypatch):
    first = opened(path).vote(5, 2, "soft", ONE)
    signs = opened(path)
    monkeypatch.setattr(os, "fsync", lambda number: pytest.fail("written again"))
    assert signs.vote(5, 2, "soft", ONE) == first


def test_the_lock_stays_until_the_height_is_done(path):
    signs, held = opened(path), lock()
    entry = (signs.vote(1, 0, "soft", held.block.header.hash),)
    signs.vote(1, 0, "certify", held.block.header.hash, lock=held)
    signs.vote(1, 1, "soft", held.block.header.hash, entry=entry)
    again = opened(path)
    assert (again.lock, again.entry) == (held, entry)
    again.reach(1)
    assert again.lock == held
    again.reach(2)
    assert (again.height, again.said, again.lock, opened(path).height) == (2, {}, None, 2)


def test_copies_that_are_older_than_the_chain_are_refused(path):
    signs = opened(path)
    signs.vote(1, 0, "soft", ONE)
    old = path.read_bytes()
    signs.vote(2, 0, "soft", ONE)
    opened(path, height=2)
    path.write_bytes(old)
    with pytest.raises(RunError, match="of height 1, older than the chain at 2"):
        opened(path, height=2)
    path.unlink()
    with pytest.raises(RunError, match="missing"):
        opened(path, height=2)


def test_foreign_and_damaged_records_are_refused(path):
    opened(path).vote(1, 0, "soft", ONE)
    with pytest.raises(RunError, match="another chain or miner"):
        opened(path, name=MINERS[1])
    with pytest.raises(RunError, match="another chain or miner"):
        opened(path, start=genesis(tokens=5))
    sound = path.read_bytes()
    for at in range(0, len(sound), 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(RunError, match="damaged"):
            opened(path)
    path.write_bytes(hashlib.sha256(b"\x80").digest() + b"\x80")
    with pytest.raises(RunError, match="damaged"):
        opened(path)
    assert opened(path.with_name("none")).key == key(NAME)
