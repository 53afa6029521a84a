"""Catching up with a chain from peers that nobody trusts.

What must be known for right is the genesis alone. A new miner takes the newest snapshot that any peer offers, then
blocks one by one; a miner that was away takes blocks only. Everything is checked here against certificates of the
genesis's miners, so a peer can be late or useless but can't make anybody believe what is not so. Who sends something
wrong, breaks off, sends without end or takes too long is left for the next peer, and named with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from privet.errors import InputError, PrivetError, RefusedError, RunError, UnreachableError
from privet.ledger.blocks import MAX_BYTES, Block
from privet.ledger.chain import Chain
from privet.ledger.genesis import Genesis
from privet.ledger.replay import Replay
from privet.ledger.snapshot import newest, piece
from privet.ledger.verification import CHAIN_FILE, GENESIS_FILE
from privet.ledger.votes import Certificate

PIECE = 1 << 20
"""Bytes of a snapshot that a peer hands out at once; only the last piece is shorter."""

LARGEST = 1 << 28
"""Longest snapshot that is taken, in bytes."""

GENESIS_BYTES = 1 << 20
"""Longest genesis that is taken."""


@dataclass(frozen=True)
class Peer:
    """Whom to ask; what comes back is believed only when it verifies. Each call must end by itself, as a time-out does.

    Attributes:
        name: for the record of who was left.
        genesis: gives the bytes of the peer's genesis.
        height: gives the height of its last block.
        final: gives the bytes of the block at a height and of its certificate; None where it has none.
        snapshot: gives the piece of up to :data:`PIECE` bytes of the snapshot of a height that begins at an offset;
            b"" where it keeps no such snapshot.
    """

    name: str
    genesis: Callable[[], bytes]
    height: Callable[[], int]
    final: Callable[[int], tuple[bytes, bytes] | None]
    snapshot: Callable[[int, int], bytes]


def peer_of(chain: Chain, name: str = "") -> Peer:
    """Returns the peer that a chain in this process is: what a miner answers to each of the four calls."""

    def final(height: int) -> tuple[bytes, bytes] | None:
        found = chain.final(height)
        return None if found is None else (found.block.encode(), found.certificate.encode())

    def snapshot(height: int, offset: int) -> bytes:
        return piece(chain.folder, height, offset, PIECE)

    return Peer(name, chain.genesis.encode, lambda: chain.state.height, final, snapshot)


@dataclass(frozen=True)
class CaughtUp:
    """A chain that is as far as any peer could show.

    Attributes:
        chain: open; close it.
        left: name of each peer that was left -> why.
    """

    chain: Chain
    left: dict[str, str]


def catch_up(
    run: Path,
    peers: Sequence[Peer],
    genesis: Genesis | None = None,
    *,
    patience: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> CaughtUp:
    """Brings the chain in a run's folder as far as any peer can show, or begins it there.

    Args:
        run: the folder of the run.
        peers: whom to ask.
        genesis: of the chain; None takes the peers' where there is no chain yet, if all agree. Compare its hash with
            one that you got elsewhere: who controls all peers controls that.
        patience: seconds that one answer may take.
        clock: seconds that pass.

    Raises:
        RefusedError: peers disagree about the genesis, or miners certified a block that this program refuses.
        RunError: the folder's chain does not verify, or is another's.
        UnreachableError: no peer gave anything that verifies.
    """
    asking = _Asking(patience, clock)
    exists = any((folder / file).exists() for folder in (run / "ledger", run) for file in (GENESIS_FILE, CHAIN_FILE))
    chain = Chain(run) if exists else None
    if chain is not None and genesis is not None and chain.genesis.hash != genesis.hash:
        chain.close()
        raise RunError(f"{run} holds a chain of another genesis", do="take the folder of this chain, or an empty one")
    try:
        known = chain.genesis if chain is not None else genesis or _agreed(asking, peers)
        peers = _of_this_chain(asking, peers, known)
        if chain is None:
            chain = _begin(asking, run, known, peers)
        # Who ended early has nothing that those before it, which say to be further, did not give.
        asking.some([peer for peer in peers if peer.name not in asking.left and _follow(asking, chain, peer)])
    except BaseException:
        if chain is not None:
            chain.close()
        raise
    return CaughtUp(chain, asking.left)


class _LeaveError(Exception):
    """A peer is left, for this reason."""


@dataclass
class _Asking:
    patience: float
    clock: Callable[[], float]
    left: dict[str, str] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)

    def call(self, ask: Callable[[], object]) -> object:
        """Returns an answer that came in time."""
        begun = self.clock()
        try:
            answer = ask()
        except (PrivetError, OSError) as error:
            raise _LeaveError(str(error) or type(error).__name__) from None
        if self.clock() - begun > self.patience:
            raise _LeaveError(f"an answer took more than {self.patience:g} seconds")
        return answer

    def some(self, peers: list[Peer]) -> list[Peer]:
        """Returns peers, if there are any."""
        if not peers:
            told = "; ".join(f"{name}: {reason}" for name, reason in self.left.items())
            raise UnreachableError(f"no peer gave anything that verifies ({told})", do="ask other miners of the chain")
        return peers

    def binary(self, ask: Callable[[], object], most: int) -> bytes:
        """Returns an answer that is bytes and not too many."""
        answer = self.call(ask)
        if not isinstance(answer, bytes) or len(answer) > most:
            raise _LeaveError(f"an answer is not up to {most} bytes")
        return answer

    def final(self, peer: Peer, height: int) -> tuple[Block, Certificate] | None:
        """Returns a block with its certificate that a peer has; neither is believed yet."""
        answer = self.call(lambda: peer.final(height))
        if answer is None:
            return None
        if not (isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(each, bytes) for each in answer)):
            raise _LeaveError("an answer is not a block and a certificate")
        if max(map(len, answer)) > MAX_BYTES:
            raise _LeaveError(f"block {height} has more than {MAX_BYTES} bytes")
        try:
            block, certificate = Block.decode(answer[0]), Certificate.decode(answer[1])
        except InputError as error:
            raise _LeaveError(f"block {height}: {error}") from None
        if block.header.height != height:
            raise _LeaveError(f"asked for block {height}, sent block {block.header.height}")
        return block, certificate


def _agreed(asking: _Asking, peers: Sequence[Peer]) -> Genesis:
    """Returns the genesis that all peers give who give one."""
    said: dict[bytes, str] = {}
    for peer in peers:
        try:
            said.setdefault(asking.binary(peer.genesis, GENESIS_BYTES), peer.name)
        except _LeaveError as error:
            asking.left[peer.name] = str(error)
    if not said:
        raise UnreachableError("no peer gives a genesis", do="take the genesis file from the consortium")
    if len(said) > 1:
        raise RefusedError(
            f"peers disagree about the genesis: {' and '.join(said.values())} give different ones",
            do="take the genesis file from the consortium",
        )
    return Genesis.decode(*said)


def _of_this_chain(asking: _Asking, peers: Sequence[Peer], genesis: Genesis) -> list[Peer]:
    """Returns the peers that follow this genesis, those that say to be furthest first."""
    claims = []
    for peer in (each for each in peers if each.name not in asking.left):
        try:
            if asking.binary(peer.genesis, GENESIS_BYTES) != genesis.encode():
                raise _LeaveError("its genesis is another")
            height = asking.call(peer.height)
            if type(height) is not int or height < 0:
                raise _LeaveError("its height is no number")
            claims.append((height, peer))
        except _LeaveError as error:
            asking.left[peer.name] = str(error)
    asking.claims = {peer.name: height for height, peer in claims}
    return asking.some([peer for _, peer in sorted(claims, key=lambda claim: -claim[0])])


def _begin(asking: _Asking, run: Path, genesis: Genesis, peers: Sequence[Peer]) -> Chain:
    """Begins a chain with the newest snapshot that verifies, else at the genesis."""
    for peer in peers:
        height = newest(asking.claims[peer.name])
        try:
            found = asking.final(peer, height) if height else None
            if found is None:
                continue
            Replay(genesis).check_certificate(found[0].header, found[1])  # before anything large is taken
            data = _snapshot(asking, peer, height)
            if data:
                return Chain.create_at(run, genesis, *found, data)
        except RunError:
            raise
        except (_LeaveError, InputError) as error:
            asking.left[peer.name] = str(error)
    asking.some([peer for peer in peers if peer.name not in asking.left])
    return Chain.create(run, genesis)


def _snapshot(asking: _Asking, peer: Peer, height: int) -> bytes:
    data = bytearray()
    while True:
        at = len(data)
        part = asking.binary(partial(peer.snapshot, height, at), PIECE)
        data += part
        if len(data) > LARGEST:
            raise _LeaveError(f"its snapshot has more than {LARGEST} bytes")
        if len(part) < PIECE:
            return bytes(data)


def _follow(asking: _Asking, chain: Chain, peer: Peer) -> bool:
    """Takes a peer's blocks while it has more; returns whether it ended without being left."""
    try:
        while (found := asking.final(peer, chain.state.height + 1)) is not None:
            block, certificate = found
            try:
                chain.append(block, certificate)
            except (InputError, RefusedError) as error:
                _blame(chain, block, certificate, error)
    except _LeaveError as error:
        asking.left[peer.name] = str(error)
        return False
    return True


def _blame(chain: Chain, block: Block, certificate: Certificate, error: PrivetError) -> None:
    """A wrong certificate is the peer's fault; a block that miners certified and this program refuses is not."""
    height = block.header.height
    try:
        chain.check_certificate(block.header, certificate)
    except InputError as wrong:
        raise _LeaveError(f"block {height}: {wrong}") from None
    raise RefusedError(
        f"miners certified block {height}, which this program refuses: {error.wrong}",
        do=error.do or "compare with other miners: this program or more than a third of the miners are at fault",
    ) from None
