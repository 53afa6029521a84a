"""The entries of the state as the rules read and change them while one transaction is looked at.

Keys are text, values are canonical: ``balance/KEY``, ``nonce/KEY``, ``reputation/KEY``, ``tasks``, ``task/N``,
``enrolled/N/KEY``, ``cid/CID``, and for each round ``update/N/ROUND/INDEX``, ``posted/N/ROUND/KEY``,
``judged/N/ROUND``, ``model/N/ROUND``, ``due/N/ROUND/KEY``; of miners ``offence/KEY/HEIGHT/PERIOD/STEP``,
``falsehood/KEY/N/ROUND/KIND``, ``epoch/KEY``, ``upgrade/KEY`` and ``versions``. Public keys and content addresses are
written in hexadecimal.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from privet.errors import RefusedError
from privet.ledger.encoding import Value
from privet.ledger.genesis import Genesis


class Book:
    """The entries, with changes that are dropped when the transaction is refused.

    Attributes:
        genesis: the rules.
        entries: key -> value; values are replaced, never changed in place.
        height: of the block that is being looked at.
    """

    def __init__(self, genesis: Genesis, entries: ChainMap[str, Value], height: int) -> None:
        self.genesis = genesis
        self.entries = entries
        self.height = height

    def number(self, key: str, default: int = 0) -> int:
        """Returns an entry that is a number."""
        found = self.entries.get(key, default)
        assert type(found) is int  # noqa: S101 - the rules wrote it
        return found

    def row(self, key: str) -> dict[str, Any] | None:
        """Returns an entry that is a map, or None when there is none."""
        found = self.entries.get(key)
        return found if isinstance(found, dict) else None

    def put(self, key: str, value: Value) -> None:
        """Writes an entry."""
        self.entries[key] = value

    def task(self, number: int) -> dict[str, Any]:
        """Returns a copy of a task.

        Raises:
            RefusedError: there is no such task.
        """
        found = self.row(f"task/{number}")
        if found is None:
            raise RefusedError(f"there is no task {number}")
        return dict(found)

    def move(self, key: bytes, amount: int) -> None:
        """Adds tokens to somebody's balance, or takes them.

        Raises:
            RefusedError: the balance would be negative.
        """
        held = self.number(f"balance/{key.hex()}")
        if held + amount < 0:
            raise RefusedError(f"{key.hex()[:16]} holds {held} tokens, {-amount} are needed")
        self.put(f"balance/{key.hex()}", held + amount)

    def updates(self, number: int, task: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the updates of a task's open round in the order of the customers' keys."""
        place = f"update/{number}/{task['round']}"
        found = [self.row(f"{place}/{at}") or {} for at in range(task["posted"])]
        return sorted(found, key=lambda update: bytes(update["customer"]))
