"""Transactions that wait: in order, in bounds, and with a reason for each that may not."""

import pytest
from consortium import MINERS, Play, extend, genesis, key, secret
from hypothesis import given, settings
from hypothesis import strategies as some

from privet.errors import InputError, RefusedError
from privet.ledger import pool as pools
from privet.ledger.blocks import Block
from privet.ledger.pool import Pool
from privet.ledger.transactions import Transaction

START = genesis()


class Grown:
    """A chain of one state that takes blocks of a test."""

    def __init__(self):
        self.play = Play(START)

    @property
    def state(self):
        return self.play.state

    def take(self, *transactions):
        for each in transactions:
            self.play.draft.apply(each)
        self.play.block()
        return Block(None, transactions)


def pay(nonce, sender="maker", amount=1, chain=START.hash):
    return Transaction.signed(secret(sender), chain, nonce, "pay", {"to": key("home 0"), "amount": amount})


def nonces(listed):
    return [each.nonce for each in listed]


def test_they_come_out_in_the_order_of_their_nonces_without_gaps():
    chain = Grown()
    pool = Pool(chain)
    for nonce in (2, 0, 1, 4):
        pool.add(pay(nonce))
    assert nonces(pool.listed(chain.state)) == [0, 1, 2]
    assert pool.due(key("maker")) == 3
    assert pool.due(key("home 0")) == 0
    assert len(pool) == 4


def test_senders_take_turns():
    chain = Grown()
    pool = Pool(chain)
    for sender, count in (("maker", 3), ("home 1", 2)):
        for nonce in range(count):
            pool.add(pay(nonce, sender))
    assert [(each.sender, each.nonce) for each in pool.listed(chain.state)] == [
        (key("maker"), 0),
        (key("home 1"), 0),
        (key("maker"), 1),
        (key("home 1"), 1),
        (key("maker"), 2),
    ]
    assert len(pool.listed(chain.state, most=2)) == 2
    size = len(pay(0).encode())
    assert len(pool.listed(chain.state, most_bytes=3 * size)) == 3


def test_what_a_block_took_is_dropped_and_so_is_what_it_made_stale():
    chain = Grown()
    pool = Pool(chain)
    pool.add(pay(0))
    pool.add(pay(1))
    pool.drop(chain.take(pay(0, amount=5)))
    assert nonces(pool.listed(chain.state)) == [1]
    pool.drop(chain.take(pay(1)))
    assert (len(pool), pool.bytes) == (0, 0)
    assert pool.listed(chain.state) == []


def test_the_same_again_is_no_error_and_counts_once():
    pool = Pool(Grown())
    pool.add(pay(0))
    pool.add(pay(0))
    assert len(pool) == 1


def refused(pool, transaction, match, kind=RefusedError):
    before = len(pool), pool.bytes
    with pytest.raises(kind, match=match):
        pool.add(transaction)
    assert (len(pool), pool.bytes) == before


def test_each_that_may_not_wait_is_told_why():
    chain = Grown()
    chain.take(pay(0))
    pool = Pool(chain, each=10)
    refused(pool, pay(0), "stale")
    refused(pool, pay(11), "too far ahead")
    refused(pool, pay(1, chain=bytes(32)), "another chain")
    good = pay(1)
    forged = Transaction(good.chain, good.sender, good.nonce, good.kind, {**good.body, "amount": 2}, good.signature)
    refused(pool, forged, "not the sender's")
    big = Transaction(good.chain, good.sender, 1, "evidence", {"first": bytes(1 << 18), "second": b""}, good.signature)
    refused(pool, big, "oversize", InputError)
    pool.add(good)
    refused(pool, pay(1, amount=2), "another transaction")
    pool.add(pay(2))
    refused(pool, pay(2, amount=2), "another transaction")


def test_what_the_chain_would_refuse_gives_way_to_another_of_its_nonce():
    chain = Grown()
    pool = Pool(chain)
    pool.add(pay(0, amount=1 << 40))
    pool.add(pay(0))
    assert [each.body["amount"] for each in pool.listed(chain.state)] == [1]


def test_it_is_bounded_in_number_and_bytes():
    chain, size = Grown(), len(pay(0).encode())
    few = Pool(chain, most=2)
    few.add(pay(0))
    few.add(pay(1))
    refused(few, pay(2), "full")
    light = Pool(chain, most_bytes=2 * size)
    light.add(pay(0))
    light.add(pay(1))
    refused(light, pay(2), "full")
    light.drop(chain.take(pay(0)))
    light.add(pay(2))


def test_what_no_block_takes_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(pools, "PATIENCE", 150)
    chain = Grown()
    pool = Pool(chain)
    pool.add(pay(5))
    for height in range(1, 201):
        pool.drop(chain.take())
        assert len(pool) == (height < 200)


@settings(max_examples=40)
@given(some.lists(some.tuples(some.sampled_from(["maker", "home 1", "home 2"]), some.integers(0, 6)), max_size=30))
def test_whatever_comes_in_what_comes_out_is_a_run_of_nonces_of_each_sender(coming):
    chain = Grown()
    pool = Pool(chain)
    for sender, nonce in coming:
        pool.add(pay(nonce, sender))
    assert len(pool) == len(set(coming))
    listed = pool.listed(chain.state)
    for sender in {sender for sender, _ in coming}:
        have = {nonce for name, nonce in coming if name == sender}
        run = next(at for at in range(8) if at not in have)
        assert [each.nonce for each in listed if each.sender == key(sender)] == list(range(run))


def test_a_chain_takes_what_it_lists(tmp_path):
    from privet.ledger.chain import Chain

    chain = Chain.create(tmp_path, START)
    pool = Pool(chain)
    for nonce in range(3):
        pool.add(pay(nonce))
    pool.drop(extend(chain, pool.listed(chain.state), MINERS[0]))
    assert len(pool) == 0
    assert chain.state.nonce(key("maker")) == 3
    chain.close()


def test_what_a_block_takes_while_its_signature_is_checked_does_not_wait_any_more():
    chain = Grown()
    pool = Pool(chain)

    class Slow(Transaction):
        @property
        def authentic(self):
            pool.drop(chain.take(pay(0)))
            return super().authentic

    late = pay(0)
    with pytest.raises(RefusedError, match="nonce 0 is stale"):
        pool.add(Slow(**{name: getattr(late, name) for name in late.__dataclass_fields__}))
    assert len(pool) == 0
    assert pool.add(pay(1))
    assert not pool.add(pay(1))
