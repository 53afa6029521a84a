"""An update as shares in a content: what everybody may read of it, and one message for each miner alone.

The content holds a hash of each message and each message sealed for one miner's epoch key, so the store tells nobody
more than the hashes. The update's digest binds all of it. A customer keeps its messages until the round is over: it
must name masks when the coins are known, and show a message that a miner could not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from privet.aggregation.share_checks import ROWS, SALT_BYTES, SETS, Dealing, Terms, choose
from privet.crypto.shamir import centred
from privet.crypto.shamir import decode as decoded
from privet.errors import ContentError, RefusedError
from privet.ledger.encoding import Value, decode, encode
from privet.ledger.epoch_keys import EpochKeys
from privet.ledger.fields import digest, read
from privet.ledger.sealing import Sealed, seal

FEWEST = 5
"""Fewest miners for shared updates: one may lie at any step and is named."""

_AROUND = 512
"""Bytes that sealing and encoding add to a message, at most."""


def liars(miners: int) -> int:
    """Returns t, how many of the miners may lie, be silent or put together what they saw: fewer than a quarter.

    With 4 t + 1 miners each wrong share is corrected and its sender known; with 3 t + 1 one liar would end the round.
    """
    return (miners - 1) // 4


def terms(miners: int, size: int, chain: bytes, task: int, round: int) -> Terms:
    """Returns what everybody in a round of a task knows before it.

    Raises:
        InputError: there are fewer than :data:`FEWEST` miners, or the update is too large.
    """
    return Terms(miners, liars(miners), size, encode(["privet/shared update/1", chain, task, round]))


def largest(terms: Terms) -> int:
    """Returns how many bytes a content has at most."""
    return terms.miners * (12 * terms.columns + SALT_BYTES + _AROUND)


def commitment(content: bytes) -> bytes:
    """Returns what stands for a content in the digest of its update; no hash of an update's plain bytes."""
    return hashlib.sha256(encode(["privet/shared/dealing/1", hashlib.sha256(content).digest()])).digest()


@dataclass(frozen=True)
class Dealt:
    """A dealing as it is given away.

    Attributes:
        commitments: hash of each miner's message.
        messages: each sealed for its miner.
    """

    commitments: tuple[bytes, ...]
    messages: tuple[bytes, ...]

    @classmethod
    def sealed(
        cls, terms: Terms, dealer: bytes, dealing: Dealing, miners: Sequence[bytes], epochs: Mapping[bytes, bytes]
    ) -> Dealt:
        """Returns a dealing with each message sealed.

        Args:
            terms: of the round.
            dealer: its name.
            dealing: with the messages in the clear.
            miners: their keys, in the order of the shares.
            epochs: miner's key -> its registered epoch public key.

        Raises:
            InputError: a miner has no usable epoch key.
        """
        made = [
            seal(message, {miner: epochs.get(miner, b"")}, _context(terms, dealer, at))
            for at, (miner, message) in enumerate(zip(miners, dealing.messages, strict=True))
        ]
        return cls(dealing.commitments, tuple(made))

    @classmethod
    def decode(cls, content: bytes, miners: int) -> Dealt:
        """Returns the dealing whose one encoding ``content`` is.

        Raises:
            InputError: it is not canonical, a field is wrong, or it is for another number of miners.
        """
        lists = {
            "commitments": lambda value: _is_list(value, miners) and all(map(digest, value)),
            "messages": lambda value: _is_list(value, miners) and all(type(each) is bytes for each in value),
        }
        table = read("a dealing", decode(content), lists)
        return cls(tuple(table["commitments"]), tuple(table["messages"]))

    def encode(self) -> bytes:
        """Returns the canonical bytes."""
        return encode({"commitments": list(self.commitments), "messages": list(self.messages)})

    def message(self, terms: Terms, dealer: bytes, at: int, miner: bytes, epochs: EpochKeys) -> bytes:
        """Returns the message of miner number ``at``, opened with its own keys.

        Raises:
            PrivetError: it can't be opened; the dealer must show it.
        """
        one = Sealed.decode(self.messages[at])
        return one.open(miner, epochs.secret(one.epoch_key(miner)), _context(terms, dealer, at))


class Dealer:
    """A customer after it has dealt.

    Args:
        terms: of the round.
        messages: all that it dealt, in the clear; its update and masks follow from them.
    """

    def __init__(self, terms: Terms, messages: Sequence[bytes]) -> None:
        self._terms, self.messages = terms, tuple(messages)

    @classmethod
    def load(cls, terms: Terms, kept: bytes) -> Dealer:
        """Returns the dealer of whom :meth:`kept` tells.

        Raises:
            ContentError: the bytes are of no dealer of such a round.
        """
        found = decode(kept)
        messages = [each for each in found if type(each) is bytes] if isinstance(found, list) else []
        if len(messages) != terms.miners:
            raise ContentError("what a device kept of its shares is damaged", do="let the round pass without it")
        return cls(terms, messages)

    def kept(self) -> bytes:
        """Returns what the customer keeps to itself until the round is over."""
        return encode(list(self.messages))

    def choose(self, key: bytes) -> int | None:
        """Returns which set of masks is to be opened; None when none hides the update."""
        size, columns = self._terms.size, self._terms.columns
        few = range(self._terms.liars + 1)
        shares = [np.frombuffer(self.messages[at], "<u4", offset=SALT_BYTES).reshape(3, columns) for at in few]
        found = decoded(np.stack(shares).astype(np.int64), self._terms.liars, 0).values
        values = centred(found[:, : size + SETS * ROWS])
        try:
            return choose(self._terms, key, values[:size], values[size:].reshape(SETS, ROWS))
        except RefusedError:
            return None


def _is_list(value: Value, count: int) -> bool:
    return isinstance(value, list) and len(value) == count


def _context(terms: Terms, dealer: bytes, at: int) -> bytes:
    return encode(["privet/shared/message/1", terms.context, dealer, at])
