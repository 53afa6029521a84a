"""A miner at work in this process: contents are fetched before it votes, others are told, and wrong folders refused."""

import contextlib
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from privet.aggregation.exact import quantise, to_bytes
from privet.crypto.signatures import public_key
from privet.errors import ContentError, InputError, RefusedError, RunError, UnreachableError
from privet.ledger import exchange as exchanges
from privet.ledger.catch_up import catch_up
from privet.ledger.chain import Chain
from privet.ledger.consensus import Tempo
from privet.ledger.content import DEFAULT, cid_of, decode_cid, encode_cid
from privet.ledger.data_keys import DataKeys
from privet.ledger.encoding import encode
from privet.ledger.exchange import Exchange, upload
from privet.ledger.folder_store import FolderStore
from privet.ledger.founding import REGISTRATION_FILE, Registration, found, register
from privet.ledger.links import Links
from privet.ledger.messages import Look
from privet.ledger.miner import Network, mine
from privet.ledger.miner_folder import Consortium, MinerFolder, seed
from privet.ledger.node import Node, NoDuty
from privet.ledger.service import Remote, service
from privet.ledger.sign_state import DurableFile
from privet.ledger.transactions import Transaction, admit, binding
from privet.ledger.verification import verify
from privet.ledger.votes import Vote
from privet.study.mining import Duty
from privet.transport.contract import Peer
from privet.transport.memory import Exchange as Room

TEMPO = Tempo(begin=150)
MAKER = Peer("manufacturer", "manufacturer")


def founded(folder, count=4, address="127.0.0.1:1"):
    return found(folder, [register(folder / f"m{at}", f"m{at}", address) for at in range(count)], "tests")


class Running:
    """Miners in threads of this process, which find each other in a room."""

    def __init__(self, folder, duty=lambda folder, chain, contents: NoDuty(contents)):
        self.folder, self.room, self.nodes, self.errors = folder, Room(), {}, []
        self.members = Consortium.load(folder / "manufacturer").members
        self.secret, self.duty = seed(folder / "manufacturer" / "signing.key"), duty
        self.threads = {}

    def start(self, *names):
        for name in names or [each.peer.name for each in self.members]:
            ready = threading.Event()
            self.threads[name] = threading.Thread(target=self._run, args=(name, ready))
            self.threads[name].start()
            assert ready.wait(10)

    def _run(self, name, ready):
        folder = MinerFolder.load(self.folder / name)
        peers = {each.key: each.peer for each in self.members if each.peer != folder.own.peer}
        links = Links(peers, lambda peer: self.room.client(folder.own.peer, peer, 10 << 20), timeout=1)
        chain = Chain(folder.path)
        node = self.nodes[name] = Node(
            chain,
            folder.secret,
            folder.vrf_secret,
            DurableFile(folder.path / "sign-state"),
            links,
            duty=lambda chain, contents: self.duty(folder, chain, contents),
            tempo=TEMPO,
        )
        self.room.services[folder.own.peer] = service(node, folder.own.peer)
        ready.set()
        try:
            node.run()
        except Exception as error:
            self.errors.append(error)
        del self.room.services[folder.own.peer]
        node.close()

    def remote(self, name, caller=MAKER):
        return Remote(self.room.client(caller, Peer("miner", name), 10 << 20))

    def pay(self, nonce, amount=1):
        genesis = Consortium.load(self.folder / "manufacturer").genesis
        return Transaction.signed(self.secret, genesis, nonce, "pay", {"to": bytes(32), "amount": amount})

    def wait(self, done, seconds=15):
        end = time.monotonic() + seconds
        while not done():
            assert not self.errors
            assert time.monotonic() < end, [node.chain.state.height for node in self.nodes.values()]
            time.sleep(0.01)

    def paid(self, nonce):
        return all(node.chain.state.nonce(public_key(self.secret)) == nonce for node in self.nodes.values())

    def stop(self):
        for node in self.nodes.values():
            node.stop()
        for thread in self.threads.values():
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def miners(tmp_path):
    founded(tmp_path)
    made = Running(tmp_path)
    yield made
    made.stop()


def task(content, **changed):
    return {
        "model": decode_cid(cid_of(content)),
        "profile": DEFAULT,
        "digest": hashlib.sha256(content).digest(),
        "rule": "mean",
        "rounds": 1,
        "places": 3,
        "window": 5,
        "max_bytes": 1000,
        **changed,
    }


def test_they_agree_on_what_one_was_given_and_tell_how_they_are(miners):
    miners.start()
    assert miners.remote("m0").send([miners.pay(0), miners.pay(1), miners.pay(1, 2)])[2].startswith("another")
    miners.wait(lambda: miners.paid(2))
    told = {}

    def settled():  # a nonce is final before the pool drops the payment, and before the slowest has got every message
        told.update(miners.remote("m1").status())
        return told["waiting"] == 0 and all(told["peers"].values())

    miners.wait(settled)
    assert (told["name"], told["stopped"]) == ("miner/m1", "")
    assert sorted(told["peers"]) == ["miner/m0", "miner/m2", "miner/m3"]
    height = told["height"]
    account = miners.remote("m1").account(public_key(miners.secret))
    assert account == {"nonce": 2, "due": 2, "balance": (1 << 40) - 2}
    assert miners.remote("m2").final(1).block.header.height == 1
    assert miners.remote("m2").final(height + 1000) is None
    assert miners.remote("m2").snapshot(1000, 0) == b""
    # An idle chain grows slowly, and a payment ends its rest.
    miners.wait(lambda: miners.remote("m1").status()["height"] > height)
    miners.stop()
    assert not miners.errors
    for name in ("m0", "m1", "m2", "m3"):
        assert verify(miners.folder / name).first_wrong is None


def test_no_vote_without_the_bytes_which_are_fetched_from_whoever_has_them(miners):
    miners.start()
    content = os.urandom(300)
    wanted = Transaction.signed(miners.secret, miners.nodes["m0"].chain.genesis.hash, 0, "task", task(content))
    assert miners.remote("m0").send([wanted]) == [""]
    time.sleep(0.5)
    assert not miners.paid(1)
    assert miners.remote("m0").status()["waiting"] == 1
    (miners.folder / "content").write_bytes(content)
    address = upload(miners.remote("m3").client, miners.folder / "content", DEFAULT)
    miners.wait(lambda: miners.paid(1))
    for name in ("m0", "m1", "m2", "m3"):
        miners.wait(lambda name=name: FolderStore(miners.folder / name / "ledger" / "store").has(address))


def test_who_was_away_comes_along_and_a_new_one_can_ask_anybody(miners, tmp_path):
    miners.start("m0", "m1", "m2")
    miners.remote("m0").send([miners.pay(0)])
    miners.wait(lambda: miners.paid(1))
    miners.start("m3")
    miners.wait(lambda: miners.paid(1))
    caught = catch_up(tmp_path / "new", [miners.remote("m3").source("m3")])
    with contextlib.closing(caught.chain) as chain:
        assert chain.state.nonce(public_key(miners.secret)) == 1
    assert not caught.left


def test_the_real_duty_fits_the_seam(tmp_path):
    founded(tmp_path, 1)

    def duty(folder, chain, contents):
        return Duty(chain, folder.secret, FolderStore(contents), None, DEFAULT)

    miners = Running(tmp_path, duty)
    miners.start()
    try:
        miners.remote("m0").send([miners.pay(0)])
        miners.wait(lambda: miners.paid(1))
    finally:
        miners.stop()
    assert not miners.errors


def test_a_round_of_training_over_the_service_of_four_miners(tmp_path):
    """Whoever takes part has a certificate and nothing else: it brings bytes, sends transactions, reads accounts."""
    genesis = founded(tmp_path)

    def duty(folder, chain, contents):
        return Duty(chain, folder.secret, FolderStore(contents), None, DEFAULT)

    miners = Running(tmp_path, duty)
    homes = [os.urandom(32) for _ in range(3)]
    chain = genesis.hash
    steps = [to_bytes(quantise(np.full(4, 0.25 * at + 0.25, np.float32))) for at in range(3)]

    def brought(at, data):
        path = tmp_path / "content"
        path.write_bytes(data)
        return decode_cid(upload(miners.remote(f"m{at}").client, path, DEFAULT))

    def state():
        return miners.nodes["m3"].chain.state

    miners.start()
    try:
        model = np.zeros(4, "<f4").tobytes()
        brought(0, model)
        posted = Transaction.signed(miners.secret, chain, 0, "task", task(model, window=50))
        assert miners.remote("m1").send([posted]) == [""]
        miners.wait(lambda: "task/1" in state().entries)
        for at, home in enumerate(homes):
            admission = admit(miners.secret, chain, 1, public_key(home))
            enrol = Transaction.signed(home, chain, 0, "enrol", {"task": 1, "admission": admission})
            update = {"task": 1, "round": 1, "cid": brought(at, steps[at]), "profile": DEFAULT, "size": len(steps[at])}
            update["digest"] = binding(chain, 1, 1, public_key(home), hashlib.sha256(steps[at]).digest())
            sent = [enrol, Transaction.signed(home, chain, 1, "update", update)]
            assert miners.remote(f"m{3 - at}").send(sent) == ["", ""]
        miners.wait(lambda: state().task(1)["phase"] == "done")
        store = FolderStore(tmp_path / "m3" / "ledger" / "store")
        address = encode_cid(state().entries["model/1/1"]["cid"])
        miners.wait(lambda: store.has(address))  # who had no need to vote fetches the model once it is final
        trained = np.frombuffer(store.get(address), "<f4")
        assert trained.tolist() == [0.5] * 4
        claims = [Transaction.signed(home, chain, 2, "claim", {"task": 1, "round": 1}) for home in homes]
        assert miners.remote("m2").send(claims) == [""] * 3
        miners.wait(lambda: miners.remote("m0").account(public_key(homes[0]))["balance"] == 5)
    finally:
        miners.stop()
    assert not miners.errors


def test_findings_go_to_the_duty_own_transactions_to_all_and_offences_are_wished_for(tmp_path):
    founded(tmp_path)
    heard, wished = [], []

    class Noting(NoDuty):
        def __init__(self, folder, chain, contents):
            super().__init__(contents)
            self.folder, self.chain, self.done = folder, chain, False

        def grown(self, block):
            nonce = self.chain.state.nonce(self.folder.own.key)
            if self.done or self.folder.own.peer.name != "m0":
                return
            self.done = True
            for kind, body in (
                ("verdict", {"task": 1, "round": 1, "scores": []}),
                ("pay", {"to": bytes(32), "amount": 1}),
                ("pay", {"to": bytes(32), "amount": 2}),  # the nonce is taken, so it goes nowhere
            ):
                late = nonce + 1 if kind == "pay" else nonce
                yield Transaction.signed(self.folder.secret, self.chain.genesis.hash, late, kind, body)

        def heard(self, one):
            heard.append((self.folder.own.peer.name, one.kind))

        def wish(self, kind, body):
            wished.append(kind)

    miners = Running(tmp_path, Noting)
    miners.start()
    try:
        miners.wait(lambda: len(heard) == 3)
        miners.wait(lambda: all(len(node.pool) == 1 for node in miners.nodes.values()))
        node, own = miners.nodes["m1"], seed(tmp_path / "m2" / "signing.key")
        place = (node.chain.genesis.name, node.chain.genesis.hash)

        def voted_twice():
            votes = [Vote.signed(own, *place, node.miner.height, 0, "next", bytes([at]) * 32) for at in (1, 2)]
            batch = encode([encode(["vote", {"vote": vote.encode()}]) for vote in votes])
            miners.remote("m1", Peer("miner", "m2")).client.call("message", batch, 1)
            return "evidence" in wished

        miners.wait(voted_twice)
    finally:
        miners.stop()
    assert sorted(heard) == [("m1", "verdict"), ("m2", "verdict"), ("m3", "verdict")]


def alone(folder, storage):
    links = Links({}, lambda peer: None)
    return Node(Chain(folder.path), folder.secret, folder.vrf_secret, storage, links, tempo=TEMPO)


def test_a_miner_whose_key_signs_elsewhere_says_that_it_votes_no_more(miners):
    miners.start()
    node, own = miners.nodes["m1"], seed(miners.folder / "m1" / "signing.key")
    place = (node.chain.genesis.name, node.chain.genesis.hash)

    def heard():
        foreign = Vote.signed(own, *place, node.miner.height, 0, "certify", bytes(32))
        batch = encode([encode(["vote", {"vote": foreign.encode()}])])
        miners.remote("m1", Peer("miner", "m2")).client.call("message", batch, 1)
        return miners.remote("m1").status()["stopped"]

    miners.wait(heard)
    height = node.chain.state.height
    miners.wait(lambda: node.chain.state.height > height + 1)  # the other three go on, and it follows


def test_two_miners_of_whom_one_only_connects_outwards_agree_over_the_network(tmp_path, port):
    found(tmp_path, [register(tmp_path / "a", "a", f"127.0.0.1:{port}"), register(tmp_path / "b", "b")], "tests")
    nodes, done = {}, []

    def run(name):
        def started(node, own):
            nodes[name] = node

        done.append(mine(tmp_path / name, tempo=TEMPO, started=started))

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while len(nodes) < 2 or min(node.chain.state.height for node in nodes.values()) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    for node in nodes.values():
        node.stop()
    for thread in threads:
        thread.join(10)
    assert done == ["", ""]
    assert all(verify(tmp_path / name).first_wrong is None for name in "ab")


def test_too_much_is_turned_away(tmp_path, monkeypatch):
    genesis = founded(tmp_path, 1)
    folder = MinerFolder.load(tmp_path / "m0")
    node = Node(
        Chain(folder.path), folder.secret, folder.vrf_secret, DurableFile(tmp_path / "s"), Links({}, lambda _: None)
    )
    monkeypatch.setattr(node._events, "maxsize", 2)
    maker = seed(tmp_path / "manufacturer" / "signing.key")
    node.take(Look())
    node.look()
    node.look()  # nobody waits for this one
    with pytest.raises(RefusedError, match="too much to do"):
        node.take(Look())
    paid = Transaction.signed(maker, genesis.hash, 0, "pay", {"to": bytes(32), "amount": 1})
    with pytest.raises(RefusedError, match="too much to do"):
        node.submit(paid, spread=False)
    node.submit(paid, spread=False)  # it waits in the pool already
    node.close()
    node.close()


def test_a_disk_that_fails_ends_the_miner(tmp_path):
    founded(tmp_path, 1)
    folder = MinerFolder.load(tmp_path / "m0")

    class Broken(DurableFile):
        def write(self, data):
            raise OSError("no space left")

    node = Node(
        Chain(folder.path),
        folder.secret,
        folder.vrf_secret,
        Broken(tmp_path / "s"),
        Links({}, lambda _: None),
        tempo=TEMPO,
    )
    with pytest.raises(OSError, match="no space"):
        node.run()
    node.close()


def test_no_duty_forgets():
    duty = NoDuty(Path("nowhere"))
    duty.heard(None)
    duty.wish("evidence", {})
    assert duty.offer(iter((1, 2))) == [1, 2]


# Contents


@pytest.fixture
def store(tmp_path):
    made = Exchange(tmp_path / "store", list, lambda: None)
    yield made
    made.close()


def bring(store, data, offset=0, address=None, size=None):
    body = {"profile": DEFAULT, "cid": decode_cid(address or cid_of(data)), "size": size or len(data)}
    return int.from_bytes(
        store.bring(MAKER, encode({**body, "offset": offset, "bytes": data[offset : offset + 4]})), "big"
    )


def test_a_content_is_kept_only_when_its_address_is_right(store):
    data = b"eleven byte"
    assert bring(store, data, 0) == 4
    assert bring(store, data, 8) == 4  # not what comes next
    assert bring(store, data, 4) == 8
    assert bring(store, data, 8) == 11
    assert bring(store, data, 0) == 11  # it is here
    assert FolderStore(store.folder).get(cid_of(data)) == data
    with pytest.raises(ContentError, match="is not"):
        bring(store, b"four", address=cid_of(b"more"))
    assert bring(store, b"more") == 4  # and not spoilt for others
    with pytest.raises(InputError):
        bring(store, b"x", size=exchanges.LARGEST + 1)


def test_only_so_much_is_brought_at_once(store, monkeypatch):
    monkeypatch.setattr(exchanges, "_UNDER_WAY", 2)
    for data in (b"first one", b"second one", b"third one"):
        bring(store, data)
    assert bring(store, b"first one", 4) == 0  # forgotten: it was the oldest
    monkeypatch.setattr(exchanges, "_PATIENCE", 0.01)
    with store._part(DEFAULT, "a"), store._part(DEFAULT, "b"):
        with pytest.raises(RefusedError, match="too much"):
            bring(store, b"another one")
        with pytest.raises(RefusedError, match="being brought"), store._part(DEFAULT, "a"):
            pass


def test_a_content_may_become_whole_while_room_is_made_for_another(store):
    with store._part(DEFAULT, "a") as part:
        part.symlink_to("nowhere")  # listed in the folder, and gone once it is looked at
        assert bring(store, b"another one") == 4


def test_who_brings_what_the_miner_asks_others_for_waits_a_moment(store):
    data = b"eleven byte"
    with ThreadPoolExecutor(1) as thread:
        with store._part(DEFAULT, cid_of(data)):
            waiting = thread.submit(bring, store, data)
            time.sleep(0.05)
            assert not waiting.done()
            FolderStore(store.folder).put(data)
        assert waiting.result(5) == len(data)  # it came from elsewhere


@pytest.mark.parametrize("kind", [lambda folder: Exchange(folder, Slow, lambda: None), lambda _: DataKeys(Slow, print)])
def test_closing_waits_for_one_call_and_not_for_all_that_was_wished_for(tmp_path, monkeypatch, kind):
    made = kind(tmp_path)
    for data in (b"a", b"b", b"c", b"d"):
        made.fetch([(DEFAULT, cid_of(data))]) if isinstance(made, Exchange) else made.ask(cid_of(data))
    started = time.monotonic()
    made.close()
    assert not made._wishes._thread.is_alive()
    assert time.monotonic() - started < 2.5  # 4 contents, 3 sources, .4 s a call


def test_a_disk_that_is_nearly_full_takes_nothing_more(store, monkeypatch):
    monkeypatch.setattr(exchanges, "SPARE", 1 << 80)
    with pytest.raises(RefusedError, match="nearly full"):
        bring(store, b"a content")


class Slow(list):
    """Three peers that take their time to say that they have nothing."""

    def __init__(self):
        super().__init__([self] * 3)

    def call(self, method, body, timeout):
        time.sleep(0.4)
        raise UnreachableError("nothing")


class Silent:
    def call(self, method, body, timeout):
        return bytes(8)

    def close(self):
        pass


def test_bringing_something_that_does_not_get_further_ends(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        upload(Silent(), path, DEFAULT)
    path.write_bytes(b"x")
    with pytest.raises(UnreachableError, match="further"):
        upload(Silent(), path, DEFAULT)


# Folders


def test_a_registration_is_taken_only_with_both_proofs(tmp_path):
    made = register(tmp_path / "a", "a", "10.0.0.1:7700")
    data = (tmp_path / "a" / REGISTRATION_FILE).read_bytes()
    assert Registration.decode(data) == made
    other = register(tmp_path / "b", "b")
    for changed in (
        {"name": "c"},
        {"key": other.key},
        {"vrf": other.vrf},
        {"proof": other.proof},
        {"signature": other.signature},
        {"address": "10.0.0.2:7700"},
    ):
        with pytest.raises(RefusedError, match="own keys"):
            Registration.decode(Registration(**{**vars(made), **changed}).encode())
    for wrong in (b"", data + b"\0", bytes(1 << 17), Registration(**{**vars(made), "address": "x"}).encode()):
        with pytest.raises(InputError):
            Registration.decode(wrong)
    with pytest.raises(InputError, match="there already"):
        register(tmp_path / "a", "a")
    for name, address in (("A", ""), ("a", "nowhere"), ("a", "host:0"), ("a", "host:70000")):
        with pytest.raises(InputError):
            register(tmp_path / "c", name, address)
        assert not (tmp_path / "c").exists()


def test_founding_refuses_what_can_not_work(tmp_path):
    one, two = register(tmp_path / "a", "a", "h:1"), register(tmp_path / "b", "b")
    with pytest.raises(InputError, match="share a name"):
        found(tmp_path / "x", [one, one], "tests")
    with pytest.raises(InputError, match="share a name"):
        found(tmp_path / "x", [register(tmp_path / "m", "manufacturer")], "tests")
    with pytest.raises(InputError, match="no miner has an address"):
        found(tmp_path / "x", [two, register(tmp_path / "c", "c")], "tests")
    swapped = Registration(**{**vars(one), "request": two.request})
    with pytest.raises(RefusedError):
        found(tmp_path / "x", [swapped], "tests")
    assert not (tmp_path / "x").exists()
    genesis = found(tmp_path / "x", [one, two], "tests")
    with pytest.raises(InputError, match="already"):
        found(tmp_path / "x", [one, two], "tests")
    # The owner copies the public folder over the one with the keys.
    import shutil

    shutil.copytree(tmp_path / "x" / "a", tmp_path / "a", dirs_exist_ok=True)
    loaded = MinerFolder.load(tmp_path / "a")
    assert (loaded.genesis, loaded.own.address, loaded.registered.key) == (genesis, "h:1", one.key)
    assert "secret" not in repr(loaded)


def broken(place, other):
    consortium = Consortium.load(place)
    yield "missing", lambda: (place / "consortium.toml").unlink()
    yield "malformed", lambda: (place / "consortium.toml").write_text("genesis = 1")
    yield "malformed", lambda: (place / "consortium.toml").write_text("[")
    row = '[[miners]]\nname = "{}"\nkey = ""\naddress = "{}"\n'
    yield "no address", lambda: (place / "consortium.toml").write_text('genesis = ""\n' + row.format("a", "x"))
    yield "share a name", lambda: (place / "consortium.toml").write_text('genesis = ""\n' + 2 * row.format("a", ""))
    yield "genesis in", lambda: Consortium(bytes(32), consortium.members).write(place)
    yield "not those of the genesis", lambda: Consortium(consortium.genesis, consortium.members[:1]).write(place)
    yield "can be read by others", lambda: (place / "signing.key").chmod(0o644)
    yield "can be read by others", lambda: (place / "transport.key").chmod(0o660)
    yield "no key", lambda: (place / "vrf.key").write_bytes(b"short")
    yield "missing", lambda: (place / "vrf.key").unlink()
    yield "not those of a miner", lambda: (place / "vrf.key").write_bytes((other / "vrf.key").read_bytes())
    yield "not those of a miner", lambda: (place / "signing.key").write_bytes(bytes(32))
    yield "the certificate in", lambda: (place / "transport.pem").write_bytes((other / "transport.pem").read_bytes())
    yield "no chain", lambda: [path.unlink() for path in (place / "ledger").iterdir()]
    yield "is wrong", lambda: (place / "ledger" / "chain.sqlite").write_bytes(b"")
    yield "sign-state is damaged", lambda: (place / "sign-state").write_bytes(b"junk")
    yield "can't listen", lambda: None


@pytest.mark.parametrize("case", range(18))
def test_a_miner_whose_folder_is_not_in_order_does_not_start(tmp_path, case):
    founded(tmp_path, 2)
    match, harm = list(broken(tmp_path / "m0", tmp_path / "m1"))[case]
    harm()
    with pytest.raises((InputError, RefusedError, RunError), match=match) as error:
        mine(tmp_path / "m0", listen="192.0.2.1:1")
    assert len(error.value.advice().splitlines()) == 1


def test_a_sign_state_that_is_gone_or_old_stops_the_start(tmp_path):
    founded(tmp_path, 1, "127.0.0.1:1")
    listen = "127.0.0.1:0"

    def until(height):
        def started(node, own):
            threading.Thread(target=lambda: (grown(node, height), node.stop())).start()

        mine(tmp_path / "m0", listen=listen, tempo=TEMPO, started=started)

    def grown(node, height):
        while node.chain.state.height < height:
            time.sleep(0.01)

    until(1)
    signed = (tmp_path / "m0" / "sign-state").read_bytes()
    until(3)
    (tmp_path / "m0" / "sign-state").write_bytes(signed)
    with pytest.raises(RunError, match="older than the chain"):
        mine(tmp_path / "m0", listen=listen)
    (tmp_path / "m0" / "sign-state").unlink()
    with pytest.raises(RunError, match="missing"):
        mine(tmp_path / "m0", listen=listen)
    with MinerFolder.load(tmp_path / "m0").held(), pytest.raises(RunError, match="another process"):
        mine(tmp_path / "m0", listen=listen)


def test_without_addresses_on_either_side_there_is_no_way(tmp_path):
    made = [register(tmp_path / name, name, address) for name, address in (("a", ""), ("b", ""), ("c", "h:1"))]
    found(tmp_path, made, "tests")
    network = Network(MinerFolder.load(tmp_path / "a"), "")
    ways = {each.peer.name: network.way(each.peer) for each in network.others}
    assert ways["b"] is None
    assert ways["c"] is not None
    links = network.links()
    links.send("message", b"x", made[1].key)  # goes to whoever passes it on
    assert links.reachable()["miner/b"] is False
    links.close()
    network.close()
