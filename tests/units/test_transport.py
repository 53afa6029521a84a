"""The transport: the same calls in this process and over gRPC; what is too long, late or unknown is refused alike."""

import io
import logging
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest

from privet.errors import InputError, RefusedError, UnreachableError
from privet.transport.certificates import Authority
from privet.transport.contract import Peer, answer, hung_up, opened
from privet.transport.grpc import GrpcClient, Listener, Server
from privet.transport.identity import CERTIFICATE_FILE, KEY_FILE, Identity
from privet.transport.key_files import write_secret
from privet.transport.memory import Exchange
from privet.transport.pieces import download, piece

AUTHORITY = Authority.create("tests")
A, B, C = Peer("miner", "a"), Peer("miner", "b"), Peer("miner", "c")
LIMIT = 1 << 20


def identity(peer, hosts=(), days=30):
    key, certificate = AUTHORITY.issue(str(peer), hosts, days)
    return Identity(key, certificate, AUTHORITY.certificate)


def fail(error):
    raise error


SERVICE = {
    "echo": lambda peer, body: body,
    "who": lambda peer, body: str(peer).encode(),
    "wrong": lambda peer, body: fail(InputError("wrong\n\x1b[31mred")),
    "no": lambda peer, body: fail(RefusedError("not you")),
    "gone": lambda peer, body: fail(UnreachableError("further on")),
    "broken": lambda peer, body: fail(KeyError("secret detail")),
    "long": lambda peer, body: bytes(LIMIT + 1),
    "slow": lambda peer, body: time.sleep(0.5) or b"",
}


def wait_for(found, seconds=5):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


@pytest.fixture
def server():
    made = Server(
        "127.0.0.1:0", identity(A, ["127.0.0.1"]), SERVICE, admit=lambda peer: peer != C, limit=LIMIT, listeners=1
    )
    yield made
    made.close()


def dial(server, own=B, peer=A, **options):
    return GrpcClient(f"127.0.0.1:{server.port}", peer, identity(own), **{"limit": LIMIT, **options})


@pytest.fixture(params=["memory", "grpc", "called back"])
def client(request, server):
    if request.param == "memory":
        exchange = Exchange()
        exchange.services[A] = SERVICE
        yield exchange.client(B, A, LIMIT)
        return
    made = dial(server)
    if request.param == "grpc":
        yield made
    else:
        listener = Listener(made, SERVICE)
        yield wait_for(lambda: server.client(B))
        listener.close()
    made.close()


def test_a_call_is_answered_and_each_end_knows_the_other(client, request):
    assert client.call("echo", b"\x00body", 5) == b"\x00body"
    assert client.call("echo", b"", 5) == b""
    caller = A if "called" in request.node.name else B
    assert client.call("who", b"", 5) == str(caller).encode()
    assert client.call("echo", bytes(LIMIT), 5) == bytes(LIMIT)


def test_what_the_other_end_raises_arrives_as_its_kind_in_one_clean_line(client, caplog):
    with pytest.raises(InputError, match="wrong") as wrong:
        client.call("wrong", b"", 5)
    assert "\x1b" not in str(wrong.value)
    with pytest.raises(RefusedError, match="not you"):
        client.call("no", b"", 5)
    with pytest.raises(UnreachableError, match="further on"):
        client.call("gone", b"", 5)
    with caplog.at_level(logging.ERROR), pytest.raises(UnreachableError, match="failed") as broken:
        client.call("broken", b"", 5)
    assert "secret" not in str(broken.value)
    assert "secret detail" in caplog.text
    with pytest.raises(InputError, match="no method"):
        client.call("nothing", b"", 5)


def test_what_is_too_long_is_not_sent_and_not_taken(client):
    with pytest.raises(InputError, match="oversize"):
        client.call("echo", bytes(LIMIT + 1), 5)
    with pytest.raises((InputError, UnreachableError), match="oversize"):
        client.call("long", b"", 5)
    assert client.call("echo", b"still here", 5) == b"still here"


def test_replies_of_no_known_kind_are_failures():
    for reply in (b"", b"\x07", b"\xff\xff"):
        with pytest.raises(UnreachableError):
            opened(A, reply)
    assert opened(A, answer(SERVICE, B, "echo", b"x")) == b"x"


def test_peers_are_written_as_role_and_name():
    assert str(Peer.of("miner/a")) == "miner/a"
    assert Peer.of("miner/a") == A
    with pytest.raises(InputError):
        Peer.of("miner")


def test_nobody_there_or_cut_off_or_closed_in_memory():
    exchange = Exchange()
    client = exchange.client(B, A)
    with pytest.raises(UnreachableError):
        client.call("echo", b"", 1)
    exchange.services[A] = SERVICE
    exchange.cut.add(frozenset((A, B)))
    with pytest.raises(UnreachableError):
        client.call("echo", b"", 1)
    exchange.cut.clear()
    assert client.call("echo", b"x", 1) == b"x"
    client.close()
    with pytest.raises(RefusedError, match="closed"):
        client.call("echo", b"", 1)


def test_nobody_there_or_too_late_over_the_network(server):
    client = dial(server)
    with pytest.raises(UnreachableError, match="in time"):
        client.call("slow", b"", 0.1)
    client.close()
    with pytest.raises(RefusedError, match="closed"):
        client.call("echo", b"", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = GrpcClient(f"127.0.0.1:{taken.getsockname()[1]}", A, identity(B))
        with pytest.raises(UnreachableError, match="unreachable"):
            nobody.call("echo", b"", 5)
        nobody.close()


def test_a_port_that_is_taken_is_one_line(server):
    with pytest.raises(InputError, match="can't listen"):
        Server(f"127.0.0.1:{server.port}", identity(A, ["127.0.0.1"]), {}, admit=lambda peer: True)


def test_who_is_not_admitted_is_refused(server):
    client = dial(server, own=C)
    with pytest.raises(RefusedError, match="let this certificate in"):
        client.call("echo", b"", 5)
    client.close()


def test_a_peer_is_known_by_its_name_not_by_its_address(server):
    client = dial(server, peer=C)
    with pytest.raises(RefusedError, match="did not prove who it is"):
        client.call("echo", b"", 3)
    client.close()


def test_a_certificate_or_a_server_of_another_authority_is_refused_at_once(server):
    own, others = identity(B), Authority.create("tests")
    key, certificate = others.issue(str(B))
    for shown, says in (
        (Identity(key, certificate, own.authority), "does not let this certificate in: it is of another authority"),
        (Identity(own.key, own.certificate, others.certificate), "did not prove who it is"),
    ):
        client = GrpcClient(f"127.0.0.1:{server.port}", A, shown)
        with pytest.raises(RefusedError, match=says):
            client.call("echo", b"", 5)
        client.close()


def test_a_server_that_hangs_up_on_a_certificate_in_order_may_be_stopping():
    own, others = identity(B), Authority.create("tests")
    both = others.certificate + own.authority
    for certificate, authority in ((own.certificate, own.authority), (own.certificate, both), (b"", own.authority)):
        found = hung_up("there", certificate, authority)
        assert isinstance(found, UnreachableError)
        assert "may not know this certificate's authority" in str(found)
    assert isinstance(hung_up("there", own.certificate, others.certificate), RefusedError)


def test_more_calls_than_allowed_are_turned_away():
    begun, gate = threading.Event(), threading.Event()
    service = {"wait": lambda peer, body: begun.set() or (b"" if gate.wait(30) else b"late")}
    server = Server("127.0.0.1:0", identity(A, ["127.0.0.1"]), service, admit=lambda peer: True, calls=1)
    client, other = dial(server), dial(server)
    first = threading.Thread(target=lambda: client.call("wait", b"", 30))
    first.start()
    try:
        assert begun.wait(10)
        with pytest.raises(UnreachableError, match="busy"):
            other.call("wait", b"", 5)
    finally:
        gate.set()
        first.join()
        client.close()
        other.close()
        server.close()


def test_a_certificate_that_names_nobody_is_not_let_in(server, monkeypatch):
    monkeypatch.setattr("privet.transport.grpc._name_in", lambda certificate: fail(InputError("names nobody")))
    client = dial(server)
    with pytest.raises(RefusedError, match="let this certificate in"):
        client.call("echo", b"", 5)
    client.close()


def test_what_is_not_ours_is_not_answered(server):
    own = identity(B)
    name = [("grpc.ssl_target_name_override", "a.miner.privet.internal")]
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, name) as bare:
        with pytest.raises(grpc.RpcError) as error:
            bare.unary_unary("/grpc.reflection/list")(b"", timeout=5)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


TLS = """
import socket, ssl, sys
from privet.transport.certificates import Authority
from privet.transport.grpc import Server
from privet.transport.identity import Identity

authority, folder = Authority.create("tests"), sys.argv[1]
key, certificate = authority.issue("miner/a", ["127.0.0.1"])
server = Server("127.0.0.1:0", Identity(key, certificate, authority.certificate), {}, admit=lambda peer: True)
for name, data in (("key", key), ("certificate", certificate), ("authority", authority.certificate)):
    open(f"{folder}/{name}", "wb").write(data)
for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
    context = ssl.create_default_context(cafile=f"{folder}/authority")
    context.load_cert_chain(f"{folder}/certificate", f"{folder}/key")
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as bare:
            with context.wrap_socket(bare, server_hostname="a.miner.privet.internal") as secured:
                print(secured.version())
    except (ssl.SSLError, ConnectionError):
        print("refused")
server.close()
"""


def test_tls_is_1_3_or_nothing(tmp_path):
    """In a process of its own: this one may have loaded gRPC before our settings."""
    done = subprocess.run([sys.executable, "-c", TLS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["TLSv1.3", "refused"]


def test_a_listener_comes_back_after_its_connection_is_lost_and_only_so_many_are_taken(server):
    client, other = dial(server), dial(server, own=Peer("miner", "d"))
    listener = Listener(client, SERVICE, again=0.05)
    first = wait_for(lambda: server.client(B))
    second = Listener(other, SERVICE, again=0.05)
    time.sleep(0.2)
    assert server.client(Peer("miner", "d")) is None
    second.close()
    first.close()
    with pytest.raises(UnreachableError, match="closed"):
        first.call("echo", b"", 1)
    again = wait_for(lambda: (found := server.client(B)) is not first and found)
    assert again.call("echo", b"x", 5) == b"x"
    with pytest.raises(UnreachableError, match="within"):
        again.call("slow", b"", 0.1)
    third = Listener(client, SERVICE, again=10)  # the same peer anew takes the place of its old connection
    wait_for(lambda: server.client(B) not in (None, again))
    for each in (listener, third):
        each.close()
    wait_for(lambda: server.client(B) is None)
    client.close()
    other.close()


def test_a_listener_that_is_closed_while_it_connects_leaves_no_connection(server):
    client, listeners = dial(server), []

    class Late:
        peer = client.peer

        def stream(self, frames):
            wait_for(lambda: listeners)
            threading.Thread(target=listeners[0].close).start()
            wait_for(listeners[0]._closed.is_set)
            time.sleep(0.05)  # what closes it has seen that there is no call yet
            return client.stream(frames)

    listeners.append(Listener(Late(), SERVICE))
    listeners[0]._thread.join(4)
    assert not listeners[0]._thread.is_alive()
    client.close()


def test_who_waits_for_a_listener_that_goes_is_told(server):
    client = dial(server)
    listener = Listener(client, SERVICE)
    way, said = wait_for(lambda: server.client(B)), []

    def call():
        try:
            way.call("slow", b"", 5)
        except UnreachableError as error:
            said.append(str(error))

    waiting = threading.Thread(target=call)
    waiting.start()
    time.sleep(0.1)
    way.close()
    waiting.join(3)
    listener.close()
    client.close()
    assert "closed" in said[0]


class Pieces:
    def __init__(self, *replies):
        self.replies = list(replies)

    def call(self, method, body, timeout):
        return self.replies.pop(0)

    def close(self):
        pass


def test_pieces_make_the_whole_from_any_offset():
    data = bytes(range(250)) * 3

    class Whole(Pieces):
        def call(self, method, body, timeout):
            return piece(io.BytesIO(data), int(body), 100)

    for begun in (0, 99, 100, 700, 750):
        into = io.BytesIO(data[:begun])
        assert download(Whole(), "get", lambda at: b"%d" % at, into, limit=750, timeout=1) == 750
        assert into.getvalue() == data
    with pytest.raises(InputError, match="offset"):
        piece(io.BytesIO(data), 751)
    empty = io.BytesIO()
    nothing = Pieces((0).to_bytes(8, "big"))
    assert download(nothing, "get", lambda at: b"", empty, limit=10, timeout=1) == 0


@pytest.mark.parametrize(
    "replies",
    [
        [b""],
        [b"\0" * 7],
        [(4).to_bytes(8, "big") + b"12345"],
        [(4).to_bytes(8, "big")],
        [(4).to_bytes(8, "big") + b"12", (5).to_bytes(8, "big") + b"345"],
    ],
)
def test_pieces_that_do_not_fit_are_noticed(replies):
    with pytest.raises(UnreachableError, match="fit"):
        download(Pieces(*replies), "get", lambda at: b"", io.BytesIO(), limit=10, timeout=1)


def test_what_is_longer_than_wanted_is_not_taken():
    with pytest.raises(InputError, match="offers 11 bytes"):
        download(Pieces((11).to_bytes(8, "big") + b"1"), "get", lambda at: b"", io.BytesIO(), limit=10, timeout=1)


def test_an_identity_is_read_from_a_folder_and_refused_when_it_is_not_in_order(tmp_path):
    own = identity(B)
    with pytest.raises(InputError, match="missing"):
        Identity.load(tmp_path)
    (tmp_path / "authority.pem").write_bytes(own.authority)
    (tmp_path / CERTIFICATE_FILE).write_bytes(own.certificate)
    with pytest.raises(InputError, match="missing"):
        Identity.load(tmp_path)
    write_secret(tmp_path / KEY_FILE, own.key)
    assert Identity.load(tmp_path) == own
    assert Identity.load(tmp_path).peer == B
    assert "PRIVATE" not in repr(own)
    (tmp_path / CERTIFICATE_FILE).write_bytes(identity(B, days=-1).certificate)
    with pytest.raises(RefusedError, match="expired"):
        Identity.load(tmp_path)
