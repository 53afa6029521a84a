"""What one miner says when all open together what customers shared; :mod:`privet.study.openings` has the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from privet.aggregation.shared import Miner, dealer_of
from privet.crypto.shamir import Residues
from privet.crypto.signatures import public_key
from privet.errors import PrivetError
from privet.ledger.encoding import Value
from privet.ledger.epoch_keys import EpochKeys
from privet.study.openings import Record, Statement
from privet.study.sharing import Dealt


class Party:
    """One miner's part in opening a round.

    Args:
        record: what it knows of the round.
        dealt: gives a customer's dealing with its messages.
        secret: its signing key.
        epochs: its keys that open messages.
        recipients: miner's key -> epoch public key, for its own dealing.
    """

    def __init__(
        self,
        record: Record,
        dealt: Mapping[bytes, Dealt],
        secret: bytes,
        epochs: EpochKeys,
        recipients: Mapping[bytes, bytes],
    ) -> None:
        self.record, self._secret, self._epochs, self._recipients = record, secret, epochs, recipients
        self._key = public_key(secret)
        self._at = record.miners.index(self._key)
        self._miner, self._count = Miner(self._at, record.terms), len(dealt)
        self._unread = [name for name, one in dealt.items() if not self._take(name, one)]
        self._zeros: tuple[bytes, ...] = ()

    def say(self, step: str) -> Statement:
        """Returns what the miner says in a step; nothing where it has nothing to say."""
        speak = getattr(self, f"_say_{step}", lambda: None)
        return Statement.signed(self._secret, self.record.terms.context, step, None if self.record.failed else speak())

    def close(self, step: str, statements: Sequence[Statement]) -> None:
        """Hears what all said.

        Raises:
            RefusedError: as :meth:`Record.close`.
        """
        self.record.close(step, statements)
        if step == "zeros":
            sealed = self.record.zeros.items()
            self._unread += [dealer_of(at) for at, one in sealed if not self._take(dealer_of(at), one)]
        if step == "answers":
            for name in self._unread:
                if (name, self._at) in self.record.shown:
                    self._keep(name, self.record.shown[name, self._at])

    def _take(self, name: bytes, dealt: Dealt) -> bool:
        try:
            self._keep(name, dealt.message(self.record.terms, name, self._at, self._key, self._epochs))
        except PrivetError:
            return False
        return True

    def _keep(self, name: bytes, message: bytes) -> None:
        record = self.record
        dealer = next((at for at in record.zeros if dealer_of(at) == name), None)
        if dealer is None:
            self._miner.take(name, message, record.committed(name))
        else:
            self._miner.take_zeros(dealer, self._count, message, record.committed(name))

    def _say_zeros(self) -> Value:
        dealing, name = self._miner.zeros(self._count), dealer_of(self._at)
        self._zeros = dealing.messages
        return Dealt.sealed(self.record.terms, name, dealing, self.record.miners, self._recipients).encode()

    def _say_complaints(self) -> Value:
        return list[Value](self._unread)

    def _say_answers(self) -> Value:
        return [[at, self._zeros[at]] for at in sorted(self.record.asked.get(dealer_of(self._at), []))]

    def _say_tests(self) -> Value:
        record, key = self.record, self.record.key
        tests = self._miner.test(key, {name: record.chosen[name] for name in record.customers})
        zeros = self._miner.test_zeros(key)
        parts = [tests[name] for name in record.customers] + [zeros[at] for at in record.dealers]
        return _bytes(np.concatenate(parts, axis=1))

    def _say_shows(self) -> Value:
        return [[name, self._miner.show(name)] for at, name in sorted(self.record.doubts) if at == self._at]

    def _say_distances(self) -> Value:
        return _bytes(self._miner.distances(self.record.customers, self.record.dealers))

    def _say_sums(self) -> Value:
        return _bytes(self._miner.total(self.record.selected))


def _bytes(found: Residues) -> bytes:
    return found.astype("<u4").tobytes()
