"""``privet ledger init``, ``privet ledger status`` and ``privet miner``: what they make, print and refuse."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from privet.ledger.chain import Chain
from privet.ledger.miner_folder import MinerFolder
from privet.ledger.verification import verify
from privet.transport.certificates import expires, name_in


def refused(call, code, *arguments):
    status, out, err = call(*arguments)
    assert (status, out) == (code, "")
    assert len(err.splitlines()) == 1
    return err


def test_a_consortium_for_trying_out(call, tmp_path):
    folder = tmp_path / "consortium"
    status, out, _ = call("ledger", "init", folder, "--miners", 3, "--port", 7801, "--name", "homes", "--json")
    told = json.loads(out)
    assert (status, told["miners"]) == (0, ["miner-1", "miner-2", "miner-3"])
    loaded = [MinerFolder.load(folder / name) for name in told["miners"]]
    assert {each.genesis.hash.hex() for each in loaded} == {told["genesis"]}
    assert [each.own.address for each in loaded] == ["127.0.0.1:7801", "127.0.0.1:7802", "127.0.0.1:7803"]
    assert loaded[0].genesis.name == "homes"
    keys = [path for path in folder.rglob("*.key")]
    assert len(keys) == 12
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert "is not empty" in refused(call, 2, "ledger", "init", folder, "--miners", 3)


def test_a_consortium_of_miners_that_made_their_own_keys(call, tmp_path):
    for name, more in (("a", ["--address", "10.0.0.1:7700"]), ("b", [])):
        status, out, _ = call("miner", tmp_path / name, "--register", name, *more)
        assert status == 0
        assert "registration.cbor" in out
    files = [part for name in "ab" for part in ("--registration", tmp_path / name / "registration.cbor")]
    status, out, _ = call("ledger", "init", tmp_path / "new", *files)
    assert status == 0
    assert "2 miners" in out
    assert not list((tmp_path / "new" / "a").glob("*.key"))
    assert "there already" in refused(call, 2, "miner", tmp_path / "a", "--register", "a")
    before = (tmp_path / "new" / "a" / "transport.pem").read_bytes()
    status, out, _ = call("ledger", "renew", tmp_path / "new", tmp_path / "a" / "registration.cbor", "--days", 2)
    assert status == 0
    after = (tmp_path / "new" / "a" / "transport.pem").read_bytes()
    assert expires(after) < expires(before)
    assert name_in(after) == "miner/a"
    call("miner", tmp_path / "c", "--register", "a", "--address", "10.0.0.1:7700")
    stranger = tmp_path / "c" / "registration.cbor"
    assert "not registered" in refused(call, 3, "ledger", "renew", tmp_path / "new", stranger)
    signed = (tmp_path / "a" / "registration.cbor").read_bytes()
    (tmp_path / "forged").write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))
    refused(call, 3, "ledger", "init", tmp_path / "other", "--registration", tmp_path / "forged")


def test_what_is_asked_wrongly_is_one_line(call, tmp_path, port):
    assert "say who takes part" in refused(call, 2, "ledger", "init", tmp_path / "x")
    assert "missing" in refused(call, 2, "miner", tmp_path / "nowhere")
    assert "missing" in refused(call, 2, "ledger", "status", tmp_path / "nowhere")
    refused(call, 2, "bench", "ledger", "--processes")
    call("ledger", "init", tmp_path / "c", "--miners", 1, "--port", port)
    assert "unreachable" in refused(call, 4, "ledger", "status", tmp_path / "c" / "miner-1")
    assert "no miner is known" in refused(call, 2, "ledger", "status", tmp_path / "c" / "manufacturer")
    (tmp_path / "c" / "miner-1" / "signing.key").chmod(0o644)
    assert "chmod 600" in refused(call, 3, "miner", tmp_path / "c" / "miner-1")


def test_a_miner_runs_until_it_is_told_to_stop(call, tmp_path, port):
    call("ledger", "init", tmp_path / "c", "--miners", 1, "--port", port)
    place = tmp_path / "c" / "miner-1"
    command = [Path(sys.executable).with_name("privet"), "miner", str(place), "--idle", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"miner/miner-1 runs at 127.0.0.1:{port}, height 0\n"
            end = time.monotonic() + 10
            height = 0
            while height < 2:
                assert time.monotonic() < end
                status, out, _ = call("ledger", "status", place, "--json")
                height = json.loads(out)["height"]
            lines = call("ledger", "status", tmp_path / "c" / "manufacturer", "--node", f"127.0.0.1:{port}")[1]
            assert "peers: all reached" in lines
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    assert status == 0
    found = verify(place)
    assert found.first_wrong is None
    assert found.height >= 2
    with contextlib.closing(Chain(place)) as chain:
        assert chain.state.epochs().keys() == chain.genesis.weights.keys()  # it registered where to seal for it


def test_four_processes_are_measured(tmp_path):
    from privet.study.process_speed import speed

    found = speed(4, tmp_path, blocks=2, batch=10)
    assert found["agreed"]
    assert found["transactions"] == 20
    assert 0 < found["finality_ms_p50"] <= found["finality_ms_p95"]
