"""Following a chain: every block is checked against the one before, by whoever appends, votes or audits."""

from __future__ import annotations

from collections.abc import Iterable

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError
from privet.ledger.blocks import Block, Header
from privet.ledger.genesis import Genesis
from privet.ledger.merkle import root
from privet.ledger.sortition import empty_seed, next_seed, rank, vrf_message
from privet.ledger.state import Draft, State
from privet.ledger.transactions import Transaction
from privet.ledger.votes import Certificate

KNOWN = frozenset({1})
"""Versions of the rules that this program knows; miners vote for another by transactions of kind ``upgrade``."""


class Replay:
    """A chain as far as it was followed: takes block after block, each checked against the one before.

    Attributes:
        genesis: where it begins.
        state: after the last block.
        head: hash of the last header; of the genesis at height 0.
        seed: randomness for the next block; the hash of the genesis at height 0.
        since: height of the snapshot that it began with; 0 when it began at the genesis.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.state = State(genesis)
        self.head = self.seed = genesis.hash
        self.since = 0
        self._stakes = sum(miner.stake for miner in genesis.miners)

    def check(self, block: Block) -> Draft:
        """Checks everything about the next block that needs no votes; a miner votes only for one that passes.

        That its proposer was drawn is checked here; which of those who were drawn led is the consensus's to check,
        and so are the bytes of the updates.

        Returns:
            The state after it, for :meth:`accept`.

        Raises:
            InputError: the header does not fit the chain, or a VRF proof or the state is wrong.
            RefusedError: a transaction is refused, or the block follows rules that this program does not know.
        """
        header = block.header
        place = (header.genesis, header.height, header.previous)
        if place != (self.genesis.hash, self.state.height + 1, self.head):
            raise InputError("the header does not follow the block before", allowed=f"height {self.state.height + 1}")
        self._check_version(header.height)
        block.check_root()
        self._check_proofs(header)
        draft = self.state.draft()
        for position, transaction in enumerate(block.transactions):
            try:
                draft.apply(transaction)
            except RefusedError as error:
                wrong = f"transaction {position} ({transaction.kind}) is refused: {error.wrong}"
                raise RefusedError(wrong, allowed=error.allowed) from None
        if draft.commitment() != header.state:
            raise InputError("the header's state is not the one that its transactions give")
        return draft

    def check_certificate(self, header: Header, certificate: Certificate) -> None:
        """Checks that a certificate makes a block final.

        Raises:
            InputError: it is for another block, a vote is wrong, or the weight is too small.
        """
        named = (certificate.chain, certificate.genesis, certificate.height, certificate.step, certificate.block)
        if named != (self.genesis.name, self.genesis.hash, header.height, "certify", header.hash):
            raise InputError("the certificate is for another block")
        if certificate.period < header.period:
            raise InputError("the certificate is of a period before the block was proposed")
        certificate.check(self.genesis.weights)

    def accept(self, block: Block, draft: Draft) -> None:
        """Goes on to the next height with what :meth:`check` returned."""
        self.state.accept(draft)
        self.head, self.seed = block.header.hash, block.header.seed

    def propose(
        self, secret: bytes, vrf_secret: bytes, transactions: Iterable[Transaction], period: int = 0
    ) -> tuple[Block, list[tuple[Transaction, str]]]:
        """Returns the next block of a miner, and what it left out with the reasons.

        Args:
            secret: the miner's seed for signatures, 32 bytes; names the proposer.
            vrf_secret: its seed for the VRF, 32 bytes.
            transactions: in the order in which they are tried.
            period: in which the block is proposed.

        Raises:
            RefusedError: the next block follows rules that this program does not know.
        """
        self._check_version(self.state.height + 1)
        draft, taken, refused = self.state.draft(), [], []
        for transaction in transactions:
            try:
                draft.apply(transaction)
                taken.append(transaction)
            except RefusedError as error:
                refused.append((transaction, error.advice()))
        proof = ecvrf.prove(vrf_secret, vrf_message("seed", self.seed, draft.height))
        seed = ecvrf.proof_to_hash(proof)
        draw = ecvrf.prove(vrf_secret, vrf_message("propose", self.seed, draft.height, period))
        header = self._header(draft, taken, period, seed, public_key(secret), proof, draw)
        return Block(header, tuple(taken)), refused

    def empty(self, period: int) -> Block:
        """Returns the next block without proposer and transactions, the same on every miner."""
        draft = self.state.draft()
        return Block(self._header(draft, [], period, empty_seed(self.seed, draft.height)))

    def _header(
        self,
        draft: Draft,
        taken: list[Transaction],
        period: int,
        seed: bytes,
        proposer: bytes = b"",
        proof: bytes = b"",
        draw: bytes = b"",
    ) -> Header:
        return Header(
            genesis=self.genesis.hash,
            height=draft.height,
            period=period,
            previous=self.head,
            root=root([each.encode() for each in taken]),
            count=len(taken),
            state=draft.commitment(),
            seed=seed,
            proposer=proposer,
            proof=proof,
            draw=draw,
        )

    def _check_version(self, height: int) -> None:
        version = self.state.version(height)
        if version not in KNOWN:
            known = ", ".join(str(each) for each in sorted(KNOWN))
            raise RefusedError(
                f"block {height} follows the rules of version {version}; this program knows version {known}",
                do=f"install a privet that knows version {version}: pip install --upgrade privet",
            )

    def _check_proofs(self, header: Header) -> None:
        if not header.proposer:
            if (header.seed, header.proof, header.draw) != (empty_seed(self.seed, header.height), b"", b""):
                raise InputError("the seed of the empty block is wrong")
            return
        miners = {miner.key: miner for miner in self.genesis.miners}
        if header.proposer not in miners:
            raise InputError("the proposer is no miner of this chain")
        proposer = miners[header.proposer]
        if next_seed(self.seed, header.height, proposer.vrf, header.proof) != header.seed:
            raise InputError("the VRF proof or the seed is wrong")
        message, stakes = vrf_message("propose", self.seed, header.height, header.period), self._stakes
        if not rank(proposer.vrf, message, header.draw, proposer.stake, stakes):
            raise InputError(f"the proposer was not drawn for height {header.height} and period {header.period}")
