"""The chain in a run's folder: certified blocks are appended to it, and nothing else is.

``ledger/`` in the folder of a run holds ``genesis.cbor``, ``chain.sqlite`` and, where contents are kept, ``store/``. A
chain that began with a snapshot has the state there in ``base.cbor``; newer snapshots, kept for others, are in
``snapshot-HEIGHT.cbor``.
"""

from __future__ import annotations

import os
from pathlib import Path

from privet.errors import RunError
from privet.ledger import snapshot
from privet.ledger.blocks import Block
from privet.ledger.genesis import Genesis
from privet.ledger.messages import Final
from privet.ledger.replay import Replay
from privet.ledger.store import Store
from privet.ledger.verification import BASE_FILE, CHAIN_FILE, GENESIS_FILE, find, follow, genesis_bytes
from privet.ledger.votes import Certificate
from privet.transport.durable import sync_folder


class Chain(Replay):
    """A chain in a folder; opening it replays and checks everything in it.

    Args:
        run: the folder of a run.

    Raises:
        RunError: there is no chain, or it does not verify; the advice names the first wrong block.
    """

    def __init__(self, run: Path) -> None:
        folder = find(run)
        super().__init__(Genesis.decode(genesis_bytes(folder)))
        self.folder = folder
        found, _ = follow(self, folder)
        if found is not None:
            raise RunError(f"{folder}: block {found.height} is wrong ({found.file}): {found.reason}")
        self._store = Store(folder / CHAIN_FILE, write=True)

    @classmethod
    def create(cls, run: Path, genesis: Genesis) -> Chain:
        """Begins a chain in the folder of a run.

        Raises:
            RunError: there is one already.
        """
        store = _begun(run, genesis)
        store.close()
        sync_folder(run / "ledger")
        return cls(run)

    @classmethod
    def create_at(cls, run: Path, genesis: Genesis, block: Block, certificate: Certificate, data: bytes) -> Chain:
        """Begins a chain in the folder of a run with a snapshot, after checking it.

        Args:
            run: the folder.
            genesis: of the chain; the only thing that must be known for right.
            block: at the height of the snapshot.
            certificate: what makes it final.
            data: the packed state after it (:func:`privet.ledger.snapshot.pack`).

        Raises:
            RunError: there is a chain already.
            InputError: the snapshot does not verify; nothing was written.
        """
        snapshot.begin(Replay(genesis), block, certificate, data)
        store = _begun(run, genesis)
        snapshot.write(run / "ledger" / BASE_FILE, data)
        ids = [each.id for each in block.transactions]
        store.append(block.header.height, block.encode(), certificate.encode(), ids)
        store.close()
        return cls(run)

    def append(self, block: Block, certificate: Certificate) -> None:
        """Checks a block and its certificate, writes them through to the disk, and goes on.

        Raises:
            InputError: something about them is wrong; nothing was written.
            RefusedError: a transaction is refused; nothing was written.
        """
        draft = self.check(block)
        self.check_certificate(block.header, certificate)
        ids = [each.id for each in block.transactions]
        self._store.append(block.header.height, block.encode(), certificate.encode(), ids)
        self.accept(block, draft)
        snapshot.keep(self.folder, self.state)

    def final(self, height: int) -> Final | None:
        """Returns a stored block with its certificate, or None when the chain has none of this height."""
        row = self._store.block(height) if height else None
        return None if row is None else Final(Block.decode(row[0]), Certificate.decode(row[1]))

    def find(self, id: bytes) -> tuple[int, int] | None:
        """Returns height and position of a transaction, or None when the chain has none of this id."""
        return self._store.place(id)

    def close(self) -> None:
        """Closes the files."""
        self._store.close()


def _begun(run: Path, genesis: Genesis) -> Store:
    folder = run / "ledger"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / GENESIS_FILE).open("xb") as file:
            file.write(genesis.encode())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise RunError(f"{folder} holds a chain already", do="open it, or take another folder") from None
    store = Store(folder / CHAIN_FILE, write=True)
    store.append(0, genesis.encode(), b"", ())
    return store
