"""``privet bench ledger --sortition`` and ``privet ledger cid``: what they print, and what they refuse."""

from __future__ import annotations

import json

import pytest

from privet.ledger.content import PROFILES, cid_of
from privet.ledger.sortition import POLICIES, count_leaders


@pytest.mark.parametrize("policy", POLICIES)
def test_leader_shares_as_json(call, policy):
    status, out, _ = call("bench", "ledger", "--sortition", "--rounds", 200, "--priority", policy, "--json")
    said = json.loads(out)
    assert status == 0
    assert said["units"] == [40, 10, 10, 10, 10, 10, 10]
    assert said["leader_share"] == [count / 200 for count in count_leaders(said["units"], 200, policy)]
    assert said["rounds_without_leader"] == 0


def test_leader_shares_as_lines(call):
    status, out, _ = call("bench", "ledger", "--sortition", "--stakes", "3,1", "--rounds", 100)
    assert status == 0
    assert out.splitlines()[0].startswith("miner 1: 75.0 % of the stake, leads ")
    assert out.splitlines()[-1] == "min-hash, 100 rounds, 0 without a leader, 4 units expected of 4"


def test_large_stakes_are_scaled_down(call):
    _, out, _ = call("bench", "ledger", "--sortition", "--stakes", "4000000,1000000", "--rounds", 10, "--json")
    assert json.loads(out)["units"] == [800, 200]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "say what to measure: --sortition, --faults or --miners N"),
        (["--faults", "--sortition"], "say what to measure"),
        (["--sortition", "--stakes", "4,x"], "'4,x' is not whole numbers with commas between"),
        (["--sortition", "--stakes", "4,-1"], "'4,-1' is not whole numbers with commas between"),
        (["--sortition", "--stakes", "0,0"], "stakes are whole numbers from 0, not all 0"),
        (["--sortition", "--stakes", "1,1", "--expected", "3"], "no draw with a stake of 1 of 2, 3 expected"),
        (["--sortition", "--priority", "stake"], "'stake' is not one of"),
    ],
)
def test_what_can_not_be_measured_is_one_line(call, arguments, line):
    status, out, err = call("bench", "ledger", *arguments)
    assert (status, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_cid_of_a_file(call, tmp_path, profile):
    path = tmp_path / "model"
    path.write_bytes(bytes(3_000_000))
    assert call("ledger", "cid", path, "--profile", profile) == (0, cid_of(bytes(3_000_000), profile) + "\n", "")
    said = json.loads(call("ledger", "cid", path, "--profile", profile, "--json")[1])
    assert said == {
        "file": str(path),
        "bytes": 3_000_000,
        "profile": profile,
        "cid": cid_of(bytes(3_000_000), profile),
    }


def test_cid_without_a_profile_is_the_older_one(call, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(bytes(3_000_000))
    assert call("ledger", "cid", path)[1] == cid_of(bytes(3_000_000), "unixfs-v0-2015") + "\n"


def test_cid_of_what_is_no_file_is_one_line(call, tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        status, out, err = call("ledger", "cid", path)
        assert (status, out) == (2, "")
        assert err == f"privet: {path} is not a file\n"
