"""How much noise a wanted epsilon needs: the accountants of this folder, read backwards.

Epsilon falls as the noise grows, so the noise is bracketed and the bracket narrowed by interpolating
logarithms, in which epsilon against noise is nearly a straight line: first with the fast accountants
alone, then with all. What is returned is the end of the bracket whose epsilon was computed and is at
most the wanted one, never an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

from dp_accounting import dp_event as events
from dp_accounting.dp_event import DpEvent

from privet.accounting.accountants import Accountant, epsilon
from privet.errors import InputError

Noise = Literal["gaussian", "laplace", "geometric", "discrete-gaussian"]
"""Mechanisms that a noise multiplier describes: noise scale over sensitivity."""

_LEAST, _MOST = 1e-4, 1e12

_Cost = Callable[[float], "Calibrated"]


@dataclass(frozen=True)
class Calibrated:
    """A noise multiplier and what it costs.

    Attributes:
        noise_multiplier: noise scale over sensitivity.
        epsilon: what the accountant derives for it, at most what was wanted.
        accountant: which one derived it.
    """

    noise_multiplier: float
    epsilon: float
    accountant: str

    def height(self, wanted: float) -> float:
        """Returns log(epsilon / wanted), kept finite where epsilon is 0 or too large to be a number."""
        return max(-50.0, min(50.0, math.log(max(self.epsilon, 1e-300)) - math.log(wanted)))


def event_of(mechanism: Noise, noise_multiplier: float, sampling_rate: float = 1.0) -> DpEvent:
    """Returns the event of one release with this noise, on a Poisson sample of the units if the rate is below 1.

    The multiplier is sigma over the l2 sensitivity for ``gaussian`` and ``discrete-gaussian``, and the
    scale b over the l1 sensitivity, spent on one value, for ``laplace`` and ``geometric``.

    Args:
        mechanism: which noise.
        noise_multiplier: noise scale over sensitivity.
        sampling_rate: with which probability each unit takes part, independent of all others.

    Raises:
        InputError: an argument is out of range.
    """
    if mechanism not in get_args(Noise):
        raise InputError(f"no noise called {mechanism!r}", allowed=", ".join(get_args(Noise)))
    if not 0 < noise_multiplier < math.inf:
        raise InputError(f"the noise multiplier is {noise_multiplier}", allowed="a finite number, more than 0")
    if not 0 < sampling_rate <= 1:
        raise InputError(f"the sampling rate is {sampling_rate}", allowed="0 < rate <= 1")
    one: DpEvent
    match mechanism:
        case "gaussian":
            one = events.GaussianDpEvent(noise_multiplier)
        case "laplace":
            one = events.LaplaceDpEvent(noise_multiplier)
        case "geometric":
            one = events.DiscreteLaplaceDpEvent(1 / noise_multiplier, 1)
        case "discrete-gaussian":
            one = events.ZCDpEvent(0.5 / noise_multiplier**2)
    return one if sampling_rate == 1 else events.PoissonSampledDpEvent(sampling_rate, one)


def noise_multiplier_for(
    event: Callable[[float], DpEvent], wanted: float, delta: float, count: int = 1, *, precision: float = 5e-4
) -> Calibrated:
    """Returns the least noise, within ``precision``, whose ``count`` releases cost at most the wanted epsilon.

    >>> from dp_accounting.dp_event import LaplaceDpEvent
    >>> round(noise_multiplier_for(LaplaceDpEvent, 0.5, 0.0, count=3).noise_multiplier, 1)
    6.0

    Args:
        event: noise multiplier -> event of one release, costing less as the noise grows.
        wanted: epsilon.
        delta: the probability that epsilon does not bound.
        count: releases, each with fresh noise.
        precision: how far above the least noise the returned one may be, as a part of it.

    Raises:
        InputError: the wanted epsilon is not positive and finite, or no noise between 1e-4 and 1e12 reaches it.
    """
    if not 0 < wanted < math.inf:
        raise InputError(f"epsilon is {wanted}", allowed="a finite number, more than 0")

    def fast(noise: float) -> Calibrated:
        for name in ("rdp", "pure"):
            with suppress(InputError):
                return Calibrated(noise, Accountant(name).compose(event(noise), count).epsilon(delta), name)
        return full(noise)

    def full(noise: float) -> Calibrated:
        return Calibrated(noise, *epsilon(event(noise), delta, count=count))

    rough = _least(fast, 1.0, wanted, 0.05) or Calibrated(1.0, math.inf, "none")
    found = _least(full, rough.noise_multiplier, wanted, precision)
    if found is None:
        raise InputError(
            f"no noise multiplier up to {_MOST:g} reaches epsilon {wanted:g} at delta {delta:g}",
            do="raise delta (Gaussian noise needs one above 0), raise epsilon, or make fewer releases",
        )
    return found


def _least(cost: _Cost, start: float, wanted: float, precision: float) -> Calibrated | None:
    """Returns the least noise within ``precision`` that costs at most what is wanted, None if none does."""
    low, high = _bracket(cost, start, wanted)
    if low is None or high is None:
        return high
    step = 0
    while high.noise_multiplier > low.noise_multiplier * (1 + precision):
        step += 1
        middle = cost(_between(low, high, wanted, precision, halve=step % 4 == 0))
        if middle.epsilon > wanted:
            low = middle
        else:
            high = middle
    return high


def _bracket(cost: _Cost, start: float, wanted: float) -> tuple[Calibrated | None, Calibrated | None]:
    """Returns noise that costs too much and noise that doesn't; None where there is none in range."""
    low, high, at = None, None, cost(start)
    while low is None or high is None:
        if at.epsilon > wanted:
            low = at
        else:
            high = at
        # Epsilon falls at least as fast as 1 / noise, so this lands just beyond the crossing.
        leap = math.exp(max(-2.0, min(2.0, at.height(wanted)))) * (1.02 if low is at else 1 / 1.02)
        if not _LEAST <= at.noise_multiplier * leap <= _MOST:
            break
        if low is None or high is None:
            at = cost(at.noise_multiplier * leap)
    return low, high


def _between(low: Calibrated, high: Calibrated, wanted: float, precision: float, *, halve: bool) -> float:
    """Returns where the line through both ends crosses, a little beyond it as seen from the nearer end.

    Landing there makes the bracket tight at once; halving now and then bounds the number of steps.
    """
    width = math.log(high.noise_multiplier / low.noise_multiplier)
    over, under = low.height(wanted), high.height(wanted)
    part = 0.5 if halve or over <= under else over / (over - under)
    nudge = min(precision / 3, 0.25 * width) / width
    part = part - nudge if part > 0.5 else part + nudge
    return low.noise_multiplier * math.exp(width * min(max(part, nudge), 1 - nudge))
