"""Contents in an IPFS node that nobody trusts: a server here plays the node, also a lying and a slow one."""

from __future__ import annotations

import json
import threading
import time
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from privet.errors import ContentError, InputError, UnreachableError
from privet.ledger.content import PROFILES, cid_of
from privet.ledger.kubo import KuboStore


class Handler(BaseHTTPRequestHandler):
    """Keeps files by address; ``server.faults`` has what to do otherwise, by call."""

    def do_POST(self):
        parts = urlsplit(self.path)
        call, options = parts.path.removeprefix("/api/v0/"), {k: v[0] for k, v in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((call, options))
        fault = self.server.faults.get(call)
        if fault is not None:
            fault(self)
        elif call == "add":
            form = message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + body)
            data = form.get_payload()[0].get_payload(decode=True)
            shape = next(p for p in PROFILES.values() if options["chunker"] == f"size-{p.chunk}")
            cid = cid_of(data, shape.name)
            self.server.kept[cid] = data
            self.answer(200, json.dumps({"Name": "content", "Hash": cid, "Size": str(len(data))}).encode() + b"\n")
        elif options["arg"] not in self.server.kept:
            self.answer(500, b'{"Message": "block was not\\n found locally", "Code": 0, "Type": "error"}')
        else:
            data = self.server.kept[options["arg"]]
            self.answer(200, data[: int(options["length"])] if call == "cat" else b"{}")

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def node():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.kept, server.faults, server.asked = {}, {}, []
    server.api = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [0, 1, 262_145, 3_000_000])
def test_contents_go_to_the_node_and_come_back(node, profile, size, tmp_path):
    store, data = KuboStore(node.api + "/", profile), bytes(range(256)) * (size // 256) + bytes(size % 256)
    cid = store.put(data)
    assert cid == cid_of(data, profile)
    assert store.has(cid)
    assert store.get(cid) == data
    (tmp_path / "file").write_bytes(data)
    assert store.put_file(tmp_path / "file") == cid
    call, options = node.asked[0]
    assert (call, options["cid-version"], options["raw-leaves"], options["pin"]) == ("add", "1", "true", "true")
    assert (options["chunker"], options["max-file-links"]) == (
        f"size-{PROFILES[profile].chunk}",
        str(PROFILES[profile].links),
    )


def test_what_the_node_has_not_is_said(node):
    store, cid = KuboStore(node.api), cid_of(b"elsewhere")
    assert not store.has(cid)
    assert node.asked[-1] == ("block/stat", {"arg": cid, "offline": "true"})
    with pytest.raises(ContentError, match="block was not found locally; bring it"):
        store.get(cid)
    node.faults["cat"] = lambda request: request.answer(404, b"no such page")
    with pytest.raises(ContentError, match="HTTP status 404"):
        store.get(cid)


def test_what_is_no_address_is_never_asked_for(node, tmp_path):
    for call in (KuboStore(node.api).get, KuboStore(node.api).has):
        with pytest.raises(ContentError, match="is not an address"):
            call("../../api/v0/shutdown")
    with pytest.raises(ContentError, match="is not a file"):
        KuboStore(node.api).put_file(tmp_path)
    assert node.asked == []


def test_a_node_that_gives_something_else_is_not_believed(node):
    store, data = KuboStore(node.api, largest=1000), b"content" * 10
    cid = store.put(data)
    for wrong in (data[:-1], b"", b"other", data + b"x"):
        node.faults["cat"] = lambda request, wrong=wrong: request.answer(200, wrong)
        with pytest.raises(ContentError, match="is something else"):
            store.get(cid)
    node.faults["cat"] = lambda request: request.answer(200, bytes(1001))
    with pytest.raises(ContentError, match="sends more than 1000 bytes"):
        store.get(cid)


def test_a_node_that_stores_something_else_is_not_believed(node):
    store = KuboStore(node.api)
    node.faults["add"] = lambda request: request.answer(200, json.dumps({"Hash": cid_of(b"other")}).encode())
    with pytest.raises(ContentError, match=r"calls the content .*, not .*newer node"):
        store.put(b"content")
    for wrong in (b"", b"<html>", b"[]", b"{}"):
        node.faults["add"] = lambda request, wrong=wrong: request.answer(200, wrong)
        with pytest.raises(ContentError, match="does not answer as an IPFS node"):
            store.put(b"content")
    node.faults["add"] = lambda request: request.answer(500, b'{"Message": "disk full"}')
    with pytest.raises(ContentError, match="stores nothing: disk full"):
        store.put(b"content")
    node.faults["add"] = lambda request: request.answer(403, bytes(1 << 17))
    with pytest.raises(ContentError, match="sends more than 65536 bytes"):
        store.put(b"content")


def test_an_endless_answer_ends(node):
    def endless(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(1 << 10):
            request.wfile.write(bytes(1 << 12))

    node.faults["cat"] = endless
    with pytest.raises(ContentError, match="sends more than 100000 bytes"):
        KuboStore(node.api, largest=100_000).get(cid_of(b"content"))


def test_a_slow_node_and_a_silent_one_are_left(node):
    def slowly(request):
        request.send_response(200)
        request.end_headers()
        for _ in range(20):
            request.wfile.write(b"x")
            time.sleep(0.02)

    def silently(request):
        time.sleep(0.3)

    store = KuboStore(node.api, patience=0.1)
    for fault in (slowly, silently):
        node.faults["cat"] = fault
        with pytest.raises(UnreachableError, match="does not answer") as caught:
            store.get(cid_of(b"content"))
        assert caught.value.exit_code == 4


def test_a_node_that_is_away_is_exit_status_4(node):
    node.faults["add"] = lambda request: request.wfile.write(b"no http\r\n\r\n")
    with pytest.raises(UnreachableError, match="does not answer"):
        KuboStore(node.api).put(b"content")
    nobody = KuboStore("http://127.0.0.1:1")
    for call in (lambda: nobody.put(b"x"), lambda: nobody.get(cid_of(b"x")), lambda: nobody.has(cid_of(b"x"))):
        with pytest.raises(UnreachableError, match=r"127.0.0.1:1 does not answer: .*refused; start it"):
            call()


@pytest.mark.parametrize(
    "api", ["", "127.0.0.1:5001", "ftp://127.0.0.1", "http://", "http://x/api/v0", "http://x?y", "http://x:port"]
)
def test_what_is_no_address_of_a_node_is_refused(api):
    with pytest.raises(InputError, match="is no address of an IPFS node"):
        KuboStore(api)


def test_a_node_behind_tls_is_asked_with_tls(node):
    with pytest.raises(UnreachableError, match="SSL"):
        KuboStore(node.api.replace("http:", "https:")).has(cid_of(b"x"))
    with pytest.raises(ContentError, match="no profile"):
        KuboStore(profile="other")
