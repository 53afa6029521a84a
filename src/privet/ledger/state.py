"""The state machine: the same transactions in the same order give the same state on every machine.

All of it is integers, bytes and text; a header commits to it, so a miner whose state differs notices at the
first block. No rule looks at a clock, at randomness or at anything outside the chain.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from typing import Any

from privet.errors import InputError, RefusedError
from privet.ledger.book import Book
from privet.ledger.encoding import Value, encode, from_natural
from privet.ledger.genesis import Genesis
from privet.ledger.miner_rules import decided
from privet.ledger.rules import RULES, settlement
from privet.ledger.transactions import Transaction

SNAPSHOTS = 1000
"""At heights that this divides, the commitment is to the whole state, so that it can be fetched and checked."""


class State:
    """What the chain knows after a block.

    Attributes:
        genesis: where it began.
        height: of the last block; 0 at the genesis.
        commitment: sha256 that the header of that height holds.
        entries: everything that is known; :mod:`privet.ledger.book` has the keys.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.height = 0
        self.entries: dict[str, Value] = {
            f"balance/{key.hex()}": tokens for key, tokens in genesis.manufacturers.items()
        }
        self.commitment = hashlib.sha256(encode(self.entries)).digest()

    def draft(self) -> Draft:
        """Returns the next height's state in the making; this one stays as it is."""
        return Draft(self)

    def accept(self, draft: Draft) -> None:
        """Makes a draft of the next height this state.

        Raises:
            InputError: the draft was begun from another state or height.
        """
        if draft.state is not self or draft.height != self.height + 1:
            raise InputError("a draft of another state or height can't be accepted")
        self.commitment = draft.commitment()
        self.entries.update(draft.changes)
        self.height += 1

    def restore(self, height: int, commitment: bytes, entries: dict[str, Value]) -> None:
        """Takes over a state that was checked elsewhere; :func:`privet.ledger.snapshot.begin` checks one.

        Raises:
            InputError: this state is behind the genesis already.
        """
        if self.height:
            raise InputError(f"a state at height {self.height} can't begin anew")
        self.height, self.commitment, self.entries = height, commitment, entries

    def nonce(self, key: bytes) -> int:
        """Returns the nonce that somebody's next transaction needs."""
        return self._book().number(f"nonce/{key.hex()}")

    def balance(self, key: bytes) -> int:
        """Returns how many tokens somebody holds."""
        return self._book().number(f"balance/{key.hex()}")

    def reputation(self, key: bytes) -> int | None:
        """Returns a customer's reputation; None before it enrolled anywhere."""
        found = self.entries.get(f"reputation/{key.hex()}")
        return found if isinstance(found, int) else None

    def task(self, number: int) -> dict[str, Any]:
        """Returns a task: what was posted, its round, phase (open, judged, aggregated, done) and money."""
        return self._book().task(number)

    def updates(self, number: int) -> list[dict[str, Any]]:
        """Returns the updates of a task's open round in the order of the customers' keys."""
        return self._book().updates(number, self.task(number))

    def judged(self, number: int, round: int) -> list[dict[str, Any]]:
        """Returns the updates that a verdict was about, with its ``score``, in the order of the customers' keys."""
        rows: Any = self.entries.get(f"judged/{number}/{round}", [])
        found: list[dict[str, Any]] = []
        for customer, score, _, _ in rows:
            place = self._book().number(f"posted/{number}/{round}/{customer.hex()}")
            row = self._book().row(f"update/{number}/{round}/{place}") or {}
            found.append({**row, "score": from_natural(score)})
        return found

    def settlement(self, number: int) -> dict[str, Any]:
        """Returns the body of the settlement of a task's round, once it has a verdict."""
        return settlement(self._book(), number)

    def offences(self) -> list[str]:
        """Returns who voted twice, and where: ``KEY/HEIGHT/PERIOD/STEP``, sorted."""
        return sorted(key.removeprefix("offence/") for key in self.entries if key.startswith("offence/"))

    def falsehoods(self) -> list[str]:
        """Returns who signed another result than the round's, and where: ``KEY/TASK/ROUND/KIND``, sorted."""
        return sorted(key.removeprefix("falsehood/") for key in self.entries if key.startswith("falsehood/"))

    def epochs(self) -> dict[bytes, tuple[int, bytes]]:
        """Returns miner's key -> (number, X25519 public key) of the newest key to seal for, where one is registered."""
        rows = {miner.key: self._book().row(f"epoch/{miner.key.hex()}") for miner in self.genesis.miners}
        return {miner: (row["number"], row["key"]) for miner, row in rows.items() if row is not None}

    def version(self, height: int) -> int:
        """Returns which version of the rules holds at a height, by the upgrades decided so far; 1 at first."""
        return next((version for start, version in reversed(decided(self._book())) if start <= height), 1)

    def tokens(self) -> int:
        """Returns all tokens: balances and what tasks hold aside; the same at every height."""
        balances = [value for key, value in self.entries.items() if key.startswith("balance/")]
        tasks = [self.task(number) for number in range(1, self._book().number("tasks") + 1)]
        return sum(value for value in balances if isinstance(value, int)) + sum(int(task["escrow"]) for task in tasks)

    def _book(self) -> Book:
        return Book(self.genesis, ChainMap(self.entries), self.height)


class Draft:
    """The state of the next height while its transactions come in.

    Attributes:
        height: the next height.
        changes: the entries that differ from the state's.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.height = state.height + 1
        self.changes: dict[str, Value] = {}

    def apply(self, transaction: Transaction) -> None:
        """Takes a transaction.

        Raises:
            RefusedError: with the reason; nothing is changed.
        """
        book = Book(self.state.genesis, ChainMap({}, self.changes, self.state.entries), self.height)
        if transaction.chain != self.state.genesis.hash:
            raise RefusedError("the transaction is for another chain")
        sender = f"nonce/{transaction.sender.hex()}"
        nonce = book.number(sender)
        if transaction.nonce != nonce:
            why = "a replay" if transaction.nonce < nonce else "a gap"
            raise RefusedError(f"nonce {transaction.nonce} is {why}", allowed=f"{nonce}")
        if not transaction.authentic:
            raise RefusedError("the signature is not the sender's")
        RULES[transaction.kind](book, transaction.sender, transaction.body)
        book.put(sender, nonce + 1)
        self.changes.update(book.entries.maps[0])

    def commitment(self) -> bytes:
        """Returns what the header of this height holds: a hash over the changes, or over everything at a snapshot."""
        if self.height % SNAPSHOTS == 0:
            return hashlib.sha256(encode({**self.state.entries, **self.changes})).digest()
        return hashlib.sha256(encode([self.state.commitment, self.changes])).digest()
