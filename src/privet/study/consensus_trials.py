"""Trials of consensus: miners in one process, with faults drawn from a seed.

Signatures and VRF proofs are real. What one miner has verified, the others in the process take as verified, since the
answers are remembered process-wide; miners on machines of their own each verify for themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.ledger.blocks import Block
from privet.ledger.consensus import Consensus, Ledger
from privet.ledger.genesis import Genesis, Miner
from privet.ledger.messages import Event, Final, Message, Offence, Opening, Proposal, Send, Start, Stopped, Timer
from privet.ledger.replay import Replay
from privet.ledger.sign_state import SignState, Storage
from privet.ledger.transactions import Transaction
from privet.ledger.votes import NOTHING, Certificate, Vote, is_quorum

FAULTS = ("silent", "equivocating", "lying")
PARTITIONS = ("none", "halves", "one alone", "flapping")


def secret(name: str) -> bytes:
    """Returns the key seed of a name; for trials only."""
    return hashlib.sha256(b"privet trial\0" + name.encode()).digest()


def consortium(miners: int, tokens: int = 1 << 40) -> Genesis:
    """Returns the genesis of a trial: miners of equal weight, and one manufacturer with tokens."""
    names = [f"miner {at}" for at in range(miners)]
    listed = tuple(Miner(public_key(secret(each)), ecvrf.public_key(secret(each + " vrf"))) for each in names)
    return Genesis("trial", listed, {public_key(secret("maker")): tokens})


class Memory:
    """Storage that survives the restarts of a trial; breaks down when told to, before or after it has written."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.fail: str | None = None

    def read(self) -> bytes | None:
        """Returns what was written last."""
        return self.data

    def write(self, data: bytes) -> None:
        """Keeps the bytes, or breaks down."""
        fail, self.fail = self.fail, None
        if fail != "before":
            self.data = data
        if fail is not None:
            raise OSError("the miner was killed while it wrote")


class KeptReplay(Replay):
    """A chain in memory."""

    def __init__(self, genesis: Genesis) -> None:
        super().__init__(genesis)
        self.finals: list[Final] = []

    def append(self, block: Block, certificate: Certificate) -> None:
        """Checks a block and its certificate, and goes on."""
        draft = self.check(block)
        self.check_certificate(block.header, certificate)
        self.accept(block, draft)
        self.finals.append(Final(block, certificate))

    def final(self, height: int) -> Final | None:
        """Returns the block of a height."""
        return self.finals[height - 1] if 0 < height <= len(self.finals) else None


class Node:
    """One miner of a trial, with what outlives its restarts.

    Args:
        name: gives its keys.
        chain: its chain.
        storage: of its sign-state.
        transactions: what it would put into a block.
        fault: one of :data:`FAULTS`, or "" for an honest miner.
    """

    def __init__(
        self,
        name: str,
        chain: Ledger,
        storage: Storage,
        transactions: Callable[[], Iterable[Transaction]] = tuple,
        fault: str = "",
    ) -> None:
        self.key, self.chain, self.storage, self.fault = public_key(secret(name)), chain, storage, fault
        self.transactions, self.restarts, self._secrets = transactions, 0, (secret(name), secret(name + " vrf"))
        self.begin()

    def begin(self) -> None:
        """Starts the miner from what is stored."""
        signs = SignState(self.storage, self.chain.genesis, self._secrets[0], self.chain.state.height)
        self.miner = Consensus(self.chain, *self._secrets, signs, transactions=self.transactions)

    def twist(self, message: Message, side: bool) -> Message | None:
        """Returns what a miner at fault sends to one half of the others in place of a message; None for silence."""
        if self.fault == "silent":
            return None
        if self.fault == "equivocating" and isinstance(message, Vote) and side:
            return self._vote(message, NOTHING if message.block != NOTHING else bytes(32))
        if self.fault and isinstance(message, Proposal) and (side or self.fault == "lying"):
            return self._other_proposal(message)
        return message

    def _vote(self, vote: Vote, block: bytes) -> Vote:
        return Vote.signed(self._secrets[0], vote.chain, vote.genesis, vote.height, vote.period, vote.step, block)

    def _other_proposal(self, proposal: Proposal) -> Proposal:
        header = proposal.block.header
        if self.fault == "lying":
            wrong = bytes([header.state[0] ^ 1]) + header.state[1:]
            block = Block(dataclasses.replace(header, state=wrong), proposal.block.transactions)
        elif header.height == self.chain.state.height + 1:
            block, _ = self.chain.propose(*self._secrets, (), header.period)
        else:
            block = proposal.block
        return Proposal(block, self._vote(proposal.vote, block.header.hash), proposal.proof)


class Trial:
    """Miners of whom fewer than a third are at fault, a network that fails, then one that works.

    Args:
        genesis: of the chain.
        draw: the only randomness.

    Attributes:
        now: milliseconds since the beginning, in the trial's own time.
        certified: height -> blocks with certify votes of more than two thirds in one period, of all that were sent.
        counts: what happened.
    """

    def __init__(self, genesis: Genesis, draw: random.Random) -> None:
        self.genesis, self.draw, self.now = genesis, draw, 0
        self.certified: dict[int, set[bytes]] = {}
        self.counts = dict.fromkeys(("messages", "dropped", "restarts", "killed_while_writing", "honest_stopped"), 0)
        self.named: set[bytes] = set()
        self.periods = 0
        self.nodes: list[Node] = []
        count = len(genesis.miners)
        faulty = draw.sample(range(count), draw.randint(0, (count - 1) // 3))
        for at in range(count):
            chain = KeptReplay(genesis)
            fault = draw.choice(FAULTS) if at in faulty else ""
            self.nodes.append(Node(f"miner {at}", chain, Memory(), self._payments(chain), fault))
        self.honest = [node for node in self.nodes if not node.fault]
        self.drop, self.delay = draw.choice((0.0, 0.1, 0.3)), draw.choice((20, 200, 1500))
        self.partition, self.restart_rate = draw.choice(PARTITIONS), draw.choice((0.0, 0.002, 0.01))
        self.calm = False
        self._split = draw.sample(range(count), count)
        self._certify: dict[tuple[int, int, bytes], set[bytes]] = {}
        self._queue: list[tuple[int, int, int, int, Event]] = []
        self._order = itertools.count()
        self._epoch = [0] * count
        self._at = {node.key: at for at, node in enumerate(self.nodes)}
        for at in range(count):
            self._later(0, at, Start())

    def run(self, storm: int, heights: int, patience: int) -> bool:
        """Runs the storm for so many milliseconds, then the calm; returns whether the chain grew as it should.

        Args:
            storm: how long messages are dropped, delayed and cut, and miners killed.
            heights: by how much every honest miner's chain must grow once all that is over.
            patience: how long that may take, in milliseconds.
        """
        while self.now < storm and self._queue:
            self._step()
        self.calm = True
        goal = max(node.chain.state.height for node in self.honest) + heights
        end = self.now + patience
        while self.now < end and self._queue and min(node.chain.state.height for node in self.honest) < goal:
            self._step()
        return min(node.chain.state.height for node in self.honest) >= goal

    def _payments(self, chain: KeptReplay) -> Callable[[], Iterable[Transaction]]:
        maker = secret("maker")

        def listed() -> list[Transaction]:
            nonce = chain.state.nonce(public_key(maker))
            body = {"to": public_key(secret("home")), "amount": 1}
            return [Transaction.signed(maker, self.genesis.hash, nonce, "pay", body)]  # type: ignore[arg-type]

        return listed

    def _step(self) -> None:
        self.now, _, at, epoch, event = heapq.heappop(self._queue)
        if epoch not in (-1, self._epoch[at]):
            return
        node = self.nodes[at]
        if not self.calm and not node.fault and self.draw.random() < self.restart_rate:
            assert isinstance(node.storage, Memory)  # noqa: S101 - made above
            node.storage.fail = self.draw.choice((None, "before", "after"))
            if node.storage.fail is None:
                self._restart(at)
                return
        try:
            actions = node.miner.handle(event)
        except OSError:
            self.counts["killed_while_writing"] += 1
            self._restart(at)
            return
        self.periods = max(self.periods, node.miner.period + 1)
        for action in actions:
            if isinstance(action, Timer):
                self._later(action.milliseconds, at, action.timeout)
            elif isinstance(action, Send):
                self._send(at, action)
            elif isinstance(action, Offence):
                self.named.add(action.first.voter)
            elif isinstance(action, Stopped):
                self.counts["honest_stopped"] += not node.fault

    def _restart(self, at: int) -> None:
        self.counts["restarts"] += 1
        storage = self.nodes[at].storage
        assert isinstance(storage, Memory)  # noqa: S101 - made above
        storage.fail = None
        self._epoch[at] += 1
        self.nodes[at].begin()
        self._later(self.draw.randint(1, 3000), at, Start())

    def _send(self, at: int, send: Send) -> None:
        to = [self._at[send.to]] if send.to is not None else [each for each in range(len(self.nodes)) if each != at]
        for other in to:
            message = self.nodes[at].twist(send.message, other % 2 == 0)
            if message is None:
                continue
            self.counts["messages"] += 1
            self._watch(message)
            if self._cut(at, other) or (not self.calm and self.draw.random() < self.drop):
                self.counts["dropped"] += 1
            else:
                self._later(self.draw.randint(1, 20 if self.calm else self.delay), other, message, epoch=-1)

    def _cut(self, at: int, other: int) -> bool:
        if self.calm or self.partition == "none" or (self.partition == "flapping" and self.now // 2000 % 2):
            return False
        apart = self._split[:1] if self.partition == "one alone" else self._split[: len(self._split) // 2]
        return (at in apart) != (other in apart)

    def _watch(self, message: Message) -> None:
        if isinstance(message, Opening):
            for vote in message.entry:
                self._watch(vote)
        if isinstance(message, Vote) and message.step == "certify" and message.block != NOTHING:
            voters = self._certify.setdefault((message.height, message.period, message.block), set())
            voters.add(message.voter)
            if is_quorum(sum(self.genesis.weights[voter] for voter in voters), sum(self.genesis.weights.values())):
                self.certified.setdefault(message.height, set()).add(message.block)

    def _later(self, wait: int, at: int, event: Event, epoch: int | None = None) -> None:
        mine = self._epoch[at] if epoch is None else epoch
        heapq.heappush(self._queue, (self.now + wait, next(self._order), at, mine, event))


def faults(rounds: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Returns what came of so many rounds under random faults.

    A round is one height on which the miners of a trial agreed. Each trial draws 4 to 7 miners, who is at fault,
    drops, delays, a partition and restarts from ``seed``; after 15 s of that, messages arrive again.

    Args:
        rounds: how many heights in all.
        seed: another gives other trials.

    Returns:
        Counts; ``conflicting_certificates`` and ``stalled_after_healing`` are 0 when all is well.
    """
    starts = {count: consortium(count) for count in (4, 5, 7)}
    found: dict[str, Any] = dict.fromkeys(("rounds", "trials", "conflicting_certificates", "stalled_after_healing"), 0)
    found |= {"most_periods": 0, "at_fault": 0, "equivocators": 0, "equivocators_named": 0, "honest_named": 0}
    while found["rounds"] < rounds:
        draw = random.Random(f"{seed} {found['trials']}")  # noqa: S311 - faults, not secrets
        trial = Trial(starts[draw.choice(list(starts))], draw)
        grown = trial.run(storm=15_000, heights=8, patience=120_000)
        finals: dict[int, set[bytes]] = {}
        for node in trial.honest:
            for height in range(1, node.chain.state.height + 1):
                final = node.chain.final(height)
                finals.setdefault(height, set()).update([final.block.header.hash] if final else [])
        conflicts = [height for height in finals if len(finals[height] | trial.certified.get(height, set())) > 1]
        equivocators = {node.key for node in trial.nodes if node.fault in ("equivocating", "lying")}
        found["rounds"] += len(finals)
        found["trials"] += 1
        found["conflicting_certificates"] += len(conflicts)
        found["stalled_after_healing"] += not grown
        found["most_periods"] = max(found["most_periods"], trial.periods)
        found["at_fault"] += len(trial.nodes) - len(trial.honest)
        found["equivocators"] += sum(node.fault == "equivocating" for node in trial.nodes)
        found["equivocators_named"] += sum(
            node.key in trial.named for node in trial.nodes if node.fault == "equivocating"
        )
        found["honest_named"] += len(trial.named - equivocators)
        for name, count in trial.counts.items():
            found[name] = found.get(name, 0) + count
    return found | {"seed": seed, "signatures": "real", "verification": "shared in the process"}
