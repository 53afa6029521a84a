"""Freivalds' check: is an answer the product, found out for a small part of the work of multiplying?

Somebody answers ``Y`` for ``W X``, modulo m. With random ``s`` that the answerer does not know, ``s Y = (s W) X`` holds
for the product; ``s W`` is one row, worked out once. For another answer there is a column with an error ``e != 0``, and
the check passes only when ``s e = 0``. Let ``e_i`` be a coordinate that is not 0, and fix all of ``s`` but ``s_i``:

- modulo a prime, ``e_i`` has an inverse, so at most one of the 2^24 values of ``s_i`` lets it pass: at most 2^-24;
- modulo 2^32, take ``s_i`` in {0, 1}: both can't pass, as they differ by ``e_i``: at most 1/2 a row, 2^-24 for 24 rows.
  Larger ``s_i`` don't help: for ``e_i = 2^31`` every even ``s_i`` passes.

``s`` serves again until an answer fails; whoever fails is asked no more. With h helpers that all lie, in the worst
order, some lie passes with probability at most h 2^-24: below 2^-20 for up to 16.

References:
    R. Freivalds, Probabilistic machines can use less running time, IFIP 1977.
    F. Tramer, D. Boneh, Slalom, ICLR 2019 (arXiv 1806.03287), section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from privet.inference.distributed.fixed_point import FIELD, Kernel, Ring
from privet.randomness import Source, system

BITS = 24
"""A wrong answer passes with probability at most 2^-BITS."""
_DIGITS = 4


@dataclass(frozen=True)
class Check:
    """Secret random rows for one layer, or for some rows of it.

    Attributes:
        ring: what sums are modulo.
        secret: (k, rows) int64.
        digits: the k random combinations of the weights in balanced digits to the base 256, (4 k, ...).
    """

    ring: Ring
    secret: Tensor
    digits: Kernel

    def __repr__(self) -> str:
        return f"Check({self.ring.name})"

    def holds(self, sent: Tensor, answer: Tensor) -> bool:
        """Returns whether an answer (batch, rows, ...) is the product of what was sent (batch, ...), both reduced."""
        return torch.equal(self._expected(sent), self._answered(answer))

    def _expected(self, sent: Tensor) -> Tensor:
        # Digits within 128 and values within 2^31: a row of 2^15 weights stays below 2^53.
        parts = self.ring.reduced(self.digits(self.ring.centred(sent)))
        powers = torch.tensor([256**place for place in range(_DIGITS)])
        spread = parts.reshape(len(sent), _DIGITS, len(self.secret), -1)
        return self.ring.reduced((spread * powers[:, None, None]).sum(1))

    def _answered(self, answer: Tensor) -> Tensor:
        flat = answer.reshape(len(answer), len(answer[0]), -1)
        secret = self.secret.double()
        # Two halves of 16 bits, so that 2^13 products of 24 bits by 16 stay within 2^53.
        low, high = ((secret @ half.double()).long() for half in (flat & 0xFFFF, flat >> 16))
        return self.ring.reduced(self.ring.reduced(high) * 65536 + low)


def check_of(kernel: Kernel, ring: Ring, rng: Source | None = None) -> Check:
    """Returns a new check of a layer, or of some rows of it.

    Args:
        kernel: the weights.
        ring: what sums are modulo.
        rng: by default the operating system's randomness.
    """
    rng = rng or system()
    rows, high = (1, 1 << BITS) if ring == FIELD else (BITS, 2)
    secret = torch.from_numpy(rng.integers(high, rows * len(kernel)).copy()).reshape(rows, -1)
    flat = kernel.weight.flatten(1)
    low, upper = (((part.double()) @ flat).long() for part in (secret & 4095, secret >> 12))
    combined = ring.centred(ring.reduced(ring.reduced(upper) * 4096 + low))
    digits = torch.stack(_balanced(combined)).flatten(0, 1).double().reshape(-1, *kernel.weight.shape[1:])
    return Check(ring, secret, Kernel(digits, kernel.stride, kernel.padding))


def _balanced(values: Tensor) -> list[Tensor]:
    digits = []
    for _ in range(_DIGITS - 1):
        digit = ((values + 128) & 255) - 128
        digits.append(digit)
        values = (values - digit) >> 8
    return [*digits, values]
