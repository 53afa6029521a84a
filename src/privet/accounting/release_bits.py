"""What one of K codes can tell at most: counting, without any assumption on samples, attackers or networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from privet.errors import InputError


@dataclass(frozen=True)
class ReleaseBits:
    """A release that is one of ``codes`` values, however it is chosen.

    Bounds, for N candidates each as likely, one of which is the record, and an attacker who knows everything else,
    the rule that chooses codes included. An attacker's best answer to a code is one candidate, so over all K codes it
    is right for at most K of the N records: for one at each code where the rule is a function, and in sum over the
    codes of max P(code | record) <= K where it is random. Knowing the record's class too is one of C values more, so
    one of K C codes. Releases of one record are together one of K^m codes. Min-entropy leakage is the logarithm
    of the factor by which the best guess improves, whatever the prior: at most the sum over codes of
    max P(code | record), which is K.

    Attributes:
        codes: K, how many different values can leave.

    Raises:
        InputError: there is no code.

    References:
        Smith, On the Foundations of Quantitative Information Flow, FoSSaCS 2009, theorem 3.1; Braun, Chatzikokolakis,
        Palamidessi, Quantitative Notions of Leakage for One-try Attacks, MFPS 2009.

    >>> bits = ReleaseBits(64)
    >>> bits.bits, bits.rank_1(2_000), bits.rank_1(2_000, classes=10)
    (6.0, 0.032, 0.32)
    >>> bits.repeats(2).codes, bits.repeats(2).rank_1(2_000)
    (4096, 1.0)
    """

    codes: int

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise InputError(f"a release of one of {self.codes} codes", allowed="1 or more")

    @property
    def bits(self) -> float:
        """The most that a release tells, as min-entropy leakage."""
        return math.log2(self.codes)

    def rank_1(self, candidates: int, classes: int = 1) -> float:
        """Returns the largest probability with which any attacker picks the record among candidates.

        Args:
            candidates: N, how many records it may be, each as likely.
            classes: C, if the attacker knows the record's class apart from the code; 1 if not.

        Raises:
            InputError: there is no candidate or no class.
        """
        if candidates < 1 or classes < 1:
            raise InputError(f"{candidates} candidates of {classes} classes", allowed="1 or more of each")
        told = self.codes * classes
        return 1.0 if told >= candidates else told / candidates  # K^m may be too large for a float

    def repeats(self, times: int) -> ReleaseBits:
        """Returns what ``times`` releases of one record are together, each drawn or made afresh.

        Raises:
            InputError: fewer than one.
        """
        if times < 1:
            raise InputError(f"{times} releases", allowed="1 or more")
        return ReleaseBits(self.codes**times)
