"""Updates that a chain lists, as one miner reads them: found by address, opened, held against what was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from privet.aggregation.exact import Steps, from_bytes
from privet.errors import InputError, PrivetError
from privet.ledger.content import encode_cid
from privet.ledger.encoding import encode
from privet.ledger.sealing import EpochKeys, Sealed
from privet.ledger.state import State
from privet.ledger.transactions import Transaction, binding
from privet.study import sharing


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


def unfinished(state: State) -> list[int]:
    """Returns the tasks that go on."""
    count = state.entries.get("tasks", 0)
    assert isinstance(count, int)  # noqa: S101 - the rules wrote it
    return [task for task in range(1, count + 1) if state.task(task)["phase"] != "done"]


class Updates:
    """Reads the updates of open rounds, each once; a row is what the chain lists of one, with task, round and customer.

    Args:
        chain: the miner's.
        key: the miner's public key.
        contents: where updates lie.
        epochs: its keys that open what is sealed for it; None where updates are plain.
        shared: whether updates come as shares, of which a miner alone opens nothing.
        ask: asks the other miners for the data key of a sealed update, by its address; nothing they say is trusted.
    """

    def __init__(
        self,
        chain: Grown,
        key: bytes,
        contents: Contents,
        epochs: EpochKeys | None,
        *,
        shared: bool,
        ask: Callable[[str], Iterable[bytes]],
    ) -> None:
        self._chain, self._key, self._contents = chain, key, contents
        self._epochs, self._shared, self._ask = epochs, shared, ask
        self._sizes: dict[int, int] = {}
        self._opened: dict[bytes, Steps] = {}
        self._sound = set[bytes]()
        self._listed: dict[str, dict[str, Any]] = {}

    def note(self, proposed: Iterable[Transaction]) -> None:
        """Takes note of the updates among a block's transactions."""
        for one in proposed:
            if one.kind == "update":
                row: dict[str, Any] = {**one.body, "customer": one.sender}
                self._listed[encode_cid(row["cid"])] = row

    def forget(self) -> None:
        """Forgets what was read of a round that ended."""
        for kept in (self._opened, self._sound, self._listed):
            kept.clear()

    def rows(self, task: int) -> list[dict[str, Any]]:
        """Returns the updates of a task's round that are in final blocks."""
        state = self._chain.state
        round = state.task(task)["round"]
        return [{**row, "task": task, "round": round} for row in state.updates(task)]

    def check(self, row: dict[str, Any]) -> None:
        """Reads an update as far as a miner can alone.

        Raises:
            PrivetError: its bytes are missing, or are not what its sender signed.
        """
        if not self._shared:
            self.steps(row)
        elif row["digest"] not in self._sound:
            self.dealt(row)
            self._sound.add(row["digest"])

    def steps(self, row: dict[str, Any]) -> Steps:
        """Returns an update, opened.

        Raises:
            PrivetError: its bytes are missing, or are not what its sender signed.
        """
        if row["digest"] not in self._opened:
            plain = self._plain(self._contents.get(encode_cid(row["cid"])), row)
            self._opened[row["digest"]] = from_bytes(plain, self.size(row["task"]))
        return self._opened[row["digest"]]

    def dealt(self, row: dict[str, Any]) -> sharing.Dealt:
        """Returns an update that came as shares.

        Raises:
            PrivetError: its bytes are missing, or are not what its sender signed.
        """
        content, genesis = self._contents.get(encode_cid(row["cid"])), self._chain.state.genesis
        if len(content) != row["size"] or binding(*self._place(row), sharing.commitment(content)) != row["digest"]:
            raise InputError("the update is not what its sender signed")
        return sharing.Dealt.decode(content, len(genesis.miners))

    def size(self, task: int) -> int:
        """Returns how many numbers a task's model has."""
        if task not in self._sizes:
            self._sizes[task] = len(self._contents.get(encode_cid(self._chain.state.task(task)["model"]))) // 4
        return self._sizes[task]

    def data_key(self, address: str) -> bytes | None:
        """Returns the data key of a sealed update, for a miner whose own wrap is wrong; None where this one has none.

        Only of updates that are in a block, final or proposed: what nobody has proposed yet stays closed.
        """
        rows = (row for task in unfinished(self._chain.state) for row in self.rows(task))
        row = self._listed.get(address) or next((row for row in rows if encode_cid(row["cid"]) == address), None)
        if row is None or self._epochs is None or self._shared:
            return None
        try:
            return self._own_key(Sealed.decode(self._contents.get(address)), purpose(*self._place(row)))
        except PrivetError:
            return None

    def _place(self, row: dict[str, Any]) -> tuple[bytes, int, int, bytes]:
        return self._chain.state.genesis.hash, row["task"], row["round"], row["customer"]

    def _plain(self, content: bytes, row: dict[str, Any]) -> bytes:
        place = self._place(row)
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

    def _data_key(self, sealed: Sealed, address: str, context: bytes) -> bytes:
        try:
            return self._own_key(sealed, context)
        except PrivetError:
            for data_key in self._ask(address):
                if sealed.fits(data_key):
                    return data_key
            raise

    def _own_key(self, sealed: Sealed, context: bytes) -> bytes:
        assert self._epochs is not None  # noqa: S101 - whoever asks has keys
        secret = self._epochs.secret(sealed.epoch_key(self._key))
        return sealed.data_key(self._key, secret, context)
