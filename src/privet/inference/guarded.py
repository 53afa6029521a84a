"""The way out of a device: what was released before is repeated, what is new is paid for, and only then it leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from privet.governance.bit_budget import BitBook
from privet.inference.memo import Memo
from privet.inference.obfuscation import Obfuscation
from privet.randomness import Source, system


@dataclass(frozen=True, eq=False)
class Guarded:
    """Releases samples through an obfuscator whose codes are counted, within each subject's budget of bits.

    A sample that is the same byte for byte is the same release, whoever's it is; one that differs in one pixel is a
    new one, and is paid for.

    Attributes:
        made: the obfuscators.
        memo: of the device.
        book: the budgets of its subjects.
        purpose: what the answers are for.
        which: the obfuscator that this device picked.
        rng: of the noise; the operating system's unless a test wants it repeated.
    """

    made: Obfuscation
    memo: Memo
    book: BitBook
    purpose: str
    which: int = 0
    rng: Source = field(default_factory=system)

    @property
    def bits(self) -> float:
        """What one release tells at most; ``math.inf`` where nobody counts."""
        return self.made.bits(self.which)

    def release(self, samples: Tensor, subject: str) -> Tensor:
        """Returns what leaves for samples (n, ...) of a subject, in their shape: for all of them, or for none.

        Raises:
            RefusedError: the subject has no budget or would exceed it, or the memo is full; nothing left.
            InputError, RunError: as :meth:`Memo.once` and :meth:`BitBook.spend`.
        """
        if not len(samples):
            return samples.clone()
        names = [self.memo.name(one) for one in samples]
        self.memo.check_room(names)
        self.book.spend(names, subject, self.purpose, self.bits)
        return torch.stack([self.memo.once(one, lambda one=one: self._draw(one)) for one in samples])  # type: ignore[misc]

    def _draw(self, sample: Tensor) -> Tensor:
        return self.made.release(sample[None], self.rng, self.which)[0]
