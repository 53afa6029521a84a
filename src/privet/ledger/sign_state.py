"""What a miner has signed, on the disk before it leaves: after a crash it never says the contrary.

A vote is written to a new file that is synced and put in the place of the old one, and the folder is synced too; only
then does :meth:`SignState.vote` return. The record is of one height and holds the miner's lock as well, without which
a restarted miner could vote against what it helped to make final.

What can't be told: an old copy of both chain and sign-state, restored together on a machine that hears of nobody.
A miner that then meets a vote of its own that it does not know stops voting (:mod:`privet.ledger.consensus`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError, RunError
from privet.ledger.blocks import Block
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.fields import Field, digest, key, read, text, whole
from privet.ledger.genesis import Genesis
from privet.ledger.messages import Lock
from privet.ledger.votes import STEPS, Certificate, Vote
from privet.transport.durable import replace_file, sync_folder

_RECORD: dict[str, Field] = {
    "chain": text(64),
    "genesis": digest,
    "miner": key,
    "height": whole(),
    "said": lambda value: isinstance(value, list),
    "lock": lambda value: value is None or isinstance(value, list),
    "entry": lambda value: isinstance(value, list),
}


class Storage(Protocol):
    """Where the record lies."""

    def read(self) -> bytes | None:
        """Returns the last bytes that were written, or None when none ever were."""

    def write(self, data: bytes) -> None:
        """Returns once the bytes would survive a power cut; when it raises, either they or the old ones are there."""


class DurableFile:
    """A file that is replaced as a whole.

    Args:
        path: the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        """Returns the file's bytes, or None when there is no file."""
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, data: bytes) -> None:
        """Replaces the file; returns once file and folder are synced."""
        replace_file(self.path, data)
        sync_folder(self.path.parent)


class SignState:
    """The votes of one miner at one height, and its lock.

    Args:
        storage: where the record lies.
        genesis: of the chain.
        secret: the miner's seed for signatures, 32 bytes.
        chain_height: height that the miner's chain has reached.

    Attributes:
        height: of the votes; 0 before the first.
        said: (period, step) -> block.
        lock: the lock that the last certify vote of this height was cast with.
        entry: votes that let the miner into the last period in which it voted.

    Raises:
        RunError: the record is missing although the chain has grown, older than the chain, damaged, or another's.
    """

    def __init__(self, storage: Storage, genesis: Genesis, secret: bytes, chain_height: int) -> None:
        self.genesis, self.key = genesis, public_key(secret)
        self._secret, self._storage, self._sound = secret, storage, True
        self.height = 0
        self.said: dict[tuple[int, str], bytes] = {}
        self.lock: Lock | None = None
        self.entry: tuple[Vote, ...] = ()
        data = storage.read()
        if data is None and chain_height:
            raise RunError("the sign-state is missing", do="restore it; without it this key could sign twice")
        if data is not None:
            self._load(data)
        if self.height < chain_height:
            raise RunError(
                f"the sign-state is of height {self.height}, older than the chain at {chain_height}",
                do="an old copy could sign twice: restore the latest, or register a new key",
            )

    def vote(
        self,
        height: int,
        period: int,
        step: str,
        block: bytes,
        *,
        lock: Lock | None = None,
        entry: tuple[Vote, ...] = (),
    ) -> Vote:
        """Returns a signed vote, after it is on the disk.

        Args:
            height: not below an earlier vote's.
            period: not below an earlier vote's of this height.
            step: after an earlier vote's of this period; ``next`` not after ``certify``.
            block: what the vote is for; the same vote may be asked for again.
            lock: needed with ``certify``: what the miner is bound to from now on.
            entry: votes that let the miner into this period.

        Raises:
            RefusedError: the vote contradicts, or goes back behind, what was signed.
            OSError: it could not be written; the vote must not be cast, and this object signs nothing more.
        """
        if not self._sound:
            raise RefusedError("the sign-state could not be written", do="mend the disk and start the miner again")
        if (height, self.said.get((period, step))) != (self.height, block):
            self._refuse_contrary(height, period, step)
            said = self.said if height == self.height else {}
            held = self.lock if height == self.height else None
            self._save(height, {**said, (period, step): block}, lock or held, entry)
        return Vote.signed(self._secret, self.genesis.name, self.genesis.hash, height, period, step, block)

    def reach(self, height: int) -> None:
        """Notes that the chain is about to reach a height, so that an older copy of this record is found out.

        Raises:
            OSError: it could not be written.
        """
        if height > self.height:
            self._save(height, {}, None, ())

    def _refuse_contrary(self, height: int, period: int, step: str) -> None:
        last = max(((at, STEPS.index(each)) for at, each in self.said), default=(-1, -1))
        behind = height < self.height or (height == self.height and (period, STEPS.index(step)) <= last)
        if behind or (height == self.height and step == "next" and (period, "certify") in self.said):
            raise RefusedError(
                f"a {step} vote at height {height}, period {period} could contradict what was signed",
                allowed=f"what comes after height {self.height}, period {last[0]}, step {last[1]}",
            )

    def _save(
        self, height: int, said: dict[tuple[int, str], bytes], lock: Lock | None, entry: tuple[Vote, ...]
    ) -> None:
        held: Value = None if lock is None else [lock.block.encode(), lock.certificate.encode()]
        votes: Value = [[period, step, block] for (period, step), block in said.items()]
        table: dict[str, Value] = {
            "chain": self.genesis.name,
            "genesis": self.genesis.hash,
            "miner": self.key,
            "height": height,
            "said": votes,
            "lock": held,
            "entry": [vote.encode() for vote in entry],
        }
        data = encode(table)
        self._sound = False  # until the disk has it: after an error nobody knows which record is there
        self._storage.write(hashlib.sha256(data).digest() + data)
        self._sound = True
        self.height, self.said, self.lock, self.entry = height, said, lock, entry

    def _load(self, data: bytes) -> None:
        try:
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                raise InputError("its hash is wrong")
            table: dict[str, Any] = read("sign-state", decode(data[32:]), _RECORD)
        except InputError as error:
            raise RunError(f"the sign-state is damaged: {error.wrong}", do="restore the latest") from None
        owner = (table["chain"], table["genesis"], table["miner"])
        if owner != (self.genesis.name, self.genesis.hash, self.key):
            raise RunError("the sign-state is of another chain or miner")
        self.height = table["height"]
        self.said = {(period, step): block for period, step, block in table["said"]}
        if table["lock"] is not None:
            block, certificate = table["lock"]
            self.lock = Lock(Block.decode(block), Certificate.decode(certificate))
        self.entry = tuple(Vote.decode(vote) for vote in table["entry"])
