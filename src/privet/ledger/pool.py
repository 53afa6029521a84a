"""Transactions that wait for a block: authentic ones only, in bounds, so that no sender can fill a miner's memory.

A sender's transactions count in the order of their nonces, so the pool hands them out in that order, one of each sender
after the other. Whether the chain will take one is only known when a block is made; what it has not taken for
:data:`PATIENCE` blocks is dropped, and what it would refuse now gives way to another of the same nonce.
"""

from __future__ import annotations

import threading
from typing import Protocol

from privet.errors import InputError, RefusedError
from privet.ledger.blocks import Block
from privet.ledger.state import State
from privet.ledger.transactions import MAX_BYTES, Transaction

MOST, MOST_BYTES = 20_000, 32 << 20
"""Transactions that wait at most, and their bytes in all."""

EACH = 2_000
"""Transactions of one sender that wait at most; nonces further ahead are refused."""

BLOCK, BLOCK_BYTES = 2_000, 1 << 20
"""Transactions that are listed for one block at most, and their bytes."""

PATIENCE = 1_000


class _Grown(Protocol):
    @property
    def state(self) -> State:
        """After the last block."""


class Pool:
    """What waits at one miner. Several threads may use it.

    Args:
        chain: tells what the state is now.
        most: transactions at most.
        most_bytes: their bytes at most.
        each: of one sender at most.
    """

    def __init__(self, chain: _Grown, *, most: int = MOST, most_bytes: int = MOST_BYTES, each: int = EACH) -> None:
        self._chain, self._most, self._most_bytes, self._each = chain, most, most_bytes, each
        self._waiting: dict[bytes, dict[int, tuple[Transaction, int, int]]] = {}
        self._count = self.bytes = 0
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def add(self, transaction: Transaction) -> bool:
        """Lets a transaction wait; returns False if it waits already.

        Raises:
            InputError: it is longer than a transaction may be.
            RefusedError: it is for another chain, not authentic, stale or too far ahead, its nonce is taken by another
                that the chain could still take, or the pool is full.
        """
        size = len(transaction.encode())
        if size > MAX_BYTES:
            raise InputError(f"a transaction of {size} bytes is oversize", allowed=f"up to {MAX_BYTES}")
        if transaction.chain != self._chain.state.genesis.hash:
            raise RefusedError("the transaction is for another chain")
        self._check_nonce(transaction)
        if not transaction.authentic:
            raise RefusedError("the signature is not the sender's")
        with self._guard:
            state = self._check_nonce(transaction)  # again: since then a block may have taken it, and been dropped
            before = self._waiting.get(transaction.sender, {}).get(transaction.nonce)
            if before is not None:
                if before[0].id == transaction.id:
                    return False
                if _wanted(state, before[0]):
                    raise RefusedError(f"another transaction with nonce {transaction.nonce} waits", do="wait for it")
                self._remove(transaction.sender, transaction.nonce)
            if self._count >= self._most or self.bytes + size > self._most_bytes:
                raise RefusedError("the pool is full", do="try again when the next blocks are there")
            own = self._waiting.setdefault(transaction.sender, {})
            own[transaction.nonce] = (transaction, size, state.height)
            self._count += 1
            self.bytes += size
        return True

    def listed(self, state: State, most: int = BLOCK, most_bytes: int = BLOCK_BYTES) -> list[Transaction]:
        """Returns what could come into the next block: each sender's in the order of nonces, without gaps.

        Senders take turns, whoever has waited longest first.

        Args:
            state: which nonces are due.
            most: transactions at most.
            most_bytes: their bytes at most.
        """
        found: list[Transaction] = []
        with self._guard:
            turns = [(sender, state.nonce(sender)) for sender in self._waiting]
            while turns:
                later = []
                for sender, nonce in turns:
                    next_one = self._waiting[sender].get(nonce)
                    if next_one is None:
                        continue
                    if len(found) >= most or next_one[1] > most_bytes:
                        return found
                    most_bytes -= next_one[1]
                    found.append(next_one[0])
                    later.append((sender, nonce + 1))
                turns = later
        return found

    def due(self, sender: bytes) -> int:
        """Returns the nonce of a sender's next transaction, behind those that wait without a gap."""
        with self._guard:
            nonce, own = self._chain.state.nonce(sender), self._waiting.get(sender, {})
            while nonce in own:
                nonce += 1
        return nonce

    def drop(self, block: Block) -> None:
        """Forgets what a block that the chain has taken made stale, and what has waited too long."""
        state = self._chain.state
        with self._guard:
            for sender in {each.sender for each in block.transactions} & self._waiting.keys():
                due = state.nonce(sender)
                for nonce in [each for each in self._waiting[sender] if each < due]:
                    self._remove(sender, nonce)
            if state.height % 100 == 0:
                old = [
                    (sender, nonce)
                    for sender, own in self._waiting.items()
                    for nonce, (_, _, since) in own.items()
                    if since + PATIENCE <= state.height
                ]
                for sender, nonce in old:
                    self._remove(sender, nonce)

    def _check_nonce(self, transaction: Transaction) -> State:
        state = self._chain.state
        due = state.nonce(transaction.sender)
        if not due <= transaction.nonce < due + self._each:
            why = "stale" if transaction.nonce < due else "too far ahead"
            raise RefusedError(f"nonce {transaction.nonce} is {why}", allowed=f"{due} to {due + self._each - 1}")
        return state

    def _remove(self, sender: bytes, nonce: int) -> None:
        _, size, _ = self._waiting[sender].pop(nonce)
        self._count -= 1
        self.bytes -= size
        if not self._waiting[sender]:
            del self._waiting[sender]


def _wanted(state: State, transaction: Transaction) -> bool:
    """Says whether the chain could still take a transaction: it is not due yet, or would be taken now."""
    if transaction.nonce != state.nonce(transaction.sender):
        return True
    try:
        state.draft().apply(transaction)
    except RefusedError:
        return False
    return True
