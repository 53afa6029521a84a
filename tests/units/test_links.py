"""The ways to other miners: nobody holds up another, batches stay in bounds, and some pass on what others say."""

import threading
import time

import pytest

from privet.errors import RefusedError, UnreachableError
from privet.ledger import links as ways
from privet.ledger.encoding import decode
from privet.ledger.links import Links
from privet.ledger.service import service
from privet.transport.contract import Peer, UnprovenError

A, B, C = (Peer("miner", name) for name in "abc")
KEYS = {b"a": A, b"b": B, b"c": C}


class Way:
    """A peer that notes what it is told, once its gate is open."""

    def __init__(self, error=None):
        self.told, self.error, self.gate = [], error, threading.Event()
        self.gate.set()

    def call(self, method, body, timeout):
        self.gate.wait(5)
        self.told.append((method, body))
        if self.error is not None:
            raise self.error
        return b""

    def close(self):
        pass

    def items(self, method):
        return [item for name, body in self.told if name == method for item in decode(body)]


def wait_for(done, seconds=5):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def made():
    found = {peer: Way() for peer in KEYS.values()}
    links = Links(KEYS, found.get)
    yield links, found
    for way in found.values():
        way.gate.set()
    links.close()


def test_one_or_all_are_told_and_a_silent_peer_holds_up_nobody(made):
    links, found = made
    found[C].gate.clear()
    links.send("message", b"to all")
    links.send("message", b"to b", b"b")
    links.send("message", b"to nobody known", b"x")
    wait_for(lambda: found[B].items("message") == [b"to all", b"to b", b"to nobody known"])
    wait_for(lambda: found[A].items("message") == [b"to all", b"to nobody known"])
    assert links.reachable() == {"miner/a": True, "miner/b": True, "miner/c": False}
    found[C].gate.set()
    wait_for(lambda: found[C].items("message") == [b"to all", b"to nobody known"])


def test_what_waits_travels_together_within_the_limits(made, monkeypatch):
    monkeypatch.setattr(ways, "BATCH", 4)
    monkeypatch.setattr(ways, "LIMIT", 100)
    links, found = made
    found[A].gate.clear()
    links.send("message", b"first", b"a")
    wait_for(lambda: not links._lines[A]._waiting)
    for size in (30, 30, 50, 1, 1, 1, 1, 1):
        links.send("message", bytes(size), b"a")
    links.send("transaction", b"t", b"a")
    links.relay("relayed", b"whole", frozenset([A, Peer("miner", "x")]))
    links.send("message", b"last", b"a")
    found[A].gate.set()
    wait_for(lambda: found[A].items("message")[-1] == b"last" if found[A].told else False)
    sizes = [[len(item) for item in decode(body)] for method, body in found[A].told[:-3]]
    assert sizes == [[5], [30, 30], [50, 1, 1, 1], [1, 1]]
    assert [method for method, _ in found[A].told[-3:]] == ["transaction", "relayed", "message"]
    assert found[A].told[-2] == ("relayed", b"whole")


def test_the_oldest_go_when_a_peer_is_silent_for_long(made, monkeypatch):
    links, found = made
    found[A].gate.clear()
    links.send("message", b"first", b"a")
    wait_for(lambda: not links._lines[A]._waiting)
    for at in range(ways.WAITING + 10):
        links.send("message", at.to_bytes(2, "big"), b"a")
    found[A].gate.set()
    wait_for(lambda: len(found[A].items("message")) == ways.WAITING + 1)
    assert found[A].items("message")[1] == (10).to_bytes(2, "big")


def test_who_refuses_answered_and_who_is_away_did_not():
    found = {A: Way(RefusedError("no")), B: Way(UnreachableError("away")), C: None}
    links = Links(KEYS, found.get)
    links.send("message", b"x")
    wait_for(lambda: found[A].told and found[B].told)
    wait_for(lambda: links.reachable()["miner/a"])
    assert links.reachable() == {"miner/a": True, "miner/b": False, "miner/c": False}
    found[A] = Way(UnprovenError("somebody else is there"))
    assert links._try(A, "message", b"") is False
    found[A] = None
    assert links._try(A, "message", b"") is False
    links.send("message", b"to c by the others", b"c")
    wait_for(lambda: b"to c by the others" in found[B].items("message"))
    links.close()


def test_what_one_says_whom_nobody_reaches_is_passed_on_once_to_the_others_of_them():
    passed, taken = [], []

    class Chain:
        folder = genesis = None

    class Node:
        chain = Chain()

        class links:  # noqa: N801 - stands for an object
            relay = staticmethod(lambda method, body, peers: passed.append((method, body, peers)))

        class contents:  # noqa: N801
            content = bring = None

        take = staticmethod(taken.append)

    from test_wire import encode_batch, encode_message, vote

    body = encode_batch([encode_message(vote())])
    methods = service(Node(), A, frozenset([B, C]))
    assert methods["message"](B, body) == b""
    assert passed == [("relayed", body, frozenset([C]))]
    assert methods["relayed"](B, body) == b""
    assert methods["message"](A, body) == b""
    assert len(passed) == 1
    assert taken == [vote()] * 3
    with pytest.raises(RefusedError, match="no miner"):
        methods["message"](Peer("customer", "b"), body)
