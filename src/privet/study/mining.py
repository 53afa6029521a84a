"""What a miner does besides voting: it opens updates, works out each round for itself, and votes for nothing else.

A round is worked out only when final blocks have closed it for good: its time is over, or every place is taken and has
posted. What it gives is then determined, so two miners that sign different results can't both be honest, and whoever
signed the one that the chain does not take is named (transaction ``refute``).
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from privet.aggregation.exact import Steps, aggregate, from_bytes, restore
from privet.aggregation.share_checks import Terms
from privet.crypto.signatures import public_key
from privet.errors import InputError, PrivetError, RefusedError
from privet.ledger.blocks import Block
from privet.ledger.book import Book
from privet.ledger.content import cid_of, decode_cid, encode_cid
from privet.ledger.encoding import Value, encode, natural
from privet.ledger.reputation import needed
from privet.ledger.rules import settlement
from privet.ledger.sealing import EpochKeys, Sealed
from privet.ledger.state import State
from privet.ledger.transactions import FINDINGS, Transaction, binding
from privet.study import sharing
from privet.study.openings import Record
from privet.study.parties import Party

_HEARD = 64
"""Findings of each miner that are remembered until the chain has decided."""


class Contents(Protocol):
    """Where bytes lie by their address; a folder, or an IPFS node."""

    def put(self, data: bytes) -> str:
        """Stores bytes and returns their address."""

    def get(self, cid: str) -> bytes:
        """Returns the bytes of an address; raises ContentError when they are not here or something else."""

    def has(self, cid: str) -> bool:
        """Returns whether something is stored under an address."""


class Grown(Protocol):
    """A chain as far as it is final."""

    @property
    def state(self) -> State:
        """After the last block."""

    @property
    def seed(self) -> bytes:
        """Randomness of the last block."""


def purpose(chain: bytes, task: int, round: int, customer: bytes) -> bytes:
    """Returns what a sealed update is bound to: whose it is, for which round of which task."""
    return encode(["privet/sealed update/1", chain, task, round, customer])


def moved(model: bytes, steps: Steps) -> bytes:
    """Returns a model after a round's mean update: one float32 addition each, which IEEE 754 rounds alike everywhere.

    Args:
        model: float32, little-endian, d numbers.
        steps: shape (d,).
    """
    after: np.ndarray = np.frombuffer(model, "<f4") + restore(steps).astype("<f4")
    return after.tobytes()


class Duty:
    """One miner's work on the tasks of a chain.

    Args:
        chain: the miner's; only what is final in it counts.
        secret: seed of its signing key, 32 bytes.
        contents: where updates and models lie.
        epochs: its keys that open what is sealed for it; None where updates are plain.
        profile: how addresses are worked out.
        shared: whether updates come as shares, which the miners open together (:meth:`party`).

    Attributes:
        key: the miner's public key.
        wishes: (kind, body) of what it will put into a block when it leads, besides its findings.
        ask: asks the other miners for the data key of a sealed content, by its address; nothing they say is trusted.
    """

    def __init__(
        self,
        chain: Grown,
        secret: bytes,
        contents: Contents,
        epochs: EpochKeys | None,
        profile: str,
        *,
        shared: bool = False,
    ) -> None:
        self.key = public_key(secret)
        self._chain, self._secret = chain, secret
        self._contents, self._epochs, self._profile = contents, epochs, profile
        self._sizes: dict[int, int] = {}
        self._opened: dict[bytes, Steps] = {}
        self._found: dict[tuple[int, int], list[tuple[str, dict[str, Value]]]] = {}
        self._said: dict[bytes, Transaction] = {}
        self._shared, self._parties = shared, dict[tuple[int, int], Party]()
        self._sound = set[bytes]()
        self._listed: dict[str, dict[str, Any]] = {}
        self.wishes: list[tuple[str, dict[str, Value]]] = []
        self.ask: Callable[[str], Iterable[bytes]] = lambda address: ()

    # As a voter

    def in_hand(self, block: Block) -> bool:
        """Returns whether every byte that a block lists is here and right, and every result in it is this miner's."""
        self._list(block.transactions)
        for one in block.transactions:
            self.heard(one)  # whoever lies only when it leads has signed it here
        return all(map(self._agrees, block.transactions))

    def _list(self, proposed: Iterable[Transaction]) -> None:
        for one in proposed:
            if one.kind == "update":
                row: dict[str, Any] = {**one.body, "customer": one.sender}
                self._listed[encode_cid(row["cid"])] = row

    def _agrees(self, one: Transaction) -> bool:
        body: dict[str, Any] = one.body
        try:
            match one.kind:
                case "task":
                    model = self._contents.get(encode_cid(body["model"]))
                    return hashlib.sha256(model).digest() == body["digest"] and len(model) % 4 == 0
                case "update":
                    self._read({**body, "customer": one.sender})
                case "verdict" | "model":
                    return (one.kind, body) in self._results(body["task"])
        except PrivetError:
            return False
        return True

    # As a leader

    def offer(self, pool: Iterable[Transaction]) -> list[Transaction]:
        """Returns what this miner would put into a block: what it can vouch for of the pool, then its own findings."""
        taken = [one for one in pool if one.kind not in FINDINGS and self._agrees(one)]
        self._list(taken)
        nonce = self._chain.state.nonce(self.key) + sum(one.sender == self.key for one in taken)
        own = [*self.wishes, *(result for task in self._tasks() for result in self._results(task))]
        return taken + [self._signed(nonce + at, *wish) for at, wish in enumerate(own)]

    # After a block

    def grown(self, block: Block) -> list[Transaction]:
        """Takes note of a final block; returns transactions that the other miners should have.

        They are this miner's finding on each round that the block closed, and its key for the next epoch's sealed
        updates. A finding stands in nobody's block; it is said so that whoever finds otherwise can be named.
        """
        kinds = {one.kind for one in block.transactions}
        ended = bool(kinds & {"settle", "void"})
        if ended:
            for kept in (self._found, self._opened, self._parties, self._sound, self._listed):
                kept.clear()
        self.wishes = [wish for wish in self.wishes if self._refusal(*wish) is None]
        self._refute()
        return self.findings() + (self.signed(self.keys()) if ended else [])

    def findings(self) -> list[Transaction]:
        """Returns this miner's finding on each round that is closed, for the other miners to hear."""
        said = [result for task in self._tasks() for result in self._results(task) if result[0] in ("verdict", "model")]
        # Findings are never applied, so they take no nonce from the key's.
        return [self._signed(self._chain.state.nonce(self.key), *one) for one in said]

    def keys(self) -> list[tuple[str, dict[str, Value]]]:
        """Begins this miner's next epoch, and ends the one before the last that is registered.

        Returns:
            What to register; nothing where updates are not sealed.
        """
        if self._epochs is None:
            return []
        registered, _ = self._chain.state.epochs().get(self.key, (0, b""))
        self._epochs.end(registered - 1)  # a round may still be sealed for the registered one
        return [("epoch", {"number": registered + 1, "key": self._epochs.begin(registered + 1)})]

    def signed(self, wishes: Iterable[tuple[str, dict[str, Value]]]) -> list[Transaction]:
        """Returns transactions of this miner, signed one after the other as the chain would take them."""
        nonce = self._chain.state.nonce(self.key)
        return [self._signed(nonce + at, *wish) for at, wish in enumerate(wishes)]

    def heard(self, one: Transaction) -> None:
        """Takes note of another miner's finding."""
        if one.kind not in ("verdict", "model") or one.sender not in self._chain.state.genesis.weights:
            return
        if sum(other.sender == one.sender for other in self._said.values()) < _HEARD and one.authentic:
            self._said[one.id] = one
            self._refute()

    def wish(self, kind: str, body: Mapping[str, Value]) -> None:
        """Remembers something to put into a block when this miner leads, such as evidence."""
        if (kind, dict(body)) not in self.wishes:
            self.wishes.append((kind, dict(body)))

    def _refute(self) -> None:
        """Wishes that whoever found otherwise than the chain be named."""
        for id, one in list(self._said.items()):
            if not self._undecided(one):
                body: dict[str, Value] = {"transaction": self._said.pop(id).encode()}
                if self._refusal("refute", body) is None:
                    self.wish("refute", body)

    def _undecided(self, one: Transaction) -> bool:
        outcome, body = {"verdict": "judged", "model": "model"}[one.kind], dict[str, Any](one.body)
        return f"{outcome}/{body['task']}/{body['round']}" not in self._chain.state.entries

    def _refusal(self, kind: str, body: dict[str, Value]) -> RefusedError | None:
        """Returns why the chain would not take something from this miner now, or None when it would."""
        try:
            self._chain.state.draft().apply(self._signed(self._chain.state.nonce(self.key), kind, body))
        except RefusedError as error:
            return error
        return None

    def _signed(self, nonce: int, kind: str, body: dict[str, Value]) -> Transaction:
        return Transaction.signed(self._secret, self._chain.state.genesis.hash, nonce, kind, body)

    # Findings

    def _tasks(self) -> list[int]:
        count = self._chain.state.entries.get("tasks", 0)
        assert isinstance(count, int)  # noqa: S101 - the rules wrote it
        return [task for task in range(1, count + 1) if self._chain.state.task(task)["phase"] != "done"]

    def _results(self, task: int) -> list[tuple[str, dict[str, Value]]]:
        """Returns what follows from the open round of a task once it is closed for good; nothing before."""
        found = self._chain.state.task(task)
        over, full = self._ends(found)
        if not (over or full):
            return []
        if found["posted"] < needed(found["rule"], self._chain.state.genesis.f):
            return [("void", {"task": task, "round": found["round"]})] if over else []
        place = (task, found["round"])
        if place not in self._found:
            try:
                self._found[place] = self._work_out(task, found)
            except PrivetError:
                return []  # an update or model is not here: the miner abstains until it is
        return self._found[place]

    def _ends(self, found: dict[str, Any]) -> tuple[bool, bool]:
        """Returns whether an open round's time is over, and whether every place is taken and has posted."""
        height, is_open = self._chain.state.height, found["phase"] == "open"
        full = found["posted"] == found["customers"] == found["places"]
        return is_open and height >= found["opened"] + found["window"], is_open and full

    def _rows(self, task: int, found: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**row, "task": task, "round": found["round"]} for row in self._chain.state.updates(task)]

    def _work_out(self, task: int, found: dict[str, Any]) -> list[tuple[str, dict[str, Value]]]:
        state, round = self._chain.state, found["round"]
        rows = self._rows(task, found)
        scores, update = self._outcome(rows, found["rule"])
        model = moved(self._base(task, found), update)
        listed: list[Value] = [[row["customer"], natural(one)] for row, one in zip(rows, scores, strict=True)]
        verdict: dict[str, Value] = {"task": task, "round": round, "scores": listed}
        named = {"cid": self._put(model), "profile": self._profile, "digest": hashlib.sha256(model).digest()}
        draft = state.draft()
        draft.apply(self._signed(state.nonce(self.key), "verdict", verdict))
        judged = Book(state.genesis, ChainMap(draft.changes, state.entries), draft.height)
        return [
            ("verdict", verdict),
            ("model", {"task": task, "round": round, **named}),
            ("settle", settlement(judged, task)),
        ]

    def _outcome(self, rows: list[dict[str, Any]], rule: str) -> tuple[list[int], Steps]:
        """Returns the score of each update, and the mean of those that count.

        Raises:
            PrivetError: an update is not here, or the miners have not opened the round's shares yet.
        """
        if not self._shared:
            return self._aggregated([self._steps(row) for row in rows], rule)
        party = self._parties.get((rows[0]["task"], rows[0]["round"]))
        if party is None:
            raise RefusedError("the miners have not opened the round yet")
        return party.record.outcome

    def _aggregated(self, updates: list[Steps], rule: str) -> tuple[list[int], Steps]:
        gained = aggregate(updates, rule, self._chain.state.genesis.f, self._chain.state.genesis.kappa)
        return gained.scores, gained.update

    def _base(self, task: int, found: dict[str, Any]) -> bytes:
        """Returns the global model that a round began with."""
        entries: Any = self._chain.state.entries
        for round in range(found["round"] - 1, 0, -1):  # rounds without a model left it as it was
            if (row := entries.get(f"model/{task}/{round}")) is not None:
                return self._contents.get(encode_cid(row["cid"]))
        return self._contents.get(encode_cid(found["model"]))

    def _put(self, model: bytes) -> bytes:
        address = cid_of(model, self._profile)
        if not self._contents.has(address):
            self._contents.put(model)
        return decode_cid(address)

    # Shared updates

    def meetings(self) -> list[tuple[int, int]]:
        """Returns task and round where the miners should now open together what was shared."""
        places = []
        for task in self._tasks() if self._shared else []:
            found = self._chain.state.task(task)
            enough = found["posted"] >= needed(found["rule"], self._chain.state.genesis.f)
            if any(self._ends(found)) and enough and (task, found["round"]) not in self._parties:
                places.append((task, int(found["round"])))
        return places

    def party(self, task: int) -> Party:
        """Returns this miner's part in opening the shares of a closed round; each round is opened once.

        Raises:
            PrivetError: an update is not here.
        """
        assert self._epochs is not None  # noqa: S101 - shares are sealed
        state, found = self._chain.state, self._chain.state.task(task)
        genesis = state.genesis
        dealt = {row["customer"]: self._dealt(row) for row in self._rows(task, found)}
        record = Record(
            self._terms(task, found["round"]),
            found["rule"],
            genesis.f,
            genesis.kappa,
            self._chain.seed,
            {customer: each.commitments for customer, each in dealt.items()},
            [miner.key for miner in genesis.miners],
        )
        recipients = {miner: public for miner, (_, public) in state.epochs().items()}
        made = self._parties[task, found["round"]] = Party(record, dealt, self._secret, self._epochs, recipients)
        return made

    def _terms(self, task: int, round: int) -> Terms:
        genesis = self._chain.state.genesis
        return sharing.terms(len(genesis.miners), self._size(task), genesis.hash, task, round)

    def _dealt(self, row: dict[str, Any]) -> sharing.Dealt:
        content, genesis = self._contents.get(encode_cid(row["cid"])), self._chain.state.genesis
        place = (genesis.hash, row["task"], row["round"], row["customer"])
        if len(content) != row["size"] or binding(*place, sharing.commitment(content)) != row["digest"]:
            raise InputError("the update is not what its sender signed")
        return sharing.Dealt.decode(content, len(genesis.miners))

    # Updates

    def _read(self, row: dict[str, Any]) -> None:
        """Reads an update as far as a miner can alone.

        Raises:
            PrivetError: its bytes are missing, or are not what its sender signed.
        """
        if not self._shared:
            self._steps(row)
        elif row["digest"] not in self._sound:
            self._dealt(row)
            self._sound.add(row["digest"])

    def _steps(self, row: dict[str, Any]) -> Steps:
        """Returns an update, opened.

        Raises:
            PrivetError: its bytes are missing, or are not what its sender signed.
        """
        if row["digest"] not in self._opened:
            plain = self._plain(self._contents.get(encode_cid(row["cid"])), row)
            self._opened[row["digest"]] = from_bytes(plain, self._size(row["task"]))
        return self._opened[row["digest"]]

    def _size(self, task: int) -> int:
        if task not in self._sizes:
            self._sizes[task] = len(self._contents.get(encode_cid(self._chain.state.task(task)["model"]))) // 4
        return self._sizes[task]

    def _plain(self, content: bytes, row: dict[str, Any]) -> bytes:
        place = (self._chain.state.genesis.hash, row["task"], row["round"], row["customer"])
        if len(content) != row["size"]:
            raise InputError("the update is not of the size that was signed")
        if self._epochs is None:
            plain, commitment = content, hashlib.sha256(content).digest()
        else:
            sealed = Sealed.decode(content)
            data_key = self._data_key(sealed, encode_cid(row["cid"]), purpose(*place))
            plain, commitment = sealed.open_with(data_key, purpose(*place)), sealed.digest
        if binding(*place, commitment) != row["digest"]:
            raise InputError("the update is not what its sender signed")
        return plain

    # Data keys

    def data_key(self, address: str) -> bytes | None:
        """Returns the data key of a sealed update, for a miner whose own wrap is wrong; None where this one has none.

        Only of updates that are in a block, final or proposed: what nobody has proposed yet stays closed.
        """
        rows = (row for task in self._tasks() for row in self._rows(task, self._chain.state.task(task)))
        row = self._listed.get(address) or next((row for row in rows if encode_cid(row["cid"]) == address), None)
        if row is None or self._epochs is None or self._shared:
            return None
        context = purpose(self._chain.state.genesis.hash, row["task"], row["round"], row["customer"])
        try:
            return self._own_key(Sealed.decode(self._contents.get(address)), context)
        except PrivetError:
            return None

    def _data_key(self, sealed: Sealed, address: str, context: bytes) -> bytes:
        try:
            return self._own_key(sealed, context)
        except PrivetError:
            for data_key in self.ask(address):
                if sealed.fits(data_key):
                    return data_key
            raise

    def _own_key(self, sealed: Sealed, context: bytes) -> bytes:
        assert self._epochs is not None  # noqa: S101 - whoever asks has keys
        secret = self._epochs.secret(sealed.epoch_key(self.key))
        return sealed.data_key(self.key, secret, context)
