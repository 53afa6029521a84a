"""Following a chain: every block is checked against the one before, by whoever appends, votes or audits."""

from __future__ import annotations

from collections.abc import Iterable

from privet.crypto import ecvrf
from privet.crypto.signatures import public_key
from privet.errors import InputError, RefusedError
from privet.ledger.blocks import Block, Header
from privet.ledger.genesis import Genesis
from privet.ledger.merkle import root
from privet.ledger.sortition import empty_seed, next_seed, vrf_message
from privet.ledger.state import Draft, State
from privet.ledger.transactions import Transaction
from privet.ledger.votes import Certificate


class Replay:
    """A chain as far as it was followed: takes block after block, each checked against the one before.

    Attributes:
        genesis: where it begins.
        state: after the last block.
        head: hash of the last header; of the genesis at height 0.
        seed: randomness for the next block; the hash of the genesis at height 0.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.state = State(genesis)
        self.head = self.seed = genesis.hash

    def check(self, block: Block) -> Draft:
        """Checks everything about the next block that needs no votes; a miner votes only for one that passes.

        Who may propose (sortition) is the consensus's to check, and so are the bytes of the updates.

        Returns:
            The state after it, for :meth:`accept`.

        Raises:
            InputError: the header does not fit the chain, or its VRF proof or state is wrong.
            RefusedError: a transaction is refused.
        """
        header = block.header
        place = (header.genesis, header.height, header.previous)
        if place != (self.genesis.hash, self.state.height + 1, self.head):
            raise InputError("the header does not follow the block before", allowed=f"height {self.state.height + 1}")
        self._check_seed(header)
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
        """
        draft, taken, refused = self.state.draft(), [], []
        for transaction in transactions:
            try:
                draft.apply(transaction)
                taken.append(transaction)
            except RefusedError as error:
                refused.append((transaction, error.advice()))
        proof = ecvrf.prove(vrf_secret, vrf_message("seed", self.seed, draft.height))
        seed = ecvrf.proof_to_hash(proof)
        header = self._header(draft, taken, period, seed, public_key(secret), proof)
        return Block(header, tuple(taken)), refused

    def empty(self, period: int) -> Block:
        """Returns the next block without proposer and transactions, the same on every miner."""
        draft = self.state.draft()
        return Block(self._header(draft, [], period, empty_seed(self.seed, draft.height), b"", b""))

    def _header(
        self, draft: Draft, taken: list[Transaction], period: int, seed: bytes, proposer: bytes, proof: bytes
    ) -> Header:
        return Header(
            genesis=self.genesis.hash,
            height=draft.height,
            period=period,
            previous=self.head,
            root=root([each.encode() for each in taken]),
            state=draft.commitment(),
            seed=seed,
            proposer=proposer,
            proof=proof,
        )

    def _check_seed(self, header: Header) -> None:
        if not header.proposer:
            if header.seed != empty_seed(self.seed, header.height):
                raise InputError("the seed of the empty block is wrong")
            return
        keys = {miner.key: miner.vrf for miner in self.genesis.miners}
        if header.proposer not in keys:
            raise InputError("the proposer is no miner of this chain")
        if next_seed(self.seed, header.height, keys[header.proposer], header.proof) != header.seed:
            raise InputError("the VRF proof or the seed is wrong")
