"""What a miner does besides voting: it works out each round for itself, and votes for nothing else.

A round is worked out only when final blocks have closed it for good: its time is over, or every place is taken and has
posted. What it gives is then determined, so two miners that sign different results can't both be honest, and whoever
signed the one that the chain does not take is named (transaction ``refute``).
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from privet.aggregation.exact import Steps, aggregate, restore
from privet.aggregation.share_checks import Terms
from privet.crypto.signatures import public_key
from privet.errors import PrivetError, RefusedError
from privet.ledger.blocks import Block
from privet.ledger.book import Book
from privet.ledger.content import cid_of, decode_cid, encode_cid
from privet.ledger.encoding import Value, natural
from privet.ledger.reputation import needed
from privet.ledger.rules import settlement
from privet.ledger.sealing import EpochKeys
from privet.ledger.transactions import FINDINGS, Transaction
from privet.study import sharing
from privet.study.openings import Record
from privet.study.parties import Party
from privet.study.updates import Contents, Grown, Updates, unfinished

_HEARD = 64
"""Findings of each miner that are remembered until the chain has decided."""


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
        self._found: dict[tuple[int, int], list[tuple[str, dict[str, Value]]]] = {}
        self._said: dict[bytes, Transaction] = {}
        self._shared, self._parties = shared, dict[tuple[int, int], Party]()
        self.wishes: list[tuple[str, dict[str, Value]]] = []
        self.ask: Callable[[str], Iterable[bytes]] = lambda address: ()
        self._updates = Updates(chain, self.key, contents, epochs, shared=shared, ask=lambda address: self.ask(address))

    # As a voter

    def in_hand(self, block: Block) -> bool:
        """Returns whether every byte that a block lists is here and right, and every result in it is this miner's."""
        self._updates.note(block.transactions)
        for one in block.transactions:
            self.heard(one)  # whoever lies only when it leads has signed it here
        return all(map(self._agrees, block.transactions))

    def _agrees(self, one: Transaction) -> bool:
        body: dict[str, Any] = one.body
        try:
            match one.kind:
                case "task":
                    model = self._contents.get(encode_cid(body["model"]))
                    return hashlib.sha256(model).digest() == body["digest"] and len(model) % 4 == 0
                case "update":
                    self._updates.check({**body, "customer": one.sender})
                case "verdict" | "model":
                    return (one.kind, body) in self._results(body["task"])
        except PrivetError:
            return False
        return True

    # As a leader

    def offer(self, pool: Iterable[Transaction]) -> list[Transaction]:
        """Returns what this miner would put into a block: what it can vouch for of the pool, then its own findings."""
        taken = [one for one in pool if one.kind not in FINDINGS and self._agrees(one)]
        self._updates.note(taken)
        nonce = self._chain.state.nonce(self.key) + sum(one.sender == self.key for one in taken)
        own = [*self.wishes, *(result for task in unfinished(self._chain.state) for result in self._results(task))]
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
            self._found.clear()
            self._parties.clear()
            self._updates.forget()
        self.wishes = [wish for wish in self.wishes if self._refusal(*wish) is None]
        self._refute()
        return self.findings() + (self.signed(self.keys()) if ended else [])

    def findings(self) -> list[Transaction]:
        """Returns this miner's finding on each round that is closed, for the other miners to hear."""
        said = [
            result
            for task in unfinished(self._chain.state)
            for result in self._results(task)
            if result[0] in ("verdict", "model")
        ]
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

    def data_key(self, address: str) -> bytes | None:
        """Returns the data key of a sealed update that is in a block, for a miner whose own wrap is wrong, or None."""
        return self._updates.data_key(address)

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

    def _work_out(self, task: int, found: dict[str, Any]) -> list[tuple[str, dict[str, Value]]]:
        state, round = self._chain.state, found["round"]
        rows = self._updates.rows(task)
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
            return self._aggregated([self._updates.steps(row) for row in rows], rule)
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
        for task in unfinished(self._chain.state) if self._shared else []:
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
        dealt = {row["customer"]: self._updates.dealt(row) for row in self._updates.rows(task)}
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
        return sharing.terms(len(genesis.miners), self._updates.size(task), genesis.hash, task, round)
