"""A small consortium with known keys: what the tests of the ledger begin from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.errors import RefusedError
from privet.ledger.blocks import Block
from privet.ledger.chain import Chain
from privet.ledger.content import cid_of, decode_cid
from privet.ledger.encoding import natural
from privet.ledger.folder_store import FolderStore
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.replay import Replay
from privet.ledger.state import State
from privet.ledger.transactions import Transaction, admit, binding
from privet.ledger.votes import Certificate, Vote


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def key(name: str) -> bytes:
    return public_key(secret(name))


def cid(name: str) -> bytes:
    return b"\x01\x55\x12\x20" + hashlib.sha256(name.encode()).digest()


MINERS = [f"miner {at}" for at in range(4)]
HOMES = sorted((f"home {at}" for at in range(5)), key=key)
MAKER = "maker"


def genesis(miners: list[str] = MINERS, tokens: int = 1_000_000, **rules: int) -> Genesis:
    registered = tuple(Miner(key(name), ecvrf.public_key(secret(name + " vrf"))) for name in miners)
    return Genesis("tests", registered, {key(MAKER): tokens}, **rules)


TASK = {"model": cid("first"), "digest": bytes(32), "rule": "multi-krum", "rounds": 3, "places": 5, "window": 3}
PROFILE = "unixfs-v0-2015"
TASK |= {"max_bytes": 1000, "profile": PROFILE}


class Play:
    """A state and its draft; sends transactions with the right nonces."""

    def __init__(self, rules: Genesis | None = None) -> None:
        self.state = State(rules or genesis())
        self.chain = self.state.genesis.hash
        self.draft = self.state.draft()

    def make(self, name: str, kind: str, nonce: int | None = None, **body: object) -> Transaction:
        where = f"nonce/{key(name).hex()}"
        due = self.draft.changes.get(where, self.state.entries.get(where, 0)) if nonce is None else nonce
        return Transaction.signed(secret(name), self.chain, due, kind, body)

    def send(self, name: str, kind: str, nonce: int | None = None, **body: object) -> Transaction:
        made = self.make(name, kind, nonce, **body)
        self.draft.apply(made)
        return made

    def refused(self, name: str, kind: str, nonce: int | None = None, **body: object) -> str:
        """Sends what must be refused; checks that it changed nothing; returns the reason."""
        before = dict(self.draft.changes), self.draft.commitment(), self.state.commitment
        try:
            self.send(name, kind, nonce, **body)
        except RefusedError as error:
            assert (dict(self.draft.changes), self.draft.commitment(), self.state.commitment) == before
            return str(error)
        raise AssertionError(f"{kind} was not refused")

    def block(self, count: int = 1) -> None:
        for _ in range(count):
            self.state.accept(self.draft)
            self.draft = self.state.draft()

    def begin(self, homes: list[str] = HOMES, **task: object) -> None:
        """Posts the task and enrols homes."""
        self.send(MAKER, "task", **{**TASK, **task})
        for name in homes:
            self.enrol(name)
        self.block()

    def enrol(self, name: str, task: int = 1) -> None:
        self.send(name, "enrol", task=task, admission=admit(secret(MAKER), self.chain, task, key(name)))

    def update(self, name: str, round: int, task: int = 1) -> dict[str, object]:
        content = f"{name} {task} {round}".encode()
        made = binding(self.chain, task, round, key(name), hashlib.sha256(content).digest())
        named = {"cid": decode_cid(cid_of(content)), "profile": PROFILE, "digest": made, "size": len(content)}
        return {"task": task, "round": round, **named}

    def post(self, round: int, homes: list[str] = HOMES) -> None:
        for name in homes:
            self.send(name, "update", **self.update(name, round))
        self.block()

    def scores(self, values: dict[str, int], homes: list[str] = HOMES) -> list[list[bytes]]:
        return [[key(name), natural(values.get(name, 100))] for name in sorted(homes, key=key)]

    def model(self, round: int) -> dict[str, object]:
        return {"cid": cid(f"model {round}"), "profile": PROFILE, "digest": bytes(32)}

    def judge(self, round: int, values: dict[str, int], homes: list[str] = HOMES) -> None:
        self.send(MINERS[0], "verdict", task=1, round=round, scores=self.scores(values, homes))
        self.send(MINERS[1], "model", task=1, round=round, **self.model(round))
        self.block()
        self.send(MINERS[2], "settle", **self.state.settlement(1))
        self.block()

    def round(self, round: int, values: dict[str, int], homes: list[str] = HOMES) -> None:
        self.post(round, homes)
        self.judge(round, values, homes)


def certified(chain: Replay, block: Block, names: list[str] = MINERS) -> Certificate:
    """Returns the certificate of a block that these miners vote for."""
    header, start = block.header, chain.genesis
    place = (start.name, start.hash, header.height, header.period, "certify", header.hash)
    return Certificate.of([Vote.signed(secret(name), *place) for name in names])


def extend(chain: Chain, transactions: list[Transaction], by: str = MINERS[0]) -> Block:
    """Appends a certified block with these transactions, none of which may be refused."""
    block, refused = chain.propose(secret(by), secret(by + " vrf"), transactions)
    assert not refused
    chain.append(block, certified(chain, block))
    return block


def honest_chain(run: Path, rounds: int = 1) -> Chain:
    """Writes a chain with a task, enrolments, rounds of updates, verdicts, models and settlements, and a claim.

    The contents of the initial model and of each global model are stored.
    """
    chain = Chain.create(run, genesis())
    store = FolderStore(run / "ledger" / "store")
    play = Play(chain.genesis)
    play.state, play.draft = chain.state, chain.state.draft()

    def step(*sent: tuple[str, str, dict[str, object]]) -> None:
        made = []
        for name, kind, body in sent:
            made.append(play.make(name, kind, **body))
            play.draft.apply(made[-1])
        extend(chain, made, MINERS[chain.state.height % 4])
        play.draft = chain.state.draft()

    def kept(content: bytes) -> dict[str, object]:
        return {"cid": decode_cid(store.put(content)), "profile": PROFILE, "digest": hashlib.sha256(content).digest()}

    first = kept(b"initial model" * 50)
    task = {**TASK, "model": first["cid"], "digest": first["digest"], "rounds": rounds}
    enrolments = [
        (name, "enrol", {"task": 1, "admission": admit(secret(MAKER), play.chain, 1, key(name))}) for name in HOMES
    ]
    step((MAKER, "task", task), *enrolments)
    for number in range(1, rounds + 1):
        step(*((name, "update", play.update(name, number)) for name in HOMES))
        verdict = {"task": 1, "round": number, "scores": play.scores({HOMES[0]: 10_000})}
        model = {"task": 1, "round": number, **kept(b"global model %d" % number * 50)}
        step((MINERS[0], "verdict", verdict), (MINERS[1], "model", model))
        step((MINERS[2], "settle", chain.state.settlement(1)))
    step((HOMES[1], "claim", {"task": 1, "round": 1}))
    return chain
