"""What is said about a round of shared updates, step by step, and what follows from it for everybody.

==========  =========  ==============================================================
step        said by    what
==========  =========  ==============================================================
zeros       miners     sharings of 0, each message sealed for its miner
complaints  miners     whose message they can't read, or is not what was committed to
answers     dealers    those messages, in the clear
masks       customers  which masks are to be opened, once the coins are known
tests       miners     combinations of their shares
shows       miners     the message behind a test that differs from the others'
distances   miners     shares of every distance
sums        miners     a share of the sum of the selected updates
==========  =========  ==============================================================

Every statement is signed. :class:`Record` knows only what was said in public, so all who heard the same find the same:
who is left out, who lied, scores and mean. Under ``mean`` there are no distances and so no zeros. A miner that says
nothing, or what can't be read, takes no further part; too few that are left means that nothing comes of the round. What
this rests on: everybody hears the same. In one process that is so; over a network it needs a broadcast.

The coins follow from the seed of a block after the dealings, and from the hashes of all dealings. Customers deal before
honest miners draw their zeros, so they can't know them. The miner that deals its zeros last can try several; each try
lets a cheat pass with probability below 2^-61.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from privet.aggregation.exact import Steps
from privet.aggregation.share_checks import REPEATS, ROWS, SETS, Terms, coins, examine, open_zeros, opened, take
from privet.aggregation.shared import LEAST, Miner, dealer_of, open_distances, open_mean, scores_from
from privet.crypto.shamir import PRIMES, Residues, decode
from privet.crypto.signatures import public_key, sign, verify
from privet.errors import ContentError, InputError, PrivetError, RefusedError
from privet.ledger.encoding import Value, encode
from privet.ledger.epoch_keys import EpochKeys
from privet.ledger.reputation import UNSOUND, evaluate, needed
from privet.study.sharing import Dealt

_PURPOSE = "privet/shared/statement/1"
_P = np.array(PRIMES, np.int64)[:, None]


def steps(rule: str) -> tuple[str, ...]:
    """Returns the steps of a round under a rule, in their order."""
    middle = ("complaints", "answers", "masks", "tests", "shows")
    return (*middle, "sums") if rule == "mean" else ("zeros", *middle, "distances", "sums")


@dataclass(frozen=True)
class Statement:
    """What somebody says in a step, signed.

    Attributes:
        speaker: its public key.
        context: of the round, as in its terms.
        step: one of the table above.
        value: what is said.
        signature: Ed25519 over everything else.
    """

    speaker: bytes
    context: bytes
    step: str
    value: Value
    signature: bytes

    @classmethod
    def signed(cls, secret: bytes, context: bytes, step: str, value: Value) -> Statement:
        """Returns a statement, signed with a secret seed of 32 bytes."""
        speaker = public_key(secret)
        return cls(speaker, context, step, value, sign(secret, _PURPOSE, encode([speaker, context, step, value])))

    @cached_property
    def authentic(self) -> bool:
        """Whether the signature is the speaker's."""
        message = encode([self.speaker, self.context, self.step, self.value])
        return verify(self.speaker, _PURPOSE, message, self.signature)


class Record:
    """What everybody knows of one round.

    Args:
        terms: of the round.
        rule: ``mean`` or ``multi-krum``.
        f: hostile updates to withstand.
        kappa: see :func:`privet.ledger.reputation.evaluate`.
        seed: of a final block after the dealings.
        dealt: commitments of each customer whose update is of the round.
        miners: their keys, in the order of the shares.

    Attributes:
        terms: as given.
        rule: as given.
        miners: as given.
        present: places of the miners that still take part.
        customers: whose updates still take part, rising.
        left_out: customer -> why it is not one of them.
        caught: place of a miner -> how it lied.
        zeros: place of a miner -> the zeros that it dealt.
        dealers: places of the miners whose zeros are used.
        asked: dealer -> places of the miners that could not read its message.
        shown: (dealer, place) -> a message that was shown.
        key: the coins; b"" before they are known.
        chosen: customer -> the masks that it named.
        doubts: (place, dealer) of the tests that differ from the others'.
        selected: whose sum is opened.
        failed: why no update comes of the round; "" when one does.
    """

    def __init__(
        self,
        terms: Terms,
        rule: str,
        f: int,
        kappa: int,
        seed: bytes,
        dealt: Mapping[bytes, tuple[bytes, ...]],
        miners: Sequence[bytes],
    ) -> None:
        self.terms, self.rule, self.miners = terms, rule, tuple(miners)
        self._f, self._kappa, self._seed, self._committed = f, kappa, seed, dict(dealt)
        self._all = self.customers = sorted(dealt)
        self.present, self.dealers = list(range(len(miners))), list[int]()
        self.left_out, self.caught = dict[bytes, str](), dict[int, str]()
        self.zeros, self.asked = dict[int, Dealt](), dict[bytes, list[int]]()
        self.shown, self.chosen = dict[tuple[bytes, int], bytes](), dict[bytes, int]()
        self.key, self.failed, self.doubts = b"", "", list[tuple[int, bytes]]()
        self._tests: dict[tuple[int, bytes], Residues] = {}
        self._scores: dict[bytes, int] = {}
        self.selected: list[bytes] = []
        self._update: Steps | None = None

    def close(self, step: str, statements: Iterable[Statement]) -> None:
        """Draws the conclusions of a step.

        Raises:
            RefusedError: too few miners are left, or more of them lie than can be corrected.
        """
        if not self.failed:
            authentic = (one for one in statements if (one.context, one.step) == (self.terms.context, step))
            said = {one.speaker: one.value for one in authentic if one.authentic}
            getattr(self, f"_close_{step}")(said)

    @property
    def outcome(self) -> tuple[list[int], Steps]:
        """The score of every customer that dealt, by rising key, and the mean; zeros where nothing comes of the round.

        Raises:
            RefusedError: it is not known yet.
        """
        if self._update is None and not self.failed:
            raise RefusedError("the miners have not opened the round yet")
        scores = [UNSOUND if name in self.left_out else self._scores.get(name, 0) for name in self._all]
        return scores, np.zeros(self.terms.size, np.int32) if self._update is None else self._update

    def committed(self, name: bytes) -> tuple[bytes, ...]:
        """Returns the hashes of a dealer's messages, one for each miner."""
        return self._committed[name]

    # Dealings

    def _close_zeros(self, said: Mapping[bytes, Value]) -> None:
        for at, value in self._heard(said).items():
            try:
                self.zeros[at] = Dealt.decode(value if type(value) is bytes else b"", len(self.miners))
            except InputError:
                self.present.remove(at)
        self._committed |= {dealer_of(at): dealt.commitments for at, dealt in self.zeros.items()}
        self.dealers = list(self.present)

    def _close_complaints(self, said: Mapping[bytes, Value]) -> None:
        for at, value in self._heard(said).items():
            unread = {name for name in value if type(name) is bytes} if isinstance(value, list) else set()
            for name in sorted(unread & self._committed.keys()):
                self.asked.setdefault(name, []).append(at)
        self.key = coins(self.terms, self._seed, self._committed)

    def _close_answers(self, said: Mapping[bytes, Value]) -> None:
        for name, places in self.asked.items():
            answer = _shown(said.get(self._speaker(name)))
            for at in places:
                if self._share(name, at, answer.get(at)) is None:
                    self._reject(name, f"it shows miner {at} no share that it committed to")
                    break
                self.shown[name, at] = answer[at]

    def _close_masks(self, said: Mapping[bytes, Value]) -> None:
        for name in list(self.customers):
            value = said.get(name)
            if type(value) is int and 0 <= value < SETS:
                self.chosen[name] = value
            else:
                self._reject(name, "it named no masks")
        self._enough()

    # Tests

    def _close_tests(self, said: Mapping[bytes, Value]) -> None:
        names = [*self.customers, *map(dealer_of, self.dealers)]
        ends = np.cumsum([ROWS + REPEATS] * len(self.customers) + [REPEATS] * len(self.dealers))
        for at, found in self._opened(said, int(ends[-1])).items():
            parts = np.split(found, ends[:-1], axis=1)
            self._tests |= {(at, name): part for name, part in zip(names, parts, strict=True)}
        for name in list(self.customers):
            reason, differing = examine(self.terms, self._answers(name))
            self.doubts += [(at, name) for at in differing]
            if reason:
                self._reject(name, reason)
        for dealer in list(self.dealers):
            self._examine_zeros(dealer_of(dealer))

    def _examine_zeros(self, name: bytes) -> None:
        answers, degree = self._answers(name), 2 * self.terms.liars
        wrong, places = self.terms.allowance(len(answers), degree), sorted(answers)
        try:
            found = decode(np.stack([answers[at] for at in places]), degree, wrong, places)
        except RefusedError:
            return self._reject(name, "dealt zeros that are on no polynomial")
        self.doubts += [(at, name) for at in found.liars]
        if found.values.any():
            self._reject(name, "dealt zeros that are none")

    def _close_shows(self, said: Mapping[bytes, Value]) -> None:
        for at, name in self.doubts:
            message = _shown(said.get(self.miners[at])).get(name)
            share = self._share(name, at, message)
            if share is None or (self._expected(name, share) != self._tests[at, name]).any():
                self._catch(at, "opened a test that does not follow from its share")
            else:
                self._reject(name, f"its share for miner {at} is not on the polynomial of the others")
        if self._enough() and self.rule == "mean":
            self._select([0] * len(self.customers))
        if self.rule != "mean" and len(self.dealers) <= self.terms.liars:
            raise RefusedError(f"zeros of {len(self.dealers)} miners passed", allowed=f"{self.terms.liars + 1} or more")

    def _expected(self, name: bytes, share: Residues) -> Residues:
        if name in self.chosen:
            tested: Residues = opened(self.terms, self.key, [self.chosen[name]], share[None])[0]
            return tested
        return open_zeros(self.key, share)

    # Results

    def _close_distances(self, said: Mapping[bytes, Value]) -> None:
        count = len(self.customers)
        shares = self._opened(said, count * (count - 1) // 2)
        distances, wrong = open_distances(self.terms, shares, count)
        for at in wrong:
            self._catch(at, "opened a wrong share of the distances")
        self._select(scores_from(distances, self._f))

    def _select(self, scores: list[int]) -> None:
        judged = evaluate(scores, self.rule, self._f, self._kappa)
        self._scores = dict(zip(self.customers, scores, strict=True))
        self.selected = [name for name, one in zip(self.customers, judged, strict=True) if one.selected]
        if len(self.selected) < LEAST:
            self.failed = f"the sum of {len(self.selected)} updates is never opened"

    def _close_sums(self, said: Mapping[bytes, Value]) -> None:
        shares = self._opened(said, self.terms.size)
        try:
            self._update, wrong = open_mean(self.terms, shares, len(self.selected))
        except RefusedError as error:
            self.failed = error.wrong
            return
        for at in wrong:
            self._catch(at, "opened a wrong share of the sum")

    # What the steps have in common

    def _heard(self, said: Mapping[bytes, Value]) -> dict[int, Value]:
        """Returns what the miners said; whoever said nothing takes no further part."""
        self.present = [at for at in self.present if self.miners[at] in said]
        if len(self.present) < len(self.miners) - self.terms.liars:
            raise RefusedError(
                f"{len(self.present)} of {len(self.miners)} miners take part in opening the round",
                allowed=f"{len(self.miners) - self.terms.liars} or more",
            )
        return {at: said[self.miners[at]] for at in self.present}

    def _opened(self, said: Mapping[bytes, Value], count: int) -> dict[int, Residues]:
        found = {at: _residues(value, count) for at, value in self._heard(said).items()}
        self.present = [at for at in self.present if found[at] is not None]
        return {at: one for at, one in found.items() if one is not None}

    def _answers(self, name: bytes) -> dict[int, Residues]:
        return {at: self._tests[at, name] for at in self.present}

    def _share(self, name: bytes, at: int, message: bytes | None) -> Residues | None:
        """Returns what a message that is shown holds, or None when it is not what the dealer committed to."""
        pairs = len(self._all) * (len(self._all) - 1) // 2
        count = self.terms.columns if name in self._all else pairs + REPEATS
        try:
            return take(self.terms, name, at, message or b"", self._committed[name][at], count)
        except ContentError:
            return None

    def _speaker(self, name: bytes) -> bytes:
        return next((self.miners[at] for at in self.zeros if dealer_of(at) == name), name)

    def _reject(self, name: bytes, reason: str) -> None:
        if name in self.customers:
            self.customers = [each for each in self.customers if each != name]
            self.left_out[name] = reason
        for at in [at for at in self.dealers if dealer_of(at) == name]:
            self._catch(at, reason)

    def _catch(self, at: int, reason: str) -> None:
        self.present = [each for each in self.present if each != at]
        self.dealers = [each for each in self.dealers if each != at]
        self.caught.setdefault(at, reason)

    def _enough(self) -> bool:
        least = needed(self.rule, self._f)
        if len(self.customers) < least:
            self.failed = f"{len(self.customers)} updates passed their tests, a round needs {least}"
        return not self.failed


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


def _residues(value: Value, count: int) -> Residues | None:
    """Returns residues (3, count) as a miner sends them, or None when it sent none."""
    if type(value) is not bytes or len(value) != 12 * count:
        return None
    found = np.frombuffer(value, "<u4").reshape(3, count).astype(np.int64)
    return None if (found >= _P).any() else found


def _shown(value: Value) -> dict[Any, bytes]:
    """Returns the messages of a list of (name or place, message) that was sent; what is malformed is left out."""
    rows = [row for row in value if isinstance(row, list) and len(row) == 2] if isinstance(value, list) else []
    return {row[0]: row[1] for row in rows if type(row[0]) in (int, bytes) and type(row[1]) is bytes}
