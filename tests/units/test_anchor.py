"""Anchors on an EVM chain that runs in this process: what is copied, who can tell that the chain was changed."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
import warnings
from importlib.util import find_spec

import pytest
from click.testing import CliRunner
from consortium import MINERS, certified, extend, genesis, honest_chain, secret

from privet.apps.cli.main import privet
from privet.errors import InputError, MissingExtraError, RefusedError, RunError, UnreachableError
from privet.ledger import anchor as anchoring
from privet.ledger.anchor import ANCHOR_FILE, CODE, DEPLOY, Place, account_of, anchor, anchored, check, connect, where
from privet.ledger.chain import Chain
from privet.ledger.encoding import decode, encode
from privet.ledger.export import export
from privet.ledger.verification import CHAIN_FILE

pytestmark = pytest.mark.skipif(
    find_spec("eth_tester") is None, reason="eth-tester is not installed: pip install 'eth-tester[py-evm]'"
)


@pytest.fixture(scope="module")
def evm():
    limit = sys.getrecursionlimit()  # the EVM raises it for the whole process
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the EVM's own dependencies, when they are imported
        from web3 import EthereumTesterProvider, Web3

        made = Web3(EthereumTesterProvider())
    sys.setrecursionlimit(limit)
    return made


def funded(evm, folder, name, amount=10**18):
    """Returns the file of a new key, whose account holds something."""
    path = folder / f"{name}.key"
    path.write_text(secret(f"{name} on the EVM").hex() + "\n")
    path.chmod(0o600)
    to = account_of(path).address
    if amount:
        sent = evm.eth.send_transaction({"from": evm.eth.accounts[0], "to": to, "value": amount})
        evm.eth.wait_for_transaction_receipt(sent)
    return path


@pytest.fixture
def payer(evm, tmp_path):
    return funded(evm, tmp_path, "payer")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    honest_chain(folder, rounds=2).close()
    return folder


@pytest.fixture
def run(built, tmp_path):
    shutil.copytree(built, tmp_path / "run")
    return tmp_path / "run"


# The contract


def test_the_code_is_what_its_table_says():
    operations = {
        "CALLDATASIZE": "36",
        "PUSH1 0": "6000",
        "CALLDATACOPY": "37",
        "CALLER": "33",
        "CALLDATALOAD": "35",
        "LOG2": "a2",
        "STOP": "00",
    }
    table = [line.strip() for line in anchoring.__doc__.splitlines() if line.startswith("    ")]
    listed = [re.split(" {2,}", line)[:2] for line in table]
    assert len(listed) == 11
    assert all(operations[name] == code.replace(" ", "") for code, name in listed)
    assert "".join(code.replace(" ", "") for code, _ in listed) == CODE.hex()
    assert len(CODE) == 15
    assert DEPLOY.hex() == "6e" + CODE.hex() + "6000" + "52" + "600f" + "6011" + "f3"


def test_the_contract_gives_what_was_sent_and_who_sent_it(evm, payer):
    account = account_of(payer)
    place = anchoring._deploy(evm, account)
    assert bytes(evm.eth.get_code(place.contract)) == CODE
    for data in (b"", b"x" * 31, bytes(range(256)) * 10):
        receipt = anchoring._send(evm, account, place.contract, data)
        (log,) = receipt["logs"]
        assert bytes(log["data"]) == data
        assert bytes(log["topics"][0]) == data[:32].ljust(32, b"\0")
        assert bytes(log["topics"][1])[12:].hex() == account.address[2:].lower()


# Anchors


def test_settlements_and_the_last_block_are_anchored_once(evm, payer, run):
    place, made = anchor(evm, account_of(payer), run)
    assert [each.height for each in made] == [4, 7, 8]  # two settlements, and the last block
    exported = export(run)
    assert [each.block.hex() for each in made] == [exported["blocks"][height - 1]["hash"] for height in (4, 7, 8)]
    for each, round in zip(made, (1, 2), strict=False):
        ((id, task, number, reputations, rewards),) = each.settlements
        assert (task, number) == (1, round)
        said = [row for row in exported["reputations"] if row["round"] == round]
        assert [[who.hex(), before, after] for who, before, after in reputations] == [
            [row["customer"], row["before"], row["after"]] for row in said
        ]
        assert [[who.hex(), amount] for who, amount in rewards] == [
            [row["customer"], row["amount"]] for row in exported["rewards"] if row["round"] == round
        ]
        assert id.hex() in {row["id"] for row in exported["transactions"] if row["kind"] == "settle"}
    assert check(evm, run) == made == anchored(evm, place, genesis().hash)
    assert anchor(evm, account_of(payer), run) == (place, [])  # nothing is new
    chain = Chain(run)
    extend(chain, [])
    chain.close()
    assert [each.height for each in anchor(evm, account_of(payer), run)[1]] == [9]
    assert [each.height for each in check(evm, run)] == [4, 7, 8, 9]


def test_a_chain_that_was_cut_or_written_anew_is_noticed(evm, payer, run, tmp_path):
    place, _ = anchor(evm, account_of(payer), run)
    shutil.copytree(run, tmp_path / "cut")
    file = sqlite3.connect(tmp_path / "cut" / "ledger" / CHAIN_FILE)
    file.execute("DELETE FROM blocks WHERE height = 8")
    file.execute("DELETE FROM transactions WHERE height = 8")
    file.commit()
    file.close()
    (tmp_path / "cut" / "ledger" / "chain.sha256").unlink()
    with pytest.raises(RunError, match="block 8 was anchored, and the chain ends at 7: it was cut"):
        check(evm, tmp_path / "cut")
    # All miners together write another history.
    anew = Chain.create(tmp_path / "anew", genesis())
    for _ in range(8):
        block, _ = anew.propose(secret(MINERS[0]), secret(MINERS[0] + " vrf"), [])
        anew.append(block, certified(anew, block))
    anew.close()
    with pytest.raises(RunError, match="block 4 is not the one that was anchored: the chain was written anew"):
        check(evm, tmp_path / "anew", place)
    shutil.copy(run / "ledger" / ANCHOR_FILE, tmp_path / "anew" / "ledger")
    with pytest.raises(RunError, match="written anew"):
        anchor(evm, account_of(payer), tmp_path / "anew")
    Chain.create(tmp_path / "other", genesis(h=6)).close()
    with pytest.raises(RunError, match="has no block yet"):
        check(evm, tmp_path / "other", place)


def test_another_genesis_sender_contract_or_chain_has_no_anchor(evm, payer, run):
    place, _ = anchor(evm, account_of(payer), run)
    stranger = Place(place.chain_id, place.contract, evm.eth.accounts[3])
    with pytest.raises(RunError, match="anchored no chain of genesis"):
        check(evm, run, stranger)
    with pytest.raises(RunError, match="is not the contract"):
        check(evm, run, Place(place.chain_id, evm.eth.accounts[3], place.sender))
    with pytest.raises(RunError, match=f"of EVM chain {evm.eth.chain_id}, the anchors of chain 7"):
        check(evm, run, Place(7, place.contract, place.sender))


def test_what_others_send_to_the_contract_is_nobodys_anchor(evm, payer, run, tmp_path):
    place, made = anchor(evm, account_of(payer), run)
    other = account_of(funded(evm, tmp_path, "other"))
    lie = encode({"height": 4, "block": bytes(32), "settlements": []})
    anchoring._send(evm, other, place.contract, genesis().hash + lie)
    assert check(evm, run) == made
    for data in (b"", b"\xff", encode({"height": 1}), encode([1]), encode({**decode(lie), "height": None})):
        anchoring._send(evm, account_of(payer), place.contract, genesis().hash + data)
    assert check(evm, run) == made
    # A copy of the file does not make another the one who anchors.
    with pytest.raises(RunError, match=r"is for chain .* not for"):
        anchor(evm, other, run)


def test_large_settlements_are_anchored_by_their_id(monkeypatch, evm, payer, run):
    monkeypatch.setattr(anchoring, "LARGEST", 300)
    _, made = anchor(evm, account_of(payer), run)
    ((_, task, round),) = made[0].settlements
    assert (task, round) == (1, 1)
    assert check(evm, run) == made


def test_an_account_without_money_is_one_line(evm, tmp_path, run):
    poor = account_of(funded(evm, tmp_path, "poor", 0))
    with pytest.raises(RefusedError, match="holds nothing to pay the EVM chain's fees with"):
        anchor(evm, poor, run)
    assert where(run) is None


def test_a_transaction_that_fails_is_refused(evm, payer, monkeypatch):
    monkeypatch.setattr(evm.eth, "wait_for_transaction_receipt", lambda *_, **__: {"status": 0})
    with pytest.raises(RefusedError, match="refused the anchor"):
        anchoring._send(evm, account_of(payer), evm.eth.accounts[1], b"")


def test_a_run_that_was_never_anchored_or_does_not_verify(evm, payer, run):
    with pytest.raises(RunError, match="was never anchored"):
        check(evm, run)
    (run / "ledger" / ANCHOR_FILE).write_text("[]")
    with pytest.raises(RunError, match="is damaged"):
        check(evm, run)
    path = run / "ledger" / CHAIN_FILE
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(RunError, match="is wrong"):
        anchor(evm, account_of(payer), run)


# Keys and connections


def test_keys_are_read_only_from_a_file_that_others_cannot_read(tmp_path):
    path = tmp_path / "key"
    path.write_text("0x" + secret("payer on the EVM").hex())
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read the key"):
        account_of(path)
    path.chmod(0o600)
    assert account_of(path).address.startswith("0x")
    for wrong in ("", "xyz", "00" * 32, "ff" * 31):
        path.write_text(wrong)
        with pytest.raises(InputError, match="holds no secret key") as caught:
            account_of(path)
        assert wrong == "" or wrong not in str(caught.value)


def test_nodes_that_are_away_or_none(monkeypatch, evm):
    with pytest.raises(UnreachableError, match="does not answer"):
        connect("http://127.0.0.1:1")
    with pytest.raises(InputError, match="is no address of an EVM node"):
        connect("file:///etc")
    monkeypatch.setattr("web3.Web3.is_connected", lambda *_: True)
    assert connect("http://127.0.0.1:1").is_connected()

    from web3.exceptions import Web3RPCError

    def talk(error):
        with anchoring._talking():
            raise error

    with pytest.raises(UnreachableError, match="does not answer: ConnectionError"):
        talk(ConnectionError())
    with pytest.raises(RefusedError, match="the EVM chain refuses: insufficient funds; does the account"):
        talk(Web3RPCError("insufficient funds"))


def test_without_web3_the_advice_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "web3", None)
    monkeypatch.setitem(sys.modules, "eth_account", None)
    for call in (lambda: connect("http://127.0.0.1:1"), lambda: account_of(tmp_path)):
        with pytest.raises(MissingExtraError, match=r"pip install 'privet\[web3\]'"):
            call()


# The command


def test_anchor_command(monkeypatch, evm, payer, run):
    def invoke(*arguments):
        return CliRunner().invoke(
            privet, ["ledger", "anchor", str(run), "--rpc", "http://evm", *map(str, arguments)], standalone_mode=False
        )

    monkeypatch.setattr(anchoring, "connect", lambda url: evm)
    assert "anchored heights 4, 7, 8 at 0x" in invoke("--key-file", payer).output
    assert "nothing new to anchor" in invoke("--key-file", payer).output
    assert "3 anchors, the last of height 8" in invoke("--check").output
    said = json.loads(invoke("--check", "--json").output)
    assert (said["checked"], [each["height"] for each in said["anchors"]]) == (True, [4, 7, 8])
    given = invoke("--check", "--contract", said["contract"], "--sender", said["sender"], "--json")
    assert json.loads(given.output)["anchors"] == said["anchors"]
    for wrong in (
        (),
        ("--check", "--key-file", payer),
        ("--check", "--sender", "x"),
        ("--key-file", payer, "--contract", "x", "--sender", "y"),
    ):
        assert "give --key-file to anchor, or --check" in str(invoke(*wrong).exception)
