"""A round of :mod:`privet.aggregation.shared` from dealings to mean, when all parties are at hand in one process.

Between processes the same steps follow from what stands on the chain; each function here that judges knows only what
was made public. Whoever is found to lie is named with the reason and takes no further part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privet.aggregation.exact import Aggregated
from privet.aggregation.share_checks import REPEATS, SETS, Terms, coins, examine, open_zeros, opened, take
from privet.aggregation.shared import Customer, Miner, dealer_of, examine_zeros, open_distances, open_mean, scores_from
from privet.crypto.shamir import Residues
from privet.errors import ContentError, RefusedError
from privet.ledger.reputation import evaluate


@dataclass
class Outcome:
    """What a round gives.

    Attributes:
        result: as on the open path, of the customers below in their order; None when the round failed.
        customers: names of those whose updates took part, rising.
        lying_customers: name -> reason.
        lying_miners: index -> reason.
        failed: why there is no result; "" when there is one.
    """

    result: Aggregated | None = None
    customers: list[bytes] = field(default_factory=list)
    lying_customers: dict[bytes, str] = field(default_factory=dict)
    lying_miners: dict[int, str] = field(default_factory=dict)
    failed: str = ""


def run(
    terms: Terms, customers: Sequence[Customer], miners: Sequence[Miner], seed: bytes, f: int, kappa: int
) -> Outcome:
    """Returns the outcome of a round under Multi-Krum.

    Args:
        terms: of the round.
        customers: with their dealings made.
        miners: number i at place i.
        seed: the chain's, after the dealings; here it comes from the caller.
        f: hostile updates to withstand.
        kappa: see :func:`privet.ledger.reputation.evaluate`.
    """
    round_ = _Round(terms, {customer.name: customer for customer in customers}, miners, seed)
    try:
        round_.deliver()
        round_.deliver_zeros()
        round_.test()
        round_.test_zeros()
        names = round_.outcome.customers = sorted(round_.customers)
        evaluate([0] * len(names), "multi-krum", f, kappa)  # too few are refused before anything is opened
        round_.outcome.result = round_.aggregate(names, f, kappa)
    except RefusedError as error:
        round_.outcome.failed = error.wrong
    return round_.outcome


class _Round:
    def __init__(self, terms: Terms, customers: dict[bytes, Customer], miners: Sequence[Miner], seed: bytes) -> None:
        self.terms, self.customers, self.places = terms, customers, len(customers)
        self.miners = dict(enumerate(miners))
        self.named = frozenset(customers)
        self.zeros = {miner.index: miner.zeros(self.places) for miner in miners}
        self.committed = {name: customer.dealing.commitments for name, customer in customers.items()}
        self.committed |= {dealer_of(index): dealing.commitments for index, dealing in self.zeros.items()}
        self.key = coins(terms, seed, self.committed)
        self.outcome = Outcome()

    def deliver(self) -> None:
        """Gives each miner its shares. Of a miner that complains the message is shown: somebody lied."""
        for name, customer in list(self.customers.items()):
            dealing = customer.dealing
            if not len(dealing.commitments) == len(dealing.messages) == self.terms.miners:
                self._leave_out(name, f"it did not deal to {self.terms.miners} miners")
                continue
            for index, miner in list(self.miners.items()):
                try:
                    miner.take(name, dealing.messages[index], dealing.commitments)
                except ContentError as error:
                    if self._share(name, index, dealing.messages[index]) is None:
                        self._leave_out(name, error.wrong)
                        break
                    self._out(index, "complained of a share that is sound")

    def deliver_zeros(self) -> None:
        """Gives each miner its zeros; whoever deals what is no share, or complains of what is one, is out."""
        for dealer, dealing in self.zeros.items():
            if dealer not in self.miners:
                continue
            for index, miner in list(self.miners.items()):
                try:
                    miner.take_zeros(dealer, self.places, dealing.messages[index], dealing.commitments)
                except ContentError as error:
                    if self._share(dealer_of(dealer), index, dealing.messages[index]) is None:
                        self._out(dealer, error.wrong)
                        break
                    self._out(index, "complained of zeros that are sound")

    def test(self) -> None:
        """Tests the customers' dealings; whose answer differs from the others' is judged."""
        chosen: dict[bytes, int] = {}
        for name, customer in list(self.customers.items()):
            try:
                chosen[name] = customer.choose(self.key)
            except RefusedError:
                del self.customers[name]  # by chance: nobody lied
            if chosen.get(name, 0) not in range(SETS):
                del chosen[name]
                self._leave_out(name, "it named masks that don't exist")
        if not chosen:
            raise RefusedError("no customer takes part")
        answers = {index: miner.test(self.key, chosen) for index, miner in self.miners.items()}
        for name in sorted(chosen):
            reason, differing = examine(self.terms, self._of(answers, name))
            for index in differing:
                share = self._share(name, index, self.miners[index].show(name))
                claimed = answers[index][name]
                if share is None or (opened(self.terms, self.key, [chosen[name]], share[None])[0] != claimed).any():
                    self._out(index, "opened a test that does not follow from its share")
                else:
                    reason = reason or f"its share for miner {index} is not on the polynomial of the others"
            if reason:
                self._leave_out(name, reason)

    def test_zeros(self) -> None:
        """Tests the miners' zeros; those that fail are shown by all, and whoever lied is out."""
        answers = {index: miner.test_zeros(self.key) for index, miner in self.miners.items()}
        for dealer in list(self.miners):
            if examine_zeros(self.terms, self._of(answers, dealer)):
                continue
            for index, miner in list(self.miners.items()):
                share = self._share(dealer_of(dealer), index, miner.show(dealer_of(dealer)))
                if share is None or (open_zeros(self.key, share) != answers[index][dealer]).any():
                    self._out(index, "opened a test of zeros that does not follow from its share")
            if dealer in self.miners and not examine_zeros(self.terms, self._of(answers, dealer)):
                self._out(dealer, "dealt zeros that are none")

    def aggregate(self, names: Sequence[bytes], f: int, kappa: int) -> Aggregated:
        """Opens the distances, selects, and opens the mean."""
        dealers = sorted(self.miners)
        shares = {index: miner.distances(names, dealers) for index, miner in self.miners.items()}
        distances, liars = open_distances(self.terms, shares, len(names))
        self._all_out(liars, "opened a wrong share of the distances")
        scores = scores_from(distances, f)
        evaluations = evaluate(scores, "multi-krum", f, kappa)
        selected = [name for name, one in zip(names, evaluations, strict=True) if one.selected]
        sums = {index: miner.total(selected) for index, miner in self.miners.items()}
        mean, liars = open_mean(self.terms, sums, len(selected))
        self._all_out(liars, "opened a wrong share of the sum")
        return Aggregated(mean, scores, evaluations)

    def _share(self, dealer: bytes, index: int, message: bytes) -> Residues | None:
        """What a message that is shown holds, or None when it is not what the dealer committed to."""
        count = self.terms.columns if dealer in self.named else self.places * (self.places - 1) // 2 + REPEATS
        try:
            return take(self.terms, dealer, index, message, self.committed[dealer][index], count)
        except ContentError:
            return None

    def _of(self, answers: Mapping[int, Mapping[Any, Residues]], key: Any) -> dict[int, Residues]:
        return {index: answers[index][key] for index in self.miners}

    def _leave_out(self, name: bytes, reason: str) -> None:
        del self.customers[name]
        self.outcome.lying_customers[name] = reason

    def _out(self, index: int, reason: str) -> None:
        del self.miners[index]
        self.outcome.lying_miners[index] = reason

    def _all_out(self, indices: Sequence[int], reason: str) -> None:
        for index in indices:
            self._out(index, reason)
