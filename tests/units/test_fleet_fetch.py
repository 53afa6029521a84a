"""Fetching a pinned file from a server that may be slow, broken, lying or away."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from privet.errors import DataError, UnreachableError
from privet.fleet.fetch import data_folders, fetch

BODY = bytes(range(256)) * 1000
PIN = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """A server on loopback, and what it was asked and sent."""

    url: str = ""
    content: bytes = BODY
    ranges: bool = True
    tells_length: bool = True
    breaks_after: int | None = None
    stall: threading.Event | None = None
    asked: list[str] = field(default_factory=list)
    sent: int = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that supports Range; tests change what it does."""
    monkeypatch.setenv("no_proxy", "*")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range", ""))
            if self.path.startswith("/none"):
                self.send_error(404)
                return
            start = 0
            if state.ranges and state.asked[-1]:
                start = int(state.asked[-1].removeprefix("bytes=").removesuffix("-"))
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            else:
                self.send_response(200)
            rest = state.content[start:]
            if state.tells_length:
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            rest = rest[: state.breaks_after]
            state.sent += len(rest)  # before it is written: the test may look as soon as the bytes are there
            self.wfile.write(rest)
            if state.stall:
                self.wfile.flush()
                state.stall.wait(5)

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_port}/file"
    yield state
    if state.stall:
        state.stall.set()
    running.shutdown()
    running.server_close()
    thread.join()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_brings_the_file_makes_its_folder_and_tells_progress(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "new" / "file"
    assert fetch(server.url, path, PIN, progress=lambda have, total: told.append((have, total))) == path
    assert path.read_bytes() == BODY
    assert left(path.parent) == ["file"]
    assert told[-1] == (len(BODY), len(BODY))


def test_what_is_there_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    fetch(server.url, tmp_path / "file", PIN)
    assert server.asked == []


def test_two_at_once_bring_it_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(fetch, server.url, tmp_path / "file", PIN) for _ in range(2)]
        assert [each.result(10) for each in both] == [tmp_path / "file"] * 2
    assert len(server.asked) == 1
    assert left(tmp_path) == ["file"]


def test_a_wrong_file_in_its_place_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    fetch(server.url, tmp_path / "file", PIN)
    assert (tmp_path / "file").read_bytes() == BODY


def test_resumes_where_the_connection_ended(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 100_000
    with pytest.raises(UnreachableError, match=r"ended after 100000 of 256000 bytes; run it again to go on, or bring"):
        fetch(server.url, tmp_path / "file", PIN)
    assert left(tmp_path) == ["file.part"]
    server.breaks_after = None
    fetch(server.url, tmp_path / "file", PIN)
    assert server.asked == ["", "bytes=100000-"]
    assert server.sent == len(BODY)
    assert (tmp_path / "file").read_bytes() == BODY
    assert left(tmp_path) == ["file"]


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    server.ranges = False
    fetch(server.url, tmp_path / "file", PIN)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    fetch(server.url, tmp_path / "file", PIN)
    assert server.sent == 0
    assert (tmp_path / "file").read_bytes() == BODY


@pytest.mark.parametrize("start", [b"", b"another beginning"])
def test_wrong_checksum_leaves_nothing_to_resume(server: Server, tmp_path: Path, start: bytes) -> None:
    if start:
        (tmp_path / "file.part").write_bytes(start)
    else:
        server.content = BODY[:-1] + b"!"
    with pytest.raises(DataError, match=f"not the pinned file: its sha256 is .*allowed: {PIN}; run it again, or bring"):
        fetch(server.url, tmp_path / "file", PIN)
    assert left(tmp_path) == []


def test_gzip_is_unpacked_and_the_pin_is_of_the_content(server: Server, tmp_path: Path) -> None:
    server.content = gzip.compress(BODY)
    fetch(server.url + ".gz", tmp_path / "file", PIN)
    assert (tmp_path / "file").read_bytes() == BODY
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "content", [gzip.compress(BODY)[:-10], b"no gzip at all", gzip.compress(BODY)[:-8] + b"\0" * 8]
)
def test_broken_gzip_leaves_nothing(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DataError, match="no whole gzip file"):
        fetch(server.url + ".gz", tmp_path / "file", PIN)
    assert left(tmp_path) == []


def test_neither_download_nor_content_may_be_larger_than_allowed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 256000 bytes; allowed: at most 1000"):
        fetch(server.url, tmp_path / "file", PIN, largest=1000)
    server.tells_length = False
    with pytest.raises(DataError, match="sends more than 100000 bytes"):
        fetch(server.url, tmp_path / "file", PIN, largest=100_000)
    server.content = gzip.compress(bytes(10_000_000))
    with pytest.raises(DataError, match="unpacks to more than 100000 bytes"):
        fetch(server.url + ".gz", tmp_path / "file", PIN, largest=100_000)
    assert left(tmp_path) == []


def test_not_found_says_how_to_bring_it_by_hand(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("/file", "/none.gz")
    with pytest.raises(DataError, match=f"answers 404 .*; bring {url} by hand, unpacked, as {tmp_path / 'file'}"):
        fetch(url, tmp_path / "file", PIN)
    assert left(tmp_path) == []


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"can't reach .*refused.*; check the network, or bring .* by hand") as e:
        fetch(f"http://127.0.0.1:{port}/file", tmp_path / "file", PIN)
    assert e.value.exit_code == 4


def test_a_server_that_falls_silent_is_given_up(server: Server, tmp_path: Path) -> None:
    server.breaks_after, server.stall = 50_000, threading.Event()
    with pytest.raises(UnreachableError, match=r"broke \(timed out\); run it again to go on"):
        fetch(server.url, tmp_path / "file", PIN, timeout=1.0)  # which is for the first byte, too
    server.stall.set()
    assert left(tmp_path) == ["file.part"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"can't write .*No space left.*; make room or choose another folder"):
        fetch(server.url, tmp_path / "file", PIN)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_while_unpacking_keeps_the_download(server: Server, tmp_path: Path) -> None:
    server.content = gzip.compress(BODY)
    (tmp_path / "file.new").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left"):
        fetch(server.url + ".gz", tmp_path / "file", PIN)
    assert left(tmp_path) == ["file.part"]
    fetch(server.url + ".gz", tmp_path / "file", PIN)
    assert server.sent == len(server.content)


def test_a_folder_that_is_none_and_other_schemes(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(DataError, match="can't write"):
        fetch("http://127.0.0.1:9/file", tmp_path / "plain" / "file", PIN)
    with pytest.raises(DataError, match="allowed: http and https"):
        fetch("file:///etc/hostname", tmp_path / "file", PIN)


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PRIVET_DATA", raising=False)
    assert data_folders("mnist") == [tmp_path / ".cache" / "privet" / "mnist"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("PRIVET_DATA", "/data")
    assert data_folders("mnist", "~/mine") == [
        tmp_path / "mine",
        Path("/data/mnist"),
        Path("/cache/privet/mnist"),
    ]
