"""Miner processes settle rounds of sealed updates that customers bring; one lies and is named, a wrong wrap heals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from loopback_example import loopback

from privet.aggregation.exact import aggregate, quantise, to_bytes
from privet.crypto.signatures import public_key
from privet.errors import RefusedError
from privet.ledger.content import DEFAULT, cid_of, decode_cid, encode_cid
from privet.ledger.encoding import encode
from privet.ledger.exchange import upload
from privet.ledger.folder_store import FolderStore
from privet.ledger.founding import found, register
from privet.ledger.miner_folder import Consortium, seed
from privet.ledger.replay import Replay
from privet.ledger.sealing import _COMMITMENT, _CONTENT, Sealed, _derived, _digest, _info, _wrap, seal
from privet.ledger.service import Remote
from privet.ledger.state import State
from privet.ledger.transactions import Transaction, admit, binding
from privet.ledger.verification import verify
from privet.study.mining import moved
from privet.study.updates import purpose
from privet.transport.grpc import GrpcClient
from privet.transport.identity import Identity

PRIVET = str(Path(sys.executable).with_name("privet"))
LIAR = Path(__file__).with_name("lying_miner.py")
HOMES = [hashlib.sha256(bytes([at])).digest() for at in range(3)]
MODEL = np.linspace(-1, 1, 2000).astype("<f4").tobytes()


def update(home: int, round: int) -> Any:
    return quantise(np.random.default_rng([home, round]).normal(size=2000))


def wrongly_wrapped(content: bytes, plain: bytes, context: bytes, miner: bytes) -> bytes:
    """The same update, sealed anew with a wrap for one miner that holds no key."""
    one, data_key = Sealed.decode(content), os.urandom(32)
    commitment, wraps = _derived(data_key, _COMMITMENT), []
    for each, public, _ in one.wraps:
        wrapped = bytes(32) if each == miner else data_key
        wraps.append((each, public, _wrap(wrapped, public, _info(context, commitment, each, public))))
    head = replace(one, commitment=commitment, digest=_digest(data_key, plain), wraps=tuple(wraps), ciphertext=b"")
    cipher = ChaCha20Poly1305(_derived(data_key, _CONTENT))
    return replace(head, ciphertext=cipher.encrypt(head.nonce, plain, head.associated(context))).encode()


class Client:
    """Follows the chain over the network, and brings what manufacturer and customers send."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.genesis = folder, self._found(folder)
        maker = folder / "manufacturer"
        self.maker, identity = seed(maker / "signing.key"), Identity.load(maker)
        members = Consortium.load(maker).members
        self.members = [one.key for one in members]
        self.remotes = [Remote(GrpcClient(one.address, one.peer, identity), timeout=5) for one in members]
        self.replay, self.nonces = Replay(self.genesis), dict.fromkeys([self.maker, *HOMES], 0)

    @staticmethod
    def _found(folder: Path) -> Any:
        port = loopback.free_ports()
        return found(folder, [register(folder / f"m{at}", f"m{at}", f"127.0.0.1:{port + at}") for at in range(4)], "x")

    def bring(self, at: int, content: bytes) -> bytes:
        path = self.folder / "content"
        path.write_bytes(content)
        return decode_cid(upload(self.remotes[at].client, path, DEFAULT))

    def send(self, at: int, secret: bytes, kind: str, body: Any) -> None:
        one = Transaction.signed(secret, self.genesis.hash, self.nonces[secret], kind, body)
        self.nonces[secret] += 1
        assert self.remotes[at].send([one]) == [""]

    def wait(self, done: Callable[[State], bool], seconds: float = 25) -> None:
        end = time.monotonic() + seconds
        while not done(self.replay.state):
            assert time.monotonic() < end, sorted(self.replay.state.entries)
            try:
                final = self.remotes[0].final(self.replay.state.height + 1)
            except Exception:  # it may still be starting
                final = None
            if final is None:
                time.sleep(0.05)
                continue
            draft = self.replay.check(final.block)
            self.replay.check_certificate(final.block.header, final.certificate)
            self.replay.accept(final.block, draft)

    def post(self, home: int, round: int, spoil: bytes = b"") -> None:
        """Brings a home's sealed update to one miner, and its transaction to another."""
        customer = public_key(HOMES[home])
        place = (self.genesis.hash, 1, round, customer)
        recipients = {miner: key for miner, (_, key) in self.replay.state.epochs().items()}
        plain = to_bytes(update(home, round))
        content = seal(plain, recipients, purpose(*place))
        if spoil:
            content = wrongly_wrapped(content, plain, purpose(*place), spoil)
        body = {
            "task": 1,
            "round": round,
            "cid": self.bring(home, content),
            "profile": DEFAULT,
            "digest": binding(*place, Sealed.decode(content).digest),
            "size": len(content),
        }
        self.send((home + 1) % 3, HOMES[home], "update", body)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    commands = [[PRIVET, "miner", str(tmp_path / f"m{at}"), "--idle", "0.2"] for at in range(3)]
    commands.append([sys.executable, str(LIAR), str(tmp_path / "m3")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(one, env=settings, stdout=subprocess.DEVNULL) for one in commands]
    yield client
    for process in running:
        process.terminate()
    codes = [process.wait(15) for process in running]
    for remote in client.remotes:
        remote.client.close()  # type: ignore[attr-defined]
    assert codes == [0, 0, 0, 0]
    assert all(verify(tmp_path / f"m{at}").first_wrong is None for at in range(4))


def test_four_processes_settle_two_rounds_and_name_the_one_that_lies(client: Client) -> None:
    client.wait(lambda state: len(state.epochs()) == 4)
    head = {"profile": DEFAULT, "digest": hashlib.sha256(MODEL).digest(), "rule": "mean", "rounds": 2}
    body = {"model": client.bring(0, MODEL), "places": 3, "window": 100, "max_bytes": 1 << 16, **head}
    client.send(1, client.maker, "task", body)
    client.wait(lambda state: "task/1" in state.entries)
    for at, home in enumerate(HOMES):
        admission = admit(client.maker, client.genesis.hash, 1, public_key(home))
        client.send(at, home, "enrol", {"task": 1, "admission": admission})
    model, (first, *_, liar) = MODEL, client.members
    for round in (1, 2):
        for home in range(3):
            client.post(home, round, spoil=first if (home, round) == (1, 2) else b"")
        client.wait(lambda state, round=round: state.task(1)["round"] > round or state.task(1)["phase"] == "done")
        model = moved(model, aggregate([update(home, round) for home in range(3)], "mean", 1, 3).update)
        row: Any = client.replay.state.entries[f"model/1/{round}"]
        assert row["digest"] == hashlib.sha256(model).digest()
        assert encode_cid(row["cid"]) == cid_of(model)
    client.wait(lambda state: len(state.falsehoods()) == 2)
    assert client.replay.state.falsehoods() == [f"{liar.hex()}/1/{round}/model" for round in (1, 2)]
    assert [client.replay.state.reputation(public_key(home)) for home in HOMES] == [7, 7, 7]
    store = FolderStore(client.folder / "m0" / "ledger" / "store")
    client.wait(lambda _: store.has(cid_of(model)))  # who had no need to vote fetches the model once it is final
    assert store.get(cid_of(model)) == model
    assert sorted(path.name for path in (client.folder / "m0" / "epochs").iterdir())[-1] == "epoch-3.key"
    update_cid: Any = client.replay.state.entries["update/1/2/0"]
    with pytest.raises(RefusedError, match="is no miner"):
        client.remotes[0].client.call("data-key", encode({"cid": update_cid["cid"]}), 5)
