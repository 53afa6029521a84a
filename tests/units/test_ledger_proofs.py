"""Proofs that stand by themselves, and a chain as tables."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
from click.testing import CliRunner
from consortium import HOMES, MAKER, MINERS, certified, extend, genesis, honest_chain, key, secret

from privet.apps.cli.main import privet
from privet.errors import InputError, RunError
from privet.ledger import proof
from privet.ledger.blocks import Block
from privet.ledger.chain import Chain
from privet.ledger.encoding import encode
from privet.ledger.export import COLUMNS, export
from privet.ledger.proof import check, prove_customer, prove_model, prove_transaction
from privet.ledger.store import Store
from privet.ledger.transactions import Transaction
from privet.ledger.verification import CHAIN_FILE
from privet.ledger.votes import Vote


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two rounds; then a miner is named for voting twice, and another for a false verdict."""
    folder = tmp_path_factory.mktemp("run")
    chain = honest_chain(folder, rounds=2)
    place = ("tests", chain.genesis.hash, 2, 0, "soft")
    votes = [Vote.signed(secret(MINERS[3]), *place, block * 32).encode() for block in (b"a", b"b")]
    lie = {"task": 1, "round": 1, "scores": [[key(name), b"\x07"] for name in HOMES]}
    false = Transaction.signed(secret(MINERS[2]), chain.genesis.hash, 9, "verdict", lie)
    sent = [
        ("evidence", dict(zip(("first", "second"), votes, strict=True))),
        ("refute", {"transaction": false.encode()}),
    ]
    made = [
        Transaction.signed(secret("anybody"), chain.genesis.hash, nonce, kind, body)
        for nonce, (kind, body) in enumerate(sent)
    ]
    extend(chain, made)
    chain.close()
    return folder


def invoke(*arguments):
    return CliRunner().invoke(privet, ["ledger", *map(str, arguments)], standalone_mode=False)


def packed(table, **changed):
    return json.dumps({**table, **changed}).encode()


# Proofs


def test_every_transaction_of_a_chain_can_be_proved(run):
    for block in export(run)["transactions"]:
        found = check(packed(prove_transaction(run, bytes.fromhex(block["id"]))), genesis().hash)
        assert (found.header.height, found.index) == (block["height"], block["position"])
        assert found.transaction.id.hex() == block["id"]
        assert found.votes == tuple(sorted(key(name) for name in MINERS))


def test_the_newest_model_and_a_customers_reputation(run):
    found = check(packed(prove_model(run)))
    assert (found.transaction.kind, found.transaction.body["round"]) == ("model", 2)
    assert check(packed(prove_model(run, task=1))).transaction == found.transaction
    found = check(packed(prove_customer(run, key(HOMES[0]))))
    assert found.transaction.body["round"] == 2
    assert [key(HOMES[0]), 0, 0] in found.transaction.body["reputations"]
    with pytest.raises(RunError, match="no such transaction of kind settle"):
        prove_customer(run, key("nobody"))
    with pytest.raises(RunError, match="no such transaction of kind model"):
        prove_model(run, task=2)
    with pytest.raises(RunError, match="has no transaction 00"):
        prove_transaction(run, bytes(32))


def test_every_flipped_byte_of_a_proof_is_noticed(run):
    table = prove_model(run)
    for name in ("genesis", "header", "certificate", "transaction"):
        data = bytes.fromhex(table[name])
        for at in range(0, len(data), 7):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            with pytest.raises(InputError):
                check(packed(table, **{name: changed.hex()}), genesis().hash)
    for changed in ({"index": 0}, {"index": 2}, {"index": -1}, {"path": []}, {"path": ["00" * 32]}):
        with pytest.raises(InputError, match="is not number"):
            check(packed(table, **changed))
    check(packed(table))


def test_what_is_no_proof_is_refused(run):
    table = prove_model(run)
    wrong = [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, packed(table, more=1), packed(table, index="1")]
    wrong += [
        packed(table, index=True),
        packed(table, path=[1]),
        packed(table, header="zz"),
        packed(table, header="00"),
    ]
    for data in wrong:
        with pytest.raises(InputError):
            check(data)
    with pytest.raises(InputError, match="in the format 'other'; allowed: privet-ledger-proof/1"):
        check(packed(table, format="other"))
    with pytest.raises(InputError, match="oversize"):
        check(bytes(proof.LARGEST + 1))
    with pytest.raises(InputError, match="of another chain"):
        check(packed(table), bytes(32))
    other = genesis(h=6)
    with pytest.raises(InputError, match="of another chain than the genesis"):
        check(packed(table, genesis=other.encode().hex()))


def test_a_proof_needs_a_certificate_and_an_authentic_transaction(run, tmp_path):
    table = prove_model(run)
    chain = Chain.create(tmp_path, genesis())
    paid = Transaction.signed(secret(MAKER), chain.genesis.hash, 0, "pay", {"to": key(HOMES[0]), "amount": 1})
    forged = dataclasses.replace(paid, signature=bytes(64))
    block, _ = chain.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [paid])
    header = dataclasses.replace(block.header, root=proof_root(forged))
    alone = {"header": encode(header.table()).hex(), "transaction": forged.encode().hex(), "index": 0, "path": []}
    few = certified(chain, Block(header), MINERS[:2]).encode().hex()
    with pytest.raises(InputError, match="weight 2 of 4"):
        check(packed(table, **alone, certificate=few))
    with pytest.raises(InputError, match="signature of the transaction is wrong"):
        check(packed(table, **alone, certificate=certified(chain, Block(header)).encode().hex()))
    chain.close()


def proof_root(transaction):
    from privet.ledger.merkle import root

    return root([transaction.encode()])


def test_a_damaged_chain_gives_no_proof(run, tmp_path):
    import shutil
    import sqlite3

    shutil.copytree(run, tmp_path / "run")
    store = Store(run / "ledger" / CHAIN_FILE)
    height = store.counts()[0] - 1
    id = Block.decode(store.block(height)[0]).transactions[0].id
    store.close()
    for change, said in (
        ("UPDATE blocks SET certificate = (SELECT certificate FROM blocks LIMIT 1) WHERE height = ?", "is damaged"),
        ("UPDATE blocks SET block = x'a0' WHERE height = ?", "can't be read"),
        ("DELETE FROM blocks WHERE height = ?", "can't be read"),
    ):
        file = sqlite3.connect(tmp_path / "run" / "ledger" / CHAIN_FILE)
        file.execute(change, (height,))
        file.commit()
        file.close()
        with pytest.raises(RunError, match=said):
            prove_transaction(tmp_path / "run", id)


# Tables


def test_an_export_says_what_the_chain_says(run):
    exported = export(run)
    assert (exported["format"], exported["height"], exported["since"]) == ("privet-ledger-export/1", 9, 0)
    for name, columns in COLUMNS.items():
        assert exported[name], name
        assert all(list(row) == columns.split() for row in exported[name]), name
    assert [row["height"] for row in exported["blocks"]] == list(range(1, 10))
    hostile = key(HOMES[0]).hex()
    trace = [(row["before"], row["after"]) for row in exported["reputations"] if row["customer"] == hostile]
    assert trace == [(5, 0), (0, 0)]
    earned = [(row["amount"], row["claimed"]) for row in exported["rewards"] if row["customer"] == key(HOMES[1]).hex()]
    assert earned == [(5, True), (6, False)]
    assert {"customer": key(HOMES[1]).hex(), "reputation": 7, "balance": 5} in exported["customers"]
    assert exported["offences"] == [{"miner": key(MINERS[3]).hex(), "height": 2, "period": 0, "step": "soft"}]
    falsehood = {"miner": key(MINERS[2]).hex(), "task": 1, "round": 1, "kind": "verdict"}
    assert exported["falsehoods"][0].items() > falsehood.items()


def test_a_chain_that_does_not_verify_is_not_exported(run, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "ledger" / CHAIN_FILE
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(RunError, match="is wrong"):
        export(tmp_path / "run")


# The commands


def test_prove_and_check_commands(run, tmp_path):
    file = tmp_path / "proof.json"
    assert "proves: model" in invoke("prove", run, "--model", "--out", file).output
    done = invoke("check", file, "--genesis", genesis().hash.hex())
    assert done.return_value == 0
    assert "which 4 miners certified" in done.output
    assert "(--genesis checks it)" not in done.output
    assert "(--genesis checks it)" in invoke("check", file).output
    said = json.loads(invoke("check", file, "--json").output)
    assert (said["valid"], said["genesis"], said["height"]) == (True, genesis().hash.hex(), 6)
    assert said["transaction"]["kind"] == "model"
    printed = invoke("prove", run, said["transaction"]["id"], "--json").output
    assert json.loads(printed) == json.loads(file.read_text())
    assert json.loads(invoke("prove", run, "--customer", key(HOMES[1]).hex(), "--json").output)["index"] == 0
    file.write_text(printed.replace('"index": 1', '"index": 0'))
    done = invoke("check", file, "--json")
    assert done.return_value == 2
    assert json.loads(done.output)["valid"] is False
    assert "proves nothing: the transaction is not number 0" in invoke("check", file).output


def test_prove_needs_one_thing_and_a_place_to_put_it(run):
    for arguments in ((), ("--model", "00" * 32), ("--model", "--customer", "00" * 32)):
        assert "give exactly one of" in str(invoke("prove", run, *arguments, "--json").exception)
    assert "give --out FILE, or --json" in str(invoke("prove", run, "--model").exception)
    assert "is not 64 hexadecimal digits" in str(invoke("prove", run, "xyz", "--json").exception)
    assert "is not 64 hexadecimal digits" in str(invoke("prove", run, "00ff", "--json").exception)


def test_export_command(run, tmp_path):
    said = json.loads(invoke("export", run, "--out", tmp_path / "all.json", "--json").output)
    assert json.loads((tmp_path / "all.json").read_text()) == export(run)
    assert said["rows"]["blocks"] == 9
    done = invoke("export", run, "--out", tmp_path / "all", "--format", "csv")
    assert "9 blocks" in done.output
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(f"{name}.csv" for name in COLUMNS)
    with (tmp_path / "all" / "transactions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert json.loads(rows[0]["body"])["rounds"] == 2
    assert len(rows) == said["rows"]["transactions"]
    again = invoke("export", run, "--out", tmp_path / "all", "--format", "csv")
    assert "is there already" in str(again.exception)
    assert not list(tmp_path.glob(".part-*"))
