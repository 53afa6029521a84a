"""What a miner vouches for: bytes in hand, opened and as their sender signed them; findings that are its own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privet.aggregation.exact import quantise, to_bytes
from privet.crypto.signatures import public_key
from privet.errors import ContentError
from privet.ledger.blocks import Block
from privet.ledger.content import cid_of, decode_cid, encode_cid
from privet.ledger.folder_store import FolderStore
from privet.ledger.sealing import Sealed, seal
from privet.ledger.transactions import Transaction, binding
from privet.study.committee import Member
from privet.study.consortium import Consortium
from privet.study.sections import Ledger
from privet.study.updates import purpose

DEVICES = [f"device-{at}" for at in range(5)]
STEPS = quantise(np.linspace(-1, 1, 20))


class Bench:
    """A chain with an open round, one of its miners, and a customer who can send anything."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        settings = Ledger(miners=4, updates=kind)  # type: ignore[arg-type]
        self.consortium = Consortium(folder, settings, DEVICES, 2, "mean", 0, torch.zeros(20), bytes(32))
        self.consortium.settle(1, DEVICES, [torch.ones(20)] * 5)
        self.committee = self.consortium._committee
        # All miners have the last block, not only the first that found it final.
        self.committee.grow(lambda state: all(one.chain.state.height >= 3 for one in self.committee.members.values()))
        self.member: Member = next(iter(self.committee.members.values()))
        self.store = FolderStore(folder / "ledger" / "store")
        self.key = self.consortium._customers["device-0"]
        self.chain = self.member.chain.genesis.hash

    def post(self, plain: bytes, *, bound: bytes | None = None, stored: bytes | None = None, size: int = 0) -> Block:
        """A block with one update; by default everything about it is right."""
        customer = public_key(self.key)
        content, commitment = plain, hashlib.sha256(plain).digest()
        if self.kind == "sealed":
            recipients = {miner: public for miner, (_, public) in self.member.chain.state.epochs().items()}
            content = seal(plain, recipients, purpose(self.chain, 1, 2, bound or customer))
            commitment = Sealed.decode(content).digest
        if stored is None:
            self.store.put(content)
        elif stored:
            self.store.put(stored)
        body: dict[str, Any] = {
            "task": 1,
            "round": 2,
            "cid": decode_cid(cid_of(content if stored is None or not stored else stored)),
            "profile": "unixfs-v0-2015",
            "digest": binding(self.chain, 1, 2, bound or customer, commitment),
            "size": size or len(content),
        }
        nonce = self.member.chain.state.nonce(customer)
        one = Transaction.signed(self.key, self.chain, nonce, "update", body)
        block, refused = self.member.chain.propose(self.key, bytes(32), (one,))
        assert not refused
        return block


@pytest.fixture(params=["sealed", "plain"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    (tmp_path / "run").mkdir()
    return Bench(tmp_path / "run", request.param)


def test_an_update_that_is_right_is_vouched_for(bench: Bench) -> None:
    block = bench.post(to_bytes(STEPS))
    assert bench.member.duty.in_hand(block)
    assert bench.member.duty.offer(block.transactions)[0] == block.transactions[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"plain": to_bytes(STEPS)[:-4]},
        {"plain": to_bytes(np.full(20, 1 << 22, dtype=np.int32))},
        {"plain": to_bytes(STEPS), "bound": bytes(32)},
        {"plain": to_bytes(STEPS), "stored": b"something else"},
        {"plain": to_bytes(STEPS), "stored": b""},
        {"plain": to_bytes(STEPS), "size": 3},
    ],
    ids=["short", "beyond the clip", "of another customer", "other bytes", "missing", "of another size"],
)
def test_an_update_that_is_wrong_is_left_out(bench: Bench, wrong: dict[str, Any]) -> None:
    block = bench.post(**wrong)
    assert not bench.member.duty.in_hand(block)
    assert bench.member.duty.offer(block.transactions) == []


def test_others_findings_are_not_taken_from_the_pool(bench: Bench) -> None:
    settle: dict[str, Any] = {"task": 1, "round": 2, "reputations": [], "rewards": []}
    one = Transaction.signed(bench.key, bench.chain, 0, "settle", settle)
    assert bench.member.duty.offer([one]) == []


def test_a_verdict_before_the_round_is_closed_is_nobodys_finding(bench: Bench) -> None:
    block = bench.post(to_bytes(STEPS))
    scores: Any = [[public_key(bench.key), b""]]
    verdict = Transaction.signed(bench.key, bench.chain, 9, "verdict", {"task": 1, "round": 2, "scores": scores})
    assert not bench.member.duty.in_hand(replace(block, transactions=(*block.transactions, verdict)))


def test_an_unsigned_or_true_finding_refutes_nobody(bench: Bench) -> None:
    duty, state = bench.member.duty, bench.member.chain.state
    row: Any = state.entries["model/1/1"]
    true = {"task": 1, "round": 1, **{name: row[name] for name in ("cid", "profile", "digest")}}
    secret = bench.member._secret
    duty.heard(Transaction.signed(secret, bench.chain, 0, "model", true))
    false = Transaction.signed(secret, bench.chain, 0, "model", true | {"digest": bytes(32)})
    duty.heard(replace(false, signature=bytes(64)))
    duty.heard(Transaction.signed(bench.key, bench.chain, 0, "model", true | {"digest": bytes(32)}))
    assert duty.wishes == []
    # In a block that it proposed as well as aloud.
    block, _ = bench.member.chain.propose(secret, bytes(32), ())
    assert not duty.in_hand(replace(block, transactions=(false,)))
    assert duty.wishes == [("refute", {"transaction": false.encode()})]


def test_one_miner_cant_make_another_forget_what_the_rest_said(bench: Bench) -> None:
    duty, secret = bench.member.duty, bench.member._secret
    for round in range(200):
        later: dict[str, Any] = {"task": 1, "round": 9 + round, "scores": []}
        duty.heard(Transaction.signed(secret, bench.chain, 0, "verdict", later))
    assert len(duty._said) == 64


def test_a_data_key_is_given_only_of_what_is_in_a_block(bench: Bench) -> None:
    block, duty = bench.post(to_bytes(STEPS)), bench.member.duty
    body: Any = block.transactions[0].body
    address = encode_cid(body["cid"])
    assert duty.data_key(address) is None
    assert duty.in_hand(block)
    data_key = duty.data_key(address)
    assert (data_key is not None) == (bench.kind == "sealed")
    if data_key is not None:
        assert Sealed.decode(bench.store.get(address)).fits(data_key)
        bench.store._place(address).unlink()
        assert duty.data_key(address) is None


def test_a_data_key_of_the_open_round_is_given_by_a_miner_that_was_started_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    bench = Bench(tmp_path / "run", "sealed")
    bench.committee.submit(bench.post(to_bytes(STEPS)).transactions[0])
    bench.committee.grow(lambda state: state.task(1)["posted"] == 1)
    row: Any = bench.consortium._state.entries["update/1/2/0"]
    for member in bench.committee.members.values():
        member.duty._updates._listed.clear()
    bench.committee.grow(lambda state: state.height > 4)
    assert bench.member.duty.data_key(encode_cid(row["cid"])) is not None


def test_wrong_data_keys_of_others_open_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if bench.kind == "plain":
        return
    block, duty, asked = bench.post(to_bytes(STEPS)), bench.member.duty, list[str]()

    def refused(*_: Any) -> bytes:
        raise ContentError("the wrap holds no key")

    monkeypatch.setattr(duty._updates, "_own_key", refused)

    def ask(address: str) -> list[bytes]:
        asked.append(address)
        return [b"", bytes(32), b"far too long" * 99]

    duty.ask = ask
    assert not duty.in_hand(block)
    assert asked
