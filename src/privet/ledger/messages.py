"""What miners tell each other while they agree on a block, and what a miner asks of whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from privet.ledger.blocks import Block
from privet.ledger.votes import Certificate, Vote


@dataclass(frozen=True)
class Lock:
    """A block with soft votes of more than two thirds for it.

    Attributes:
        block: the block.
        certificate: its soft votes; they are of ``certificate.period``.
    """

    block: Block
    certificate: Certificate


@dataclass(frozen=True)
class Opening:
    """A miner is in this period. Everything in it proves itself, so it needs no signature.

    Attributes:
        miner: public key of whoever opens.
        height: of the block that is being agreed on.
        period: 0, 1, ...
        proof: the miner's VRF proof for ``vrf_message("propose", seed, height, period)``.
        entry: votes (certify and next) of more than two thirds in the period before; empty in period 0.
        lock: the latest lock that the miner has heard of.
    """

    miner: bytes
    height: int
    period: int
    proof: bytes
    entry: tuple[Vote, ...] = ()
    lock: Lock | None = None


@dataclass(frozen=True)
class Proposal:
    """A leader's block.

    Attributes:
        block: new in this period, or the block of a lock.
        vote: the leader's soft vote for it, which signs it: two proposals in one period are two contradicting votes.
        proof: the leader's VRF proof, as in its opening.
        certificate: soft votes of an earlier period, where the block is not new.
    """

    block: Block
    vote: Vote
    proof: bytes
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Final:
    """A block that is agreed on, for a miner that is behind."""

    block: Block
    certificate: Certificate


@dataclass(frozen=True)
class Timeout:
    """A time that a miner asked for is over: a field of ``Tempo``."""

    height: int
    period: int
    name: str


@dataclass(frozen=True)
class Start:
    """Begin, or go on after a restart."""


@dataclass(frozen=True)
class Look:
    """Something outside changed, such as the bytes of an update that arrived: look again at what can be done."""


Message: TypeAlias = Opening | Proposal | Vote | Final
Event: TypeAlias = Message | Timeout | Start | Look


@dataclass(frozen=True)
class Send:
    """Send a message to one miner, or to all others where ``to`` is None."""

    message: Message
    to: bytes | None = None


@dataclass(frozen=True)
class Timer:
    """Hand in ``timeout`` after so many milliseconds."""

    milliseconds: int
    timeout: Timeout


@dataclass(frozen=True)
class Offence:
    """Two votes of one miner that contradict each other; the body of a transaction of kind ``evidence``."""

    first: Vote
    second: Vote

    def body(self) -> dict[str, bytes]:
        """Returns the body, the same whichever vote was seen first."""
        first, second = sorted((self.first.encode(), self.second.encode()))
        return {"first": first, "second": second}


@dataclass(frozen=True)
class Stopped:
    """The miner votes no more: its key signed what its sign-state does not know."""

    reason: str


Action: TypeAlias = Send | Timer | Offence | Final | Stopped
"""What :meth:`Consensus.handle` returns; a ``Final`` in it says that the chain has grown by this block."""
