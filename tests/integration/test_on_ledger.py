"""Whole runs on a ledger: the same model after a crash, what the report says, and every byte class of a real chain."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import privet
from privet.aggregation.exact import scores_of
from privet.errors import RunError
from privet.ledger.content import encode_cid
from privet.ledger.log import Log
from privet.ledger.show import blocks
from privet.ledger.verification import verify
from privet.study.consortium import Consortium
from privet.study.sections import Ledger

COMMAND = [str(Path(sys.executable).with_name("privet"))]


def plan(**settings: Any) -> privet.Plan:
    table: dict[str, Any] = {
        "name": "on-ledger",
        "reproducible": True,
        "data": {"name": "digits"},
        "fleet": {"devices": 6, "hostile": [{"devices": 1, "behaviour": {"name": "sign-flip", "factor": 5.0}}]},
        "model": {"name": "mlp"},
        "training": {"name": "fedavg", "rounds": 2},
        "aggregation": {"name": "multi-krum", "byzantine": 1},
        "ledger": {"miners": 4, "hostile": [{"miners": 1, "behaviour": "wrong-mean"}]},
        "evidence": {"alone": False, "centralised": False},
    }
    return privet.Plan.from_table(table | settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> privet.Run:
    return privet.run(plan(), out=tmp_path_factory.mktemp("whole") / "run")


def test_the_report_names_the_lying_miner_and_the_hostile_device(whole: privet.Run) -> None:
    ledger = whole.metrics["ledger"]
    assert [row["name"] for row in ledger["miners"] if row["named"]] == ["miner-4"]
    assert [row["device"] for row in ledger["customers"] if row["reputation"] == 0] == ["device-005"]
    assert sum(row["reward"] for row in ledger["customers"]) == 5 * (5 + 6)
    page = whole.report.read_text(encoding="utf-8")
    assert "signed a wrong model in round 1" in page
    assert "Lied and never named" not in page
    assert ledger["head"] in page
    assert 0 < ledger["share_of_rounds"] < 1


def test_the_command_verifies_and_shows_the_chain(whole: privet.Run) -> None:
    def told(*arguments: str) -> list[dict[str, Any]]:
        done = subprocess.run([*COMMAND, "ledger", *arguments], capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    (said,) = told("verify", str(whole.path), "--json")
    assert said == {
        "valid": True,
        "height": whole.metrics["ledger"]["height"],
        "transactions": whole.metrics["ledger"]["transactions"],
        "first_wrong": None,
    }
    assert len(told("show", str(whole.path), "--json")) == said["height"]


@pytest.mark.parametrize("stopped", ["a round", "the end"])
def test_a_stopped_run_goes_on_to_the_same_model(
    whole: privet.Run, stopped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, finish = Log.append, Consortium.finish

    def stop(self: Log, kind: str, body: dict[str, Any]) -> Any:
        if kind == "round":
            raise KeyboardInterrupt  # after the chain has the round
        return append(self, kind, body)

    def stop_at_the_end(self: Consortium) -> dict[str, Any]:
        finish(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if stopped == "a round":
            patched.setattr(Log, "append", stop)
        else:
            patched.setattr(Consortium, "finish", stop_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            privet.run(plan(), out=tmp_path / "run")
    resumed = privet.run(plan(), resume=tmp_path / "run")
    assert resumed.metrics["digest"] == whole.metrics["digest"]
    assert [row["reputation"] for row in resumed.metrics["ledger"]["customers"]] == [7] * 5 + [0]
    assert verify(tmp_path / "run", scores_of).first_wrong is None


def test_a_chain_of_another_model_is_refused(whole: privet.Run, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    devices = [f"device-{at:03}" for at in range(6)]
    with pytest.raises(RunError):
        Consortium(tmp_path / "run", Ledger(miners=4), devices, 2, "multi-krum", 1, torch.zeros(9), bytes(32))


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


_COLUMNS = {
    "block": "UPDATE blocks SET block = flip(block, 200) WHERE height = 3",
    "certificate": "UPDATE blocks SET certificate = flip(certificate, 90) WHERE height = 3",
    "index": "UPDATE transactions SET position = position + 1 WHERE height = 3 AND position = 2",
}


@pytest.mark.parametrize("column", _COLUMNS)
def test_one_flipped_byte_of_a_row_is_named_with_its_block(whole: privet.Run, column: str, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    home = tmp_path / "run" / "ledger"
    (home / "chain.sha256").unlink()  # as after a crash, so that the rows alone must tell
    base = sqlite3.connect(home / "chain.sqlite")
    base.create_function("flip", 2, _flip)
    with base:
        base.execute(_COLUMNS[column])
    base.close()
    done = subprocess.run([*COMMAND, "ledger", "verify", str(home.parent), "--json"], capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (done.returncode, said["valid"]) == (2, False)
    assert (said["first_wrong"]["height"], said["first_wrong"]["file"]) == (3, "chain.sqlite")


@pytest.mark.parametrize("file", ["chain.sqlite", "chain.sha256", "genesis.cbor", "store"])
def test_any_flipped_byte_of_a_file_is_found(whole: privet.Run, file: str, tmp_path: Path) -> None:
    shutil.copytree(whole.path, tmp_path / "run")
    home = tmp_path / "run" / "ledger"
    # The lying miner's own models lie in the store too; no block names them, so nobody looks at them.
    bodies = [one["body"] for block in blocks(home.parent) for one in block["transactions"]]
    named = {encode_cid(bytes.fromhex(body["cid"])) for body in bodies if "cid" in body}
    paths = [path for path in sorted((home / file).rglob("*")) if path.name in named] or [home / file]
    for path in paths:
        data = path.read_bytes()
        for at in range(0, len(data), max(1, len(data) // max(2, 40 // len(paths)))):
            path.write_bytes(_flip(data, at))
            wrong = verify(home.parent, scores_of).first_wrong
            assert wrong is not None, f"{path.name}, byte {at}"
            # A genesis that differs from the chain's may be wrong on either side.
            assert file.removesuffix(".sha256") in wrong.file + wrong.reason
        path.write_bytes(data)
    assert verify(home.parent, scores_of).first_wrong is None
