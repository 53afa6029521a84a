"""Agreement on the next block: one miner as a deterministic state machine.

A height is tried in periods until a block is final:

1. **Open.** Every miner sends its VRF proof for this height and period. The smallest priority leads
   (:mod:`privet.ledger.sortition`).
2. **Propose, soft vote.** The leader proposes; the others check the block and soft-vote for it, or for nothing when the
   time is over, the block is wrong, or they are locked on another.
3. **Certify vote.** Who sees soft votes of more than two thirds for a block that it holds locks it and certifies it.
   Certify votes of more than two thirds make the block final.
4. **Next vote** (for nothing). Who can't certify in time says so. When more than two thirds have certified or said so,
   the next period begins, and waits longer.

**Why no two blocks of one height become final**, while less than a third of the weight lies: when one is final in
period p, more than a third of the weight is honest and locked on it since p. A miner that is locked soft-votes for
another block only when shown soft votes of more than two thirds for that block from a period not before its lock's;
with those miners missing, no such votes come together in p or later.

**Why it goes on** once messages arrive in time again: openings carry the latest lock, so an honest leader proposes a
block that every honest miner may vote for; and they carry the votes that ended the period before, so that whoever fell
behind comes along. Everything is sent again until the height is done.

There is no clock in here and no randomness: events come in, actions go out, and the same events give the same actions.

References:
    Buchman, Kwon, Milosevic, "The latest gossip on BFT consensus" (2018), algorithm 1, whose prevote and precommit are
    the soft and certify vote here; Chen, Gorbunov, Micali, Vlachos, "Algorand Agreement" (2018), for the choice of
    leaders and the names of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from privet.crypto import ecvrf
from privet.errors import InputError, RefusedError
from privet.ledger import claims
from privet.ledger.blocks import Block, Header
from privet.ledger.genesis import Genesis
from privet.ledger.messages import (
    Action,
    Event,
    Final,
    Lock,
    Message,
    Opening,
    Proposal,
    Send,
    Start,
    Stopped,
    Timeout,
    Timer,
)
from privet.ledger.sign_state import SignState
from privet.ledger.sortition import rank, vrf_message
from privet.ledger.state import Draft, State
from privet.ledger.tally import Tally
from privet.ledger.transactions import Transaction
from privet.ledger.votes import NOTHING, Certificate, Vote


class Ledger(Protocol):
    """A chain that grows; :class:`privet.ledger.chain.Chain` with ``final``."""

    genesis: Genesis
    state: State
    seed: bytes

    def check(self, block: Block) -> Draft:
        """Raises when the block can't be the next."""

    def check_certificate(self, header: Header, certificate: Certificate) -> None:
        """Raises when the certificate does not make the block final."""

    def propose(
        self, secret: bytes, vrf_secret: bytes, transactions: Iterable[Transaction], period: int = 0
    ) -> tuple[Block, list[tuple[Transaction, str]]]:
        """Returns the next block and what was left out."""

    def append(self, block: Block, certificate: Certificate) -> None:
        """Stores the next block."""

    def final(self, height: int) -> Final | None:
        """Returns a stored block with its certificate, or None."""


@dataclass(frozen=True)
class Tempo:
    """How long a miner waits in period 0, in milliseconds from the period's opening; period p waits p + 1 times that.

    Attributes:
        open: for everybody's proof; then the smallest that came leads.
        soft: for the leader's block.
        certify: for soft votes.
        move: from the quorum that ends a period, for certify votes that are still under way.
        again: until everything is sent again.
        begin: from a final block until the next is worked on; messages are taken meanwhile.
    """

    open: int = 300
    soft: int = 900
    certify: int = 1500
    move: int = 300
    again: int = 600
    begin: int = 0


class Consensus:
    """One miner.

    Args:
        chain: what the miner has so far; grows by :meth:`handle`.
        secret: seed of its signing key, 32 bytes.
        vrf_secret: seed of its VRF key, 32 bytes.
        signs: its sign-state.
        transactions: gives what the miner would put into a block.
        in_hand: whether the bytes of every update that a block lists are here; asked before each vote for a block.
        tempo: how long it waits.

    Attributes:
        key: the miner's public key.
        height: of the block that is being agreed on.
        period: which try at that height.
        stopped: whether the miner votes no more, since its key signed what its sign-state does not know.
    """

    def __init__(
        self,
        chain: Ledger,
        secret: bytes,
        vrf_secret: bytes,
        signs: SignState,
        *,
        transactions: Callable[[], Iterable[Transaction]] = tuple,
        in_hand: Callable[[Block], bool] = lambda block: True,
        tempo: Tempo = Tempo(),
    ) -> None:
        self.chain, self.key, self.stopped = chain, signs.key, False
        self._secret, self._vrf_secret, self._signs = secret, vrf_secret, signs
        self._transactions, self._in_hand, self._tempo = transactions, in_hand, tempo
        self._miners = {miner.key: miner for miner in chain.genesis.miners}
        self._stakes = sum(miner.stake for miner in self._miners.values())
        self._out: list[Action] = []
        self._lock: Lock | None = None
        self._latest: Lock | None = None
        self._started = self._resting = False
        self._begin_height()

    # Events

    def handle(self, event: Event) -> list[Action]:
        """Takes an event and returns what to do now, in this order.

        The first event is a ``Start``; what comes before it is dropped. Messages may be wrong, old, doubled or hostile;
        those are dropped without a word. Votes in what is returned are
        on the disk already.

        Raises:
            OSError: the sign-state or the chain could not be written; the miner must be started anew.
        """
        self._out = []
        self._started = self._started or isinstance(event, Start)
        if not self._started:
            return []
        self._take(event)
        while not self._resting and self._act():
            pass
        return self._out

    def _take(self, event: Event) -> None:
        match event:
            case Start():
                self._open_period(max((period for period, _ in self._said()), default=0), self._entry())
            case Timeout():
                if (event.height, event.period) == (self.height, self.period):
                    self._expired.add(event.name)
                    self._resting = self._resting and event.name != "begin"
                    if event.name == "again":
                        self._send_again()
            case Opening():
                self._on_opening(event)
            case Proposal():
                self._on_proposal(event)
            case Vote():
                self._on_vote(event)
            case Final():
                self._on_final(event)

    def _act(self) -> bool:
        """Does the first thing that can be done; returns whether there was one."""
        return (
            self._finish()
            or self._move_on()
            or self._propose()
            or self._vote_softly()
            or self._certify()
            or self._vote_next()
        )

    # Messages

    def _on_opening(self, opening: Opening) -> None:
        if opening.height < self.height:
            known = self.chain.final(opening.height)
            if known is not None:
                self._out.append(Send(known, opening.miner))
            return
        if self._kept_for_later(opening, opening.height, opening.period) or opening.miner not in self._miners:
            return
        self._learn(opening.lock)
        if opening.period < self.period:
            self._out.append(Send(self._opening, opening.miner))
        if opening.period > self.period and claims.ends_period(self.chain.genesis, self.height, opening):
            for vote in opening.entry:
                self._count(vote)
            self._open_period(opening.period, opening.entry)
        if opening.period == self.period:
            self._rank(opening.miner, opening.proof)

    def _on_proposal(self, proposal: Proposal) -> None:
        vote = proposal.vote
        if self._kept_for_later(proposal, vote.height, vote.period) or not self._here(vote, ("soft",)):
            return
        if vote.period != self.period or vote.block != proposal.block.header.hash:
            return
        self._rank(vote.voter, proposal.proof)
        self._count(vote)
        if self._ranks.get(vote.voter) and vote.voter not in self._proposals:
            self._proposals[vote.voter] = proposal
            self._offered[vote.block] = proposal.block

    def _on_vote(self, vote: Vote) -> None:
        if not self._kept_for_later(vote, vote.height, vote.period) and self._here(vote, ("soft", "certify", "next")):
            self._count(vote)

    def _on_final(self, final: Final) -> None:
        header, certificate = final.block.header, final.certificate
        if header.height != self.height:
            return
        try:
            self.chain.check_certificate(header, certificate)
            self.chain.check(final.block)
        except (InputError, RefusedError):
            return
        voters = {voter for voter, _ in certificate.votes}
        if self.key in voters and self._said().get((certificate.period, "certify")) != header.hash:
            self._stop()
        self._append(final.block, certificate)

    def _kept_for_later(self, message: Message, height: int, period: int) -> bool:
        """Keeps what comes a little early, and says whether a message is not for now."""
        early = (height, period) == (self.height + 1, 0) or (height == self.height and period == self.period + 1)
        if early and not (isinstance(message, Opening) and height == self.height):
            if len(self._early) < 8 * len(self._miners):
                self._early.append(message)
            return True
        return height != self.height

    def _here(self, vote: Vote, steps: tuple[str, ...]) -> bool:
        """Says whether a vote is for now, of a miner and for one of these steps."""
        return vote.period <= self.period + 1 and claims.is_vote(self.chain.genesis, self.height, vote, steps)

    def _count(self, vote: Vote) -> None:
        if vote.voter == self.key and self._said().get((vote.period, vote.step)) != vote.block:
            self._stop()
            return
        offence = self._tally.add(vote)
        if offence is not None and (vote.voter, vote.period, vote.step) not in self._named:
            self._named.add((vote.voter, vote.period, vote.step))
            self._out.append(offence)

    def _rank(self, miner: bytes, proof: bytes) -> None:
        if miner not in self._ranks:
            registered = self._miners[miner]
            message = vrf_message("propose", self.chain.seed, self.height, self.period)
            found = rank(registered.vrf, message, proof, registered.stake, self._stakes)
            if found is not None:
                self._ranks[miner] = found

    def _learn(self, lock: Lock | None) -> None:
        """Takes over a later lock that somebody has heard of, if it proves itself."""
        if lock is None or (self._latest is not None and lock.certificate.period <= self._latest.certificate.period):
            return
        if self._locks(lock.certificate, lock.block) and self._sound(lock.block):
            self._latest = lock
            self._offered[lock.block.header.hash] = lock.block

    def _locks(self, certificate: Certificate, block: Block) -> bool:
        return claims.locks(self.chain.genesis, self.height, certificate, block)

    def _sound(self, block: Block) -> bool:
        """Says whether a block can be the next; each is checked once."""
        known = block.header.hash
        if known not in self._checked:
            try:
                self.chain.check(block)
                self._checked[known] = True
            except (InputError, RefusedError):
                self._checked[known] = False
        return self._checked[known]

    # Steps

    def _begin_height(self) -> None:
        self.height, self.period = self.chain.state.height + 1, 0
        self._tally = Tally(self.chain.genesis.weights)
        self._offered: dict[bytes, Block] = {}
        self._checked: dict[bytes, bool] = {}
        self._named: set[tuple[bytes, int, str]] = set()
        self._early: list[Message] = []
        self._lock = self._signs.lock if self._signs.height == self.height else None
        self._latest = self._lock
        if self._lock is not None:
            self._offered[self._lock.block.header.hash] = self._lock.block
        self._clear_period()

    def _clear_period(self) -> None:
        self._expired: set[str] = set()
        self._ranks: dict[bytes, bytes] = {}
        self._proposals: dict[bytes, Proposal] = {}
        self._proposed: Proposal | None = None
        self._moving = False

    def _open_period(self, period: int, entry: tuple[Vote, ...]) -> None:
        self.period, self._resting = period, False
        self._clear_period()
        proof = ecvrf.prove(self._vrf_secret, vrf_message("propose", self.chain.seed, self.height, period))
        self._opening = Opening(self.key, self.height, period, proof, entry, self._latest)
        self._rank(self.key, proof)
        self._out.append(Send(self._opening))
        for name in ("open", "soft", "certify", "again"):
            self._set(name)
        for vote in self._own_votes():
            self._tally.add(vote)
        early, self._early = self._early, []
        for message in early:
            self._take(message)

    def _finish(self) -> bool:
        certified = self._tally.certified
        if certified is None or certified[1] not in self._offered or not self._sound(self._offered[certified[1]]):
            return False
        period, known = certified
        self._append(self._offered[known], Certificate.of(self._tally.votes(period, "certify", known)))
        return True

    def _append(self, block: Block, certificate: Certificate) -> None:
        self._signs.reach(self.height)
        self.chain.append(block, certificate)
        self._out.append(Final(block, certificate))
        early = self._early
        self._begin_height()
        self._early = early
        self._open_period(0, ())
        self._resting = True
        self._set("begin")

    def _move_on(self) -> bool:
        entry = self._tally.ending(self.period)
        if not entry:
            return False
        sure = self._tally.all_ended(self.period) or self._tally.choice(self.period, "next") == NOTHING
        if sure or "move" in self._expired:
            self._open_period(self.period + 1, entry)
            return True
        if not self._moving:
            self._moving = True
            self._set("move")
        return False

    def _leader(self) -> bytes | None:
        """Returns who leads, once every miner was heard of or the time for it is over."""
        everybody = len(self._ranks) == len(self._miners)
        ranked = [(place, miner) for miner, place in self._ranks.items() if place]
        return min(ranked)[1] if ranked and (everybody or "open" in self._expired) else None

    def _propose(self) -> bool:
        if self._closed("soft") or self._leader() != self.key:
            return False
        latest = self._latest
        if latest is not None and latest.certificate.period >= self.period:
            return False  # others are further on
        if latest is not None:
            block = latest.block
        else:
            block, _ = self.chain.propose(self._secret, self._vrf_secret, self._transactions(), self.period)
            self._checked[block.header.hash] = True
        if not self._in_hand(block):
            return False
        vote = self._sign("soft", block.header.hash)
        if vote is None:
            return False
        self._proposed = Proposal(block, vote, self._opening.proof, None if latest is None else latest.certificate)
        self._offered[vote.block] = block
        self._out.append(Send(self._proposed))
        return True

    def _vote_softly(self) -> bool:
        if self._closed("soft"):
            return False
        if "soft" in self._expired:
            return self._cast("soft", NOTHING)
        leader = self._leader()
        proposal = self._proposals.get(leader) if leader is not None else None
        if proposal is None:
            return False
        if not self._acceptable(proposal):
            return self._cast("soft", NOTHING)
        return self._in_hand(proposal.block) and self._cast("soft", proposal.vote.block)

    def _acceptable(self, proposal: Proposal) -> bool:
        header, certificate, lock = proposal.block.header, proposal.certificate, self._lock
        if certificate is None:
            fresh = (header.period, header.proposer) == (self.period, proposal.vote.voter)
        else:
            fresh = certificate.period < self.period and self._locks(certificate, proposal.block)
        since = -1 if certificate is None else certificate.period
        free = lock is None or lock.block.header.hash == header.hash or lock.certificate.period <= since
        return fresh and free and self._sound(proposal.block)

    def _certify(self) -> bool:
        choice = self._tally.choice(self.period, "soft")
        block = self._offered.get(choice) if choice else None
        if not choice or block is None or not self._sound(block):
            return False
        known = self._latest is not None and self._latest.certificate.period >= self.period
        if known and self._closed("certify"):
            return False
        lock = Lock(block, Certificate.of(self._tally.votes(self.period, "soft", choice)))
        if not known:
            self._latest = lock
        if self._closed("certify") or not self._in_hand(block) or not self._cast("certify", choice, lock):
            return False
        self._lock = lock
        return True

    def _vote_next(self) -> bool:
        given_up = "certify" in self._expired or self._tally.choice(self.period, "soft") == NOTHING
        return not self._closed("next") and given_up and self._cast("next", NOTHING)

    # Signing and sending

    def _said(self) -> dict[tuple[int, str], bytes]:
        return self._signs.said if self._signs.height == self.height else {}

    def _entry(self) -> tuple[Vote, ...]:
        return self._signs.entry if self._signs.height == self.height else ()

    def _closed(self, step: str) -> bool:
        """Says whether the miner may not vote in a step any more: it has, or has voted in a later one."""
        later = {"soft": ("soft", "certify", "next"), "certify": ("certify", "next"), "next": ("certify", "next")}
        said = self._said()
        barred = self.stopped or self._signs.height > self.height
        return barred or any((self.period, each) in said for each in later[step])

    def _sign(self, step: str, block: bytes, lock: Lock | None = None) -> Vote | None:
        try:
            vote = self._signs.vote(self.height, self.period, step, block, lock=lock, entry=self._opening.entry)
        except RefusedError as error:
            self._stop(error.advice())
            return None
        self._tally.add(vote)
        return vote

    def _cast(self, step: str, block: bytes, lock: Lock | None = None) -> bool:
        vote = self._sign(step, block, lock)
        if vote is not None:
            self._out.append(Send(vote))
        return vote is not None

    def _own_votes(self) -> list[Vote]:
        """Returns the miner's votes of this period and the one before, as they were signed."""
        if self.stopped:
            return []
        return [
            self._signs.vote(self.height, period, step, block)
            for (period, step), block in self._said().items()
            if period >= self.period - 1
        ]

    def _send_again(self) -> None:
        if self._opening.lock is not self._latest:
            was = self._opening
            self._opening = Opening(was.miner, was.height, was.period, was.proof, was.entry, self._latest)
        again: list[Message] = [self._opening, *self._own_votes()]
        if self._proposed is not None:
            again.append(self._proposed)
        self._out.extend(Send(message) for message in again)
        self._set("again")

    def _set(self, name: str) -> None:
        wait: int = getattr(self._tempo, name) * (self.period + 1)
        self._out.append(Timer(wait, Timeout(self.height, self.period, name)))

    def _stop(
        self, reason: str = "a vote of this miner is not in its sign-state: it is an old copy, or runs twice"
    ) -> None:
        if not self.stopped:
            self.stopped = True
            self._out.append(Stopped(reason))
