"""Miners as processes: they agree, stand cuts and kills without a second block or vote, and let no stranger in."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from loopback_example import loopback

from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError, UnreachableError
from privet.ledger.encoding import decode, encode
from privet.ledger.founding import found, register
from privet.ledger.miner_folder import Consortium, Member, seed
from privet.ledger.service import Remote
from privet.ledger.transactions import Transaction
from privet.ledger.verification import verify
from privet.ledger.votes import Vote
from privet.transport.certificates import Authority
from privet.transport.grpc import GrpcClient
from privet.transport.identity import Identity

SCRIPT = Path(__file__).with_name("slain_miner.py")
HOME = bytes([7]) * 32


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


class Namespaces:
    """Each miner in a network namespace of its own: halves on two bridges with a link between, and a line to us."""

    def __init__(self, count):
        self.tag = f"pv{os.getpid() % 100_000}"
        self.net = f"10.{64 + os.getpid() % 128}"
        self.spaces = []
        self.switch = self._space("s")
        for side in "ab":
            self._in(self.switch, "link", "add", f"br{side}", "type", "bridge")
            self._in(self.switch, "link", "set", f"br{side}", "up")
        self._in(self.switch, "link", "add", "ab", "type", "veth", "peer", "name", "ba")
        for name, side in (("ab", "a"), ("ba", "b")):
            self._in(self.switch, "link", "set", name, "master", f"br{side}", "up")
        self.miners = [self._miner(at, count) for at in range(count)]

    def _space(self, name):
        space = f"{self.tag}{name}"
        ip("netns", "add", space)
        self.spaces.append(space)
        return space

    def _in(self, space, *words):
        ip("-n", space, *words)

    def _miner(self, at, count):
        space, port, ours = self._space(str(at)), f"m{at}", f"{self.tag}h{at}"
        self._in(self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._in(self.switch, "link", "set", port, "master", "bra" if at < count // 2 else "brb", "up")
        ip("link", "add", ours, "type", "veth", "peer", "name", "eth1", "netns", space)
        for device, address in (("eth0", f"{self.net}.0.{at + 1}/24"), ("eth1", f"{self.net}.{at + 1}.2/30")):
            self._in(space, "addr", "add", address, "dev", device)
        for device in ("lo", "eth0", "eth1"):
            self._in(space, "link", "set", device, "up")
        ip("addr", "add", f"{self.net}.{at + 1}.1/30", "dev", ours)
        ip("link", "set", ours, "up")
        return space

    def address(self, at):
        return f"{self.net}.0.{at + 1}:7700"

    def seen_by(self, at, other):
        return self.address(other)

    def listen(self, at):
        return "0.0.0.0:7700"

    def ours(self, at):
        return f"{self.net}.{at + 1}.2:7700"

    def command(self, at):
        return ["ip", "netns", "exec", self.miners[at]]

    def cut_halves(self):
        self._in(self.switch, "link", "set", "ab", "down")

    def cut_off(self, at):
        self._in(self.switch, "link", "set", f"m{at}", "down")

    def heal(self):
        for device in ("ab", *(f"m{at}" for at in range(len(self.miners)))):
            self._in(self.switch, "link", "set", device, "up")

    def close(self):
        for space in self.spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


class Relays:
    """Loopback only: each miner reaches each other through a relay of this process, which can hold everything back."""

    def __init__(self, count):
        first = loopback.free_ports()  # four at most
        self.count, self.ports = count, range(first, first + count)
        self.open, self.relays, self.loop = {}, {}, asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        for pair in [(at, other) for at in range(count) for other in range(count) if at != other]:
            asyncio.run_coroutine_threadsafe(self._relay(pair), self.loop).result(5)

    async def _relay(self, pair):
        gate = self.open[pair] = asyncio.Event()
        gate.set()

        async def pump(source, sink):
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while data := await source.read(1 << 16):
                    await gate.wait()
                    sink.write(data)
                    await sink.drain()
            sink.close()

        async def serve(source, sink):
            with contextlib.suppress(OSError):
                away, back = await asyncio.open_connection("127.0.0.1", self.ports[pair[1]])
                await asyncio.gather(pump(source, back), pump(away, sink))
            sink.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.relays[pair] = server

    def address(self, at):
        return f"127.0.0.1:{self.ports[at]}"

    ours = listen = address

    def seen_by(self, at, other):
        return f"127.0.0.1:{self.relays[at, other].sockets[0].getsockname()[1]}"

    def command(self, at):
        return []

    def cut(self, between):
        for pair, gate in self.open.items():
            if between(*pair):
                self.loop.call_soon_threadsafe(gate.clear)

    def cut_halves(self):
        self.cut(lambda at, other: (at < self.count // 2) != (other < self.count // 2))

    def cut_off(self, at):
        self.cut(lambda one, other: at in (one, other))

    def heal(self):
        for gate in self.open.values():
            self.loop.call_soon_threadsafe(gate.set)

    def close(self):
        async def end():
            for relay in self.relays.values():
                relay.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.05)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Miners:
    """A consortium of processes, and its manufacturer, who pays."""

    def __init__(self, folder, network, count=4, hidden=()):
        self.folder, self.network, self.nonce = folder, network, 0
        names = [f"m{at}" for at in range(count)]
        addresses = ["" if at in hidden else network.address(at) for at in range(count)]
        made = [register(folder / name, name, address) for name, address in zip(names, addresses, strict=True)]
        self.genesis = found(folder, made, "tests")
        self.places = [folder / name for name in names]
        for at, place in enumerate(self.places):
            self._see(at, place)
        maker = folder / "manufacturer"
        self.secret, self.identity = seed(maker / "signing.key"), Identity.load(maker)
        self.members = Consortium.load(maker).members
        self.remotes = [
            Remote(GrpcClient(network.ours(at), each.peer, self.identity)) if each.address else None
            for at, each in enumerate(self.members)
        ]
        self.processes = [None] * count

    def _see(self, at, place):
        """Writes into a miner's folder where it reaches the others."""
        known, own = Consortium.load(place), []
        for other, each in enumerate(known.members):
            there = self.network.seen_by(at, other) if other != at and each.address else each.address
            own.append(Member(each.peer, each.key, there))
        Consortium(known.genesis, tuple(own)).write(place)

    def start(self, at, *fatal):
        listen = self.network.listen(at) if self.members[at].address else ""
        arguments = [self.places[at], listen, self.places[at] / "votes", *fatal]
        command = [*self.network.command(at), sys.executable, str(SCRIPT), *map(str, arguments)]
        self.processes[at] = subprocess.Popen(command, stderr=subprocess.PIPE)

    def start_all(self):
        for at in range(len(self.places)):
            self.start(at)
        self.wait(lambda: all(self.height(at) >= 0 for at in self.shown()))

    def shown(self):
        return [at for at, remote in enumerate(self.remotes) if remote is not None]

    def status(self, at):
        try:
            return self.remotes[at].status()
        except UnreachableError:
            return {"height": -1, "waiting": 0, "stopped": "", "peers": {}}

    def height(self, at):
        return self.status(at)["height"]

    def wait(self, done, seconds=25):
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, [self.status(at) for at in self.shown()]
            time.sleep(0.05)

    def pay(self, at, count=1, amount=1):
        """Hands payments to one miner; the nonces go on."""
        batch = [
            Transaction.signed(self.secret, self.genesis.hash, self.nonce + each, "pay", {"to": HOME, "amount": amount})
            for each in range(count)
        ]
        self.nonce += count
        assert self.remotes[at].send(batch) == [""] * count

    def blocks(self, at):
        return [self.remotes[at].final(height).block for height in range(1, self.height(at) + 1)]

    def paid(self, at):
        return sum(len(block.transactions) for block in self.blocks(at))

    def grow(self, by=1, among=None):
        """Waits until some miners are further than any was."""
        among = self.shown() if among is None else among
        goal = max(self.height(at) for at in self.shown()) + by
        self.wait(lambda: min(self.height(at) for at in among) >= goal)

    def rest(self, among):
        """Waits until the heights of some miners stay the same for a second, and returns them."""
        heights, since = None, 0.0

        def still():
            nonlocal heights, since
            now = [self.height(at) for at in among]
            if now != heights:
                heights, since = now, time.monotonic()
            return time.monotonic() - since > 1

        self.wait(still)
        return heights

    def one_chain(self):
        """Stops all; returns their only chain as hashes, each verified from its genesis."""
        for process in self.processes:
            process.terminate()
        assert [process.wait(10) for process in self.processes] == [0] * len(self.processes), self.complaints()
        assert all(verify(place).first_wrong is None for place in self.places)
        chains = [hashes(place) for place in self.places]
        longest = max(chains, key=len)
        assert all(chain == longest[: len(chain)] for chain in chains)
        return longest

    def votes(self):
        lines = [line for place in self.places if (place / "votes").exists() for line in open_lines(place / "votes")]
        return [Vote.decode(bytes.fromhex(line)) for line in lines]

    def complaints(self):
        return [process.stderr.read().decode() for process in self.processes]

    def close(self):
        for remote in self.remotes:
            if remote is not None:
                remote.client.close()
        for process in self.processes:
            if process is not None:
                process.kill()
                process.wait()
                process.stderr.close()


def open_lines(path):
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()  # a killed miner may leave half a line


def hashes(place):
    import sqlite3

    from privet.ledger.blocks import Block

    file = sqlite3.connect(place / "ledger" / "chain.sqlite")
    with contextlib.closing(file):
        rows = file.execute("SELECT block FROM blocks WHERE height > 0 ORDER BY height").fetchall()
    return [Block.decode(row[0]).header.hash for row in rows]


@pytest.fixture(params=[Namespaces, Relays])
def network(request):
    with network_of(request.param, 4) as made:
        yield made


@contextlib.contextmanager
def network_of(kind, count):
    if kind is Namespaces and (os.geteuid() or not shutil.which("ip")):
        pytest.skip("network namespaces need root and ip")
    made = kind.__new__(kind)
    try:
        made.__init__(count)
    except subprocess.CalledProcessError as error:
        made.close()
        pytest.skip(f"network namespaces are not permitted here: {error.stderr!r}")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def miners(tmp_path, network):
    made = Miners(tmp_path, network)
    yield made
    made.close()


def test_cut_in_halves_nothing_is_final_and_healed_they_go_on_with_one_chain(miners):
    miners.start_all()
    miners.pay(0, 20)
    miners.wait(lambda: all(miners.paid(at) == 20 for at in range(4)))
    miners.network.cut_halves()
    before = miners.rest(range(4))  # what was under way has come to its end
    miners.pay(0, amount=1)
    miners.nonce -= 1
    miners.pay(3, amount=2)  # the same nonce, on the other side
    time.sleep(2.5)
    assert [miners.height(at) for at in range(4)] == before
    miners.network.heal()
    miners.wait(lambda: all(miners.paid(at) == 21 for at in range(4)))
    miners.network.cut_off(3)
    alone = miners.rest([3])
    miners.pay(1, 5)
    miners.wait(lambda: all(miners.paid(at) == 26 for at in range(3)))
    assert [miners.height(3)] == alone
    miners.network.heal()
    miners.wait(lambda: miners.paid(3) == 26)
    assert not any(miners.status(at)["stopped"] for at in range(4))
    assert len(miners.one_chain()) > max(before)


@pytest.fixture
def plain(tmp_path):
    """Four miners on loopback without anything between them."""
    with network_of(Relays, 4) as made:
        made.seen_by = lambda at, other: made.address(other)
        miners = Miners(tmp_path, made)
        yield miners
        miners.close()


def test_killed_at_each_point_of_writing_no_miner_ever_signs_the_contrary(plain):
    for at in (1, 2, 3):
        plain.start(at)
    killed = 0
    for point in range(1, 7):
        for when in ("before", "after"):
            plain.start(0, point, when)
            killed += plain.processes[0].wait(20) == -9
            plain.processes[0].stderr.close()
    assert killed == 12
    plain.start(0)
    plain.wait(lambda: plain.height(0) >= 0)
    plain.pay(0, 5)
    plain.wait(lambda: all(plain.paid(at) == 5 for at in range(4)))
    plain.grow(2)
    assert not any(plain.status(at)["stopped"] for at in range(4))
    votes = plain.votes()
    own = [vote for vote in votes if vote.voter == plain.members[0].key]
    assert len({vote.height for vote in own}) > 4
    said = {}
    for vote in votes:
        said.setdefault((vote.voter, vote.height, vote.period, vote.step), set()).add(vote.block)
    assert all(len(blocks) == 1 for blocks in said.values())
    assert len(plain.one_chain()) > 4


def test_miners_that_nobody_can_connect_to_take_part(tmp_path):
    """Two of four only connect outwards; with a third one gone, their votes are needed and pass through the fourth."""
    with network_of(Relays, 4) as made:
        made.seen_by = lambda at, other: made.address(other)
        miners = Miners(tmp_path, made, hidden=(2, 3))
        try:
            miners.start_all()
            miners.pay(0, 5)
            miners.wait(lambda: all(miners.paid(at) == 5 for at in (0, 1)))
            miners.wait(lambda: all(miners.status(0)["peers"].values()))
            miners.processes[1].kill()
            miners.processes[1].wait()
            before = miners.height(0)
            miners.wait(lambda: miners.height(0) >= before + 2)
            miners.processes[1].stderr.close()
            miners.start(1)
            miners.wait(lambda: miners.height(1) >= before + 2)
            assert len(miners.one_chain()) >= before + 2
        finally:
            miners.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One miner that runs, for strangers to knock at."""
    folder = tmp_path_factory.mktemp("single")
    with network_of(Relays, 1) as made:
        miners = Miners(folder, made, 1)
        miners.start_all()
        yield miners
        miners.close()


def ask(single, identity, method="status", body=b"", **options):
    client = GrpcClient(single.members[0].address, single.members[0].peer, identity, **options)
    try:
        return client.call(method, body, 5)
    finally:
        client.close()


def issued(single, name, days=30, authority=None):
    own = authority or Authority.load(single.folder / "authority")
    key, certificate = own.issue(name, days=days)
    return Identity(key, certificate, single.identity.authority)


def test_strangers_are_not_let_in(single):
    stranger = Authority.create("tests")
    with pytest.raises(RefusedError, match="another authority"):
        ask(single, issued(single, "miner/m0", authority=stranger))
    with pytest.raises(UnreachableError):
        ask(single, issued(single, "miner/m0", days=-1))
    for role in ("miner/other", "miner/m1"):
        with pytest.raises(RefusedError, match="let this certificate in"):
            ask(single, issued(single, role))
    with grpc.insecure_channel(single.members[0].address) as bare, pytest.raises(grpc.RpcError):
        bare.unary_unary("/privet/status")(b"", timeout=3)
    anonymous = grpc.ssl_channel_credentials(single.identity.authority)
    name = [("grpc.ssl_target_name_override", "m0.miner.privet.internal")]
    with grpc.secure_channel(single.members[0].address, anonymous, name) as bare, pytest.raises(grpc.RpcError):
        bare.unary_unary("/privet/status")(b"", timeout=3)
    host, port = single.members[0].address.split(":")
    with contextlib.ExitStack() as idle:  # who connects and says nothing keeps nobody out
        for _ in range(100):
            idle.enter_context(socket.create_connection((host, int(port)))).send(b"\x16")
        assert ask(single, issued(single, "customer/home-1"))


def test_a_server_of_another_name_or_authority_is_not_talked_to(single):
    other = Identity(single.identity.key, single.identity.certificate, Authority.create("tests").certificate)
    with pytest.raises(RefusedError):
        ask(single, other)
    client = GrpcClient(single.members[0].address, type(single.members[0].peer)("miner", "m1"), single.identity)
    with contextlib.closing(client), pytest.raises(RefusedError):
        client.call("status", b"", 3)


def test_wrong_messages_are_refused_and_harm_nobody(single):
    with pytest.raises(InputError, match="oversize"):
        ask(single, single.identity, "transaction", bytes(5 << 20))
    with pytest.raises(UnreachableError, match="oversize"):
        ask(single, single.identity, "transaction", bytes(12 << 20), limit=20 << 20)
    miner = Identity.load(single.places[0])
    for method, body in (
        ("message", b"\x9f"),
        ("message", encode([])),
        ("message", encode([b"junk"])),
        ("message", encode([encode(["vote", {}])])),
        ("final", encode({"height": -1})),
        ("content", encode({"profile": "../..", "cid": bytes(36), "offset": 0})),
        ("bring", encode({"profile": "unixfs-v0-2015"})),
        ("snapshot", b""),
        ("nothing", b""),
    ):
        with pytest.raises(InputError):
            ask(single, miner, method, body)
    with pytest.raises(RefusedError, match="no miner"):
        ask(single, single.identity, "message", encode([b""]))
    told = decode(ask(single, single.identity, "transaction", encode([b"junk", b""])))
    assert len(told) == 2
    assert all(told)
    paid = Transaction.signed(os.urandom(32), single.genesis.hash, 0, "pay", {"to": HOME, "amount": 1})
    twice = single.remotes[0].send([paid, paid])
    assert twice == ["", ""]  # taken into the pool; the chain will not take it: nothing to pay with
    before = single.height(0)
    single.pay(0)
    single.wait(lambda: single.paid(0) == 1)
    assert single.height(0) > before
    assert public_key(single.secret) in {each.sender for block in single.blocks(0) for each in block.transactions}


def test_a_content_is_brought_in_pieces_and_handed_out_in_pieces(single, tmp_path):
    import io

    from privet.ledger.content import DEFAULT, decode_cid
    from privet.ledger.exchange import upload
    from privet.transport.pieces import download

    path = tmp_path / "content"
    path.write_bytes(os.urandom(5 << 20))
    client = single.remotes[0].client
    address = upload(client, path, DEFAULT)
    assert upload(client, path, DEFAULT) == address
    back, named = io.BytesIO(), {"profile": DEFAULT, "cid": decode_cid(address)}

    def request(offset):
        return encode({**named, "offset": offset})

    download(client, "content", request, back, limit=6 << 20, timeout=5)
    assert back.getvalue() == path.read_bytes()
    rest = io.BytesIO(path.read_bytes()[: 3 << 20])
    assert download(client, "content", request, rest, limit=6 << 20, timeout=5) == 5 << 20
    assert rest.getvalue() == path.read_bytes()
    with pytest.raises(InputError, match="offers"):
        download(client, "content", request, io.BytesIO(), limit=1 << 20, timeout=5)


def test_a_second_process_of_one_miner_is_refused(single):
    done = subprocess.run(
        [Path(sys.executable).with_name("privet"), "miner", str(single.places[0])],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "another process runs" in done.stderr
    assert len(done.stderr.splitlines()) == 1
