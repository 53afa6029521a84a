"""``privet bench ledger --faults`` and ``--miners``: what they print, and that they repeat."""

from __future__ import annotations

import json

import pytest

from privet.apps.cli.main import main
from privet.ledger.verification import verify
from privet.study import consensus_speed, consensus_trials


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["bench", "ledger", *arguments])
    out, _ = capsys.readouterr()
    return left.value.code, out


def test_faults_find_no_conflict_and_no_stall_and_repeat(capsys):
    status, out = call(capsys, "--faults", "--rounds", "30", "--seed", "5", "--json")
    said = json.loads(out)
    assert status == 0
    assert said["rounds"] >= 30
    assert [said[name] for name in ("conflicting_certificates", "stalled_after_healing", "honest_named")] == [0, 0, 0]
    assert said["signatures"] == "real"
    assert consensus_trials.faults(30, 5) == said
    assert consensus_trials.faults(30, 6) != said


def test_a_conflict_is_exit_2(capsys, monkeypatch):
    found = {"rounds": 1, "conflicting_certificates": 1, "stalled_after_healing": 0}
    monkeypatch.setattr(consensus_trials, "faults", lambda rounds, seed: found)
    assert call(capsys, "--faults") == (2, "rounds: 1\nconflicting certificates: 1\nstalled after healing: 0\n")


@pytest.mark.parametrize("miners", [1, 4])
def test_speed_is_that_of_chains_on_the_disk_that_verify(tmp_path, miners):
    said = consensus_speed.speed(miners, tmp_path, blocks=3, batch=5)
    assert said["agreed"]
    assert 0 < said["finality_ms_p50"] <= said["finality_ms_p95"]
    assert said["transactions_per_second"] > 0
    for at in range(miners):
        found = verify(tmp_path / f"miner {at}")
        assert (found.height, found.transactions, found.first_wrong) == (3, 15, None)


def test_speed_as_json(capsys):
    status, out = call(capsys, "--miners", "4", "--rounds", "2", "--json")
    said = json.loads(out)
    assert status == 0
    assert {"finality_ms_p50", "finality_ms_p95", "transactions_per_second"} <= said.keys()
    assert said["transactions"] == 400
