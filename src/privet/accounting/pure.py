"""The event of a mechanism of which only its pure loss is known."""

from __future__ import annotations

import math

from dp_accounting.dp_event import DpEvent, NoOpDpEvent, RandomizedResponseDpEvent

from privet.errors import InputError


def pure_event(loss: float) -> DpEvent:
    """Returns binary randomised response of this loss, which dominates every mechanism of pure loss ``loss``.

    Raises:
        InputError: the loss is negative, or too large to be told from no privacy.

    References:
        Kairouz, Oh, Viswanath, The Composition Theorem for Differential Privacy, ICML 2015, theorem 3.2.
    """
    if not 0 <= loss <= 700:
        raise InputError(f"a pure loss of {loss}", allowed="0 to 700")
    return RandomizedResponseDpEvent(2 / (1 + math.exp(loss)), 2) if loss else NoOpDpEvent()
