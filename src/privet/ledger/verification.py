"""Anybody can replay a chain from its folder, and is told the first block that is wrong, in which file and why."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.errors import ContentError, InputError, PrivetError, RunError
from privet.ledger import snapshot
from privet.ledger.blocks import Block
from privet.ledger.content import encode_cid
from privet.ledger.folder_store import FolderStore
from privet.ledger.genesis import Genesis
from privet.ledger.replay import Replay
from privet.ledger.state import State
from privet.ledger.store import Store
from privet.ledger.transactions import binding
from privet.ledger.votes import Certificate

Scores = Callable[[Sequence[bytes], str, int], list[int]]
"""Updates' bytes in the order of their customers' keys, rule and f -> the score of each."""

GENESIS_FILE = "genesis.cbor"
CHAIN_FILE = "chain.sqlite"
CONTENTS = "store"
BASE_FILE = "base.cbor"
"""The state that a chain began with which came from a snapshot."""


@dataclass(frozen=True)
class Wrong:
    """The first thing that does not verify.

    Attributes:
        height: of the block.
        file: which file of the ledger's folder is wrong.
        reason: one line.
    """

    height: int
    file: str
    reason: str


@dataclass(frozen=True)
class Verified:
    """What a replay found.

    Attributes:
        height: of the last block that verifies.
        transactions: how many stand in the blocks up to it.
        first_wrong: None when everything verifies.
        since: 0 when the replay began at the genesis; else the height of the snapshot that the chain began with: of the
            blocks before, only the state that miners certified there is known.
    """

    height: int
    transactions: int
    first_wrong: Wrong | None
    since: int = 0


def verify(run: Path, scores: Scores | None = None) -> Verified:
    """Replays a chain from its genesis: encoding, links, Merkle roots, signatures, VRF proofs, rules, state,
    certificates, the index, and the contents that are at hand.

    Args:
        run: the folder of a run.
        scores: works the scores of a round out of its updates' plain bytes; with it, every verdict is
            worked out again whose updates are all at hand and not sealed.

    A chain whose last blocks are missing verifies: only who knows a later certificate can tell.

    Raises:
        RunError: there is no chain in the folder.
    """
    folder = find(run)
    try:
        replay = Replay(Genesis.decode(genesis_bytes(folder)))
    except InputError as error:
        return Verified(0, 0, Wrong(0, GENESIS_FILE, error.advice()))
    wrong, transactions = follow(replay, folder, scores)
    height = replay.state.height
    if wrong is not None:
        height = max(min(wrong.height - 1, height), 0)
    return Verified(height, transactions, wrong, replay.since)


def find(run: Path) -> Path:
    """Returns the folder of a run's chain: ``ledger/`` in it, or the folder itself.

    Raises:
        RunError: there is no chain.
    """
    for folder in (run / "ledger", run):
        if (folder / GENESIS_FILE).is_file() or (folder / CHAIN_FILE).is_file():
            return folder
    raise RunError(f"no chain in {run}", do="give the folder of a run that kept a ledger")


def follow(replay: Replay, folder: Path, scores: Scores | None = None) -> tuple[Wrong | None, int]:
    """Takes all blocks of a folder; returns the first wrong one and how many transactions came before it.

    Args:
        replay: where to begin, at the genesis; goes on with every block that verifies.
        folder: the chain's, from :func:`find`.
        scores: as in :func:`verify`.
    """
    transactions, height = 0, 0
    try:
        with closing(Store(folder / CHAIN_FILE)) as store:
            if store.block(0) != (replay.genesis.encode(), b""):
                raise RunError(f"the genesis in {CHAIN_FILE} is not that of {GENESIS_FILE}")
            count, indexed = store.counts()
            if (folder / BASE_FILE).exists():
                height = store.base()
                try:
                    transactions = len(_begin(replay, store, height, folder).transactions)
                except ContentError as error:
                    return Wrong(height, BASE_FILE, error.wrong), 0
            for height in range(replay.since + 1, replay.since + count - (replay.since > 0)):
                block = _next(replay, store, height)
                damaged = _damaged(block, folder)
                if damaged is not None:
                    return Wrong(height, *damaged), transactions
                if scores is not None:
                    _recompute(replay.state, block, folder, scores)
                transactions += len(block.transactions)
            if indexed != transactions:
                raise RunError(f"the index has {indexed} transactions, the blocks {transactions}")
            store.check()
    except (PrivetError, TypeError) as error:
        return Wrong(height, CHAIN_FILE, str(error)), transactions
    return None, transactions


def _next(replay: Replay, store: Store, height: int) -> Block:
    block, certificate = _stored(store, height)
    draft = replay.check(block)
    replay.check_certificate(block.header, certificate)
    replay.accept(block, draft)
    return block


def _begin(replay: Replay, store: Store, height: int, folder: Path) -> Block:
    block, certificate = _stored(store, height)
    snapshot.begin(replay, block, certificate, (folder / BASE_FILE).read_bytes())
    return block


def _stored(store: Store, height: int) -> tuple[Block, Certificate]:
    """Returns a block with its certificate after checking the index."""
    row = store.block(height)
    if row is None:
        raise RunError(f"block {height} is missing")
    block, certificate = Block.decode(row[0]), Certificate.decode(row[1])
    for position, transaction in enumerate(block.transactions):
        if store.place(transaction.id) != (height, position):
            raise RunError(f"the index has not transaction {position} of block {height}")
    return block, certificate


def _recompute(state: State, block: Block, folder: Path, scores: Scores) -> None:
    for verdict in (each for each in block.transactions if each.kind == "verdict"):
        body: dict[str, Any] = verdict.body
        task, round = body["task"], body["round"]
        judged, contents = state.judged(task, round), []
        for update in judged:
            store, cid = FolderStore(folder / CONTENTS, update["profile"]), encode_cid(update["cid"])
            content = store.get(cid) if store.has(cid) else b""
            digest = hashlib.sha256(content).digest()
            if binding(state.genesis.hash, task, round, update["customer"], digest) == update["digest"]:
                contents.append(content)
        if len(contents) < len(judged):
            continue
        found = scores(contents, state.task(task)["rule"], state.genesis.f)
        if found != [update["score"] for update in judged]:
            liar = verdict.sender.hex()[:16]
            raise RunError(f"the scores of round {round} of task {task}, by {liar}, are not those of its updates")


def _damaged(block: Block, folder: Path) -> tuple[str, str] | None:
    """Returns file and reason of the first content of a block that is at hand and not what its address says."""
    for transaction in block.transactions:
        named, profile = transaction.body.get("cid", transaction.body.get("model")), transaction.body.get("profile")
        if not isinstance(named, bytes) or not isinstance(profile, str):
            continue
        cid = encode_cid(named)
        contents = FolderStore(folder / CONTENTS, profile)
        try:
            if contents.has(cid):
                contents.get(cid)
        except ContentError as error:
            return f"{CONTENTS}/{profile}/{cid[-2:]}/{cid}", error.wrong
    return None


def genesis_bytes(folder: Path) -> bytes:
    """Returns the bytes of the genesis file of a chain's folder.

    Raises:
        RunError: it is missing.
    """
    path = folder / GENESIS_FILE
    if not path.is_file():
        raise RunError(f"{path} is missing", do="take the genesis that the chain was begun with")
    return path.read_bytes()
