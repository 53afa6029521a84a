"""Uploads: over 10 kbit/s, over a link that is up a tenth of the time, over crashes, and against hostile senders."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from privet.errors import InputError, RefusedError, UnreachableError
from privet.transport.upload import CHUNK, Inbox, Outbox, send


class Shaped:
    """A link with a rate and times when it is down, on a clock of its own; a call that meets such a time breaks."""

    def __init__(self, inbox: Inbox, bits_per_second: float, up: Callable[[float], bool] = lambda now: True) -> None:
        self.inbox, self.rate, self.up, self.now = inbox, bits_per_second, up, 0.0
        self.random = random.Random(0)  # noqa: S311

    def call(self, method: str, body: bytes) -> bytes:
        if not self._passes(len(body)):
            raise UnreachableError("the link went down")
        answer = self.inbox.answer(method, body)
        if not self._passes(len(answer)):
            raise UnreachableError("the link went down with the answer on it")
        return answer

    def _passes(self, count: int) -> bool:
        until = self.now + 8 * (count + 60) / self.rate  # 60 bytes of headers
        while self.now < until and self.up(self.now):
            self.now = min(until, self.now + 0.05)
        return self.up(self.now)

    def wait(self, failures: int) -> None:
        self.now += min(2.0**failures, 5.0) * self.random.uniform(0.5, 1.5)


@pytest.fixture
def arrived() -> list[bytes]:
    return []


@pytest.fixture
def inbox(tmp_path: Path, arrived: list[bytes]) -> Inbox:
    return Inbox(tmp_path / "inbox", lambda data, name: arrived.append(data))


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 50_000])
def test_what_arrives_is_what_was_sent(inbox: Inbox, arrived: list[bytes], size: int) -> None:
    data = os.urandom(size)
    sent = send(data, inbox.answer, wait=lambda failures: None)
    assert arrived == [data]
    assert sent.chunks == -(-size // CHUNK)
    again = send(data, inbox.answer, wait=lambda failures: None)
    assert (again.chunks, arrived) == (0, [data])


def test_ten_kilobits_a_second(inbox: Inbox, arrived: list[bytes]) -> None:
    link, data = Shaped(inbox, 10_000), os.urandom(61_706)  # a LeNet-sized update at a byte a value
    sent = send(data, link.call, wait=link.wait)
    assert arrived == [data]
    bare = 8 * len(data) / 10_000
    assert bare < link.now < 1.08 * bare
    assert sent.bytes < 1.04 * len(data)


@pytest.mark.parametrize("period", [30.0, 60.0, 600.0])
def test_a_link_that_is_up_a_tenth_of_the_time(inbox: Inbox, arrived: list[bytes], period: float) -> None:
    link, data = Shaped(inbox, 20_000, lambda now: now % period < period / 10), os.urandom(246_824)
    sent = send(data, link.call, wait=link.wait)
    assert arrived == [data]
    assert sent.chunks == 61  # each counted once, however often the link broke
    assert sent.bytes < 1.04 * len(data)
    assert sent.broken > 0


def test_each_call_breaks_twice(inbox: Inbox, arrived: list[bytes]) -> None:
    data, tries = os.urandom(30_000), {}

    def flaky(method: str, body: bytes) -> bytes:
        tries[body] = tries.get(body, 0) + 1
        if tries[body] == 1:
            raise UnreachableError("before it arrived")
        answer = inbox.answer(method, body)
        if tries[body] == 2:
            raise UnreachableError("after it arrived")
        return answer

    send(data, flaky, wait=lambda failures: None)
    assert arrived == [data]


def test_a_sender_that_gives_up_loses_nothing_that_arrived(tmp_path: Path, inbox: Inbox, arrived: list[bytes]) -> None:
    outbox, data, budget = Outbox(tmp_path / "outbox"), os.urandom(40_000), [6]

    def dying(method: str, body: bytes) -> bytes:
        budget[0] -= 1
        if budget[0] < 0:
            raise UnreachableError("gone for good")
        return inbox.answer(method, body)

    outbox.put(data)
    outbox.put(data)
    with pytest.raises(UnreachableError):
        outbox.forward(dying, most_failures=3, wait=lambda failures: None)
    assert len(outbox.waiting()) == 1
    fresh = Inbox(inbox.folder, lambda data, name: arrived.append(data))  # the receiver was restarted too
    (sent,) = Outbox(outbox.folder).forward(fresh.answer, wait=lambda failures: None)
    assert sent.chunks == 10 - 5
    assert arrived == [data]
    assert outbox.waiting() == []


def test_oldest_first(tmp_path: Path, inbox: Inbox, arrived: list[bytes]) -> None:
    outbox = Outbox(tmp_path / "outbox")
    for word in (b"one", b"two", b"three"):
        outbox.put(word)
    outbox.forward(inbox.answer, wait=lambda failures: None)
    assert arrived == [b"one", b"two", b"three"]


def listed(data: bytes, chunk: int = CHUNK) -> bytes:
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return b"".join([len(data).to_bytes(8), chunk.to_bytes(4), *(hashlib.sha256(one).digest() for one in pieces)])


@pytest.mark.parametrize(
    ("method", "body", "match"),
    [
        ("steal", b"", "two calls"),
        ("offer", b"", "no list"),
        ("offer", listed(b"x")[:-1], "no list"),
        ("offer", listed(b"x" * 300, 256) + bytes(32), "no list"),
        ("offer", listed(b"x", 1), "no list"),
        ("chunk", b"", "no upload"),
        ("chunk", bytes(40), "no upload"),
    ],
)
def test_malformed_calls(inbox: Inbox, method: str, body: bytes, match: str) -> None:
    with pytest.raises(InputError, match=match):
        inbox.answer(method, body)
    assert not list(inbox.folder.iterdir())


def test_chunks_that_were_not_listed_and_uploads_that_are_too_large(tmp_path: Path, arrived: list[bytes]) -> None:
    inbox = Inbox(tmp_path, lambda data, name: arrived.append(data), largest=1000, most=2)
    with pytest.raises(RefusedError, match="upload of 1001 bytes"):
        inbox.answer("offer", listed(bytes(1001)))
    offer = listed(b"x" * 900, 256)
    assert inbox.answer("offer", offer) == b"[0, 1, 2, 3]"
    name = hashlib.sha256(offer).digest()
    for number, piece in ((0, b"y" * 256), (3, b"x" * 256), (4, b"x")):
        with pytest.raises(InputError, match="not the one that was listed"):
            inbox.answer("chunk", name + number.to_bytes(4) + piece)
    for other in range(5):
        inbox.answer("offer", listed(bytes([other]) * 10))
    assert len(list(inbox.folder.iterdir())) == 2  # a sender can't fill the disk with uploads that it never ends
    assert arrived == []


def test_a_late_copy_of_a_chunk_does_no_harm(inbox: Inbox, arrived: list[bytes]) -> None:
    offer = listed(b"x" * 10)
    name = hashlib.sha256(offer).digest()
    inbox.answer("offer", offer)
    for _ in range(2):
        inbox.answer("chunk", name + bytes(4) + b"x" * 10)
    assert inbox.answer("offer", offer) == inbox.answer("offer", offer) == b"[]"
    assert inbox.answer("chunk", name + bytes(4) + b"x" * 10) == b""
    assert arrived == [b"x" * 10]


def test_no_call_at_all() -> None:
    with pytest.raises(UnreachableError):
        send(b"x", lambda method, body: b"[]", most_failures=0, wait=lambda failures: None)
