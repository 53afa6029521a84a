"""Asking other miners for data keys: nobody waits, nobody is believed, and nothing grows without bound."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from privet.errors import UnreachableError
from privet.ledger import data_keys, wishes
from privet.ledger.content import cid_of, decode_cid
from privet.ledger.data_keys import DataKeys
from privet.ledger.encoding import decode

ADDRESS = cid_of(b"an update")


class Miner:
    """Answers with something, or not at all."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer, self.asked = answer, list[Any]()

    def call(self, method: str, body: bytes, timeout: float) -> bytes:
        self.asked.append((method, decode(body)))
        if self.answer is None:
            raise UnreachableError("away")
        return self.answer


@pytest.fixture
def arrived() -> threading.Event:
    return threading.Event()


def asked_until(keys: DataKeys, wanted: list[bytes]) -> bool:
    end = time.monotonic() + 10
    while (found := keys.ask(ADDRESS)) != wanted and time.monotonic() < end:
        time.sleep(0.005)
    return found == wanted


def test_all_are_asked_and_what_cannot_be_a_key_is_dropped(
    arrived: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "AGAIN", 60.0)
    miners = [Miner(answer) for answer in (None, b"", b"wrong" * 20, b"a" * 32, b"b" * 32)]
    keys = DataKeys(lambda: miners, arrived.set)  # type: ignore[return-value, arg-type]
    assert keys.ask(ADDRESS) == []
    assert arrived.wait(10)
    assert asked_until(keys, [b"a" * 32, b"b" * 32])
    assert [one.asked for one in miners] == [[("data-key", {"cid": decode_cid(ADDRESS)})]] * 5  # within that time, once
    keys.close()


def test_who_had_nothing_is_asked_again(arrived: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "AGAIN", 0.0)
    miner = Miner(b"")
    keys = DataKeys(lambda: [miner], arrived.set)  # type: ignore[list-item, arg-type]
    keys.ask(ADDRESS)
    miner.answer = b"k" * 32
    assert asked_until(keys, [b"k" * 32])
    keys.close()


def test_the_oldest_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_keys, "_MOST", 1)
    gate, others = threading.Event(), [cid_of(bytes([at])) for at in range(3)]

    class Slow(Miner):
        def call(self, method: str, body: bytes, timeout: float) -> bytes:
            gate.wait(10)
            return super().call(method, body, timeout)

    miner = Slow(b"k" * 32)
    keys = DataKeys(lambda: [miner], lambda: None)  # type: ignore[list-item, arg-type]
    end = time.monotonic() + 10
    keys.ask(others[0])
    while not keys._wishes._waiting.empty() and time.monotonic() < end:
        time.sleep(0.005)
    for other in others[1:]:
        keys.ask(other)  # one is under way, one waits, and the third is dropped
    gate.set()
    while len(miner.asked) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    keys.close()
    assert len(miner.asked) == 2
    assert len(keys._keys) == 1
