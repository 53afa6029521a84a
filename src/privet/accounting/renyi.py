"""Renyi divergences of events, at many orders at once.

Equal events count once, continuous Gaussian and Laplace events of ten thousand distinct noises are
vectors, and what the formulas here don't cover is left to dp_accounting. Each figure is exact, or an
upper bound: sampling of anything but Gaussian noise uses the bound of Zhu and Wang at whole orders,
and so many distinct sampled Gaussians that fractional orders would take minutes use whole orders only.

References:
    Mironov, Renyi Differential Privacy, CSF 2017, proposition 6 (Laplace); Mironov, Talwar, Zhang, Renyi
    Differential Privacy of the Sampled Gaussian Mechanism, 2019, section 3.3; Zhu and Wang, Poisson
    Subsampled Renyi Differential Privacy, ICML 2019, theorem 6; Bun and Steinke, Concentrated
    Differential Privacy, TCC 2016 (zero-concentrated events).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Iterator

import numpy as np
from dp_accounting import dp_event as events
from dp_accounting.dp_event import DpEvent
from dp_accounting.privacy_accountant import UnsupportedEventError
from dp_accounting.rdp import RdpAccountant
from scipy.special import gammaln, logsumexp

from privet.errors import InputError

ORDERS = np.concatenate(
    (1 + np.logspace(-5, -1, 41), np.arange(12, 110) / 10, np.arange(11, 64), 2.0 ** np.arange(6, 15))
)
"""Renyi orders. The best order for k releases is near 1 + sqrt(2 log(1 / delta) / k) / loss."""

_WHOLE = np.array([n for n, order in enumerate(ORDERS) if order == round(order) and order <= 256])
"""Where in ``ORDERS`` the whole ones are; above 256 their sums cost more than they give."""

_FEW = 20
"""Distinct sampled Gaussians up to which every order is used."""

_BLOCK = 4096
"""Events treated at once, so that a vector of all orders stays in the cache's reach."""


def leaves_of(composed: list[DpEvent], count: int = 1) -> Iterator[tuple[DpEvent, int]]:
    """Yields every event that is no composition, with how often it happened."""
    for event in composed:
        match event:
            case events.ComposedDpEvent(events=parts):
                yield from leaves_of(parts, count)
            case events.SelfComposedDpEvent(event=one, count=times):
                if times < 0 or times != int(times):
                    raise InputError(f"an event can't happen {times} times", allowed="0, 1, 2, ...")
                yield from leaves_of([one], count * int(times))
            case events.NoOpDpEvent() | events.PoissonSampledDpEvent(sampling_probability=0):
                pass
            case _ if count:
                yield event, count


def divergences(leaves: Iterable[tuple[DpEvent, int]]) -> np.ndarray | None:
    """Returns the Renyi divergence of each of ``ORDERS`` for all events together, None where one is unknown.

    Args:
        leaves: events that are no compositions, with how often each happened.
    """
    total = np.zeros(len(ORDERS))
    gaussian: list[tuple[float, int]] = []
    laplace: list[tuple[float, int]] = []
    sampled: dict[float, list[tuple[float, int]]] = {}
    for leaf, count in leaves:
        match leaf:
            case events.GaussianDpEvent(noise_multiplier=noise):
                gaussian.append((float(noise), count))
            case events.LaplaceDpEvent(noise_multiplier=noise):
                laplace.append((float(noise), count))
            case events.PoissonSampledDpEvent(
                sampling_probability=rate, event=events.GaussianDpEvent(noise_multiplier=noise)
            ) if rate < 1:
                sampled.setdefault(float(rate), []).append((float(noise), count))
            case _:
                one = _one(leaf)
                if one is None:
                    return None
                total += count * one
    total += ORDERS * math.fsum(0.5 * count / noise**2 for noise, count in gaussian)
    total += _laplace(laplace)
    if sum(map(len, sampled.values())) <= _FEW:
        for rate, rows in sampled.items():
            for noise, count in rows:
                total += count * _one_sampled_gaussian(rate, noise)
    else:
        total += sum(_sampled_gaussian(rate, rows) for rate, rows in sampled.items())
    return total


def _one(leaf: DpEvent) -> np.ndarray | None:
    """Returns the divergences of one event of another kind than the vectors cover."""
    match leaf:
        case events.ZCDpEvent(rho=rho, xi=xi):
            return np.asarray(xi + rho * ORDERS)
        case events.DiscreteLaplaceDpEvent(noise_parameter=loss, sensitivity=shift):
            return _discrete_laplace(float(loss), int(shift))
        case events.RandomizedResponseDpEvent(noise_parameter=part, num_buckets=buckets):
            return _randomised_response(float(part), int(buckets))
    try:
        return _dp_accounting(leaf)
    except UnsupportedEventError:
        if not isinstance(leaf, events.PoissonSampledDpEvent):
            return None
    base = divergences(leaves_of([leaf.event]))
    return base if base is None or leaf.sampling_probability == 1 else _sampled(leaf.sampling_probability, base)


def _dp_accounting(leaf: DpEvent) -> np.ndarray:
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)  # a sum that does not converge leaves its order infinite: nothing to tell a user
    try:
        return np.asarray(RdpAccountant(orders=ORDERS).compose(leaf)._rdp)  # its own conversion refuses orders near 1
    finally:
        logger.setLevel(before)


@functools.lru_cache(maxsize=512)
def _one_sampled_gaussian(rate: float, noise: float) -> np.ndarray:
    return _dp_accounting(events.PoissonSampledDpEvent(rate, events.GaussianDpEvent(noise)))


def _laplace(rows: list[tuple[float, int]]) -> np.ndarray:
    """Returns the sum over Laplace events, given as (noise multiplier, count)."""
    total = np.zeros(len(ORDERS))
    for start in range(0, len(rows), _BLOCK):
        noise, count = np.array(rows[start : start + _BLOCK]).T
        loss = 1 / noise[:, None]
        tail = np.expm1(loss * (1 - 2 * ORDERS)) / (2 * ORDERS - 1)
        total += count @ (loss + np.log1p((ORDERS - 1) * tail) / (ORDERS - 1))
    return total


def _sampled_gaussian(rate: float, rows: list[tuple[float, int]]) -> np.ndarray:
    """Returns the sum over sampled Gaussian events of one rate at whole orders, infinite elsewhere."""
    total = np.full(len(ORDERS), math.inf)
    noise, count = np.array(rows).T
    for place in _WHOLE:
        order = int(ORDERS[place])
        k = np.arange(order + 1)
        fixed = _log_binomial(order, k) + k * math.log(rate) + (order - k) * math.log1p(-rate)
        total[place] = 0.0
        for start in range(0, len(noise), _BLOCK):
            block = slice(start, start + _BLOCK)
            terms = fixed + np.multiply.outer(0.5 / noise[block] ** 2, k * (k - 1.0))
            most = terms.max(1)
            logs = most + np.log(np.exp(terms - most[:, None]).sum(1))
            total[place] += count[block] @ np.maximum(logs, 0) / (order - 1)
    return total


def _sampled(rate: float, base: np.ndarray) -> np.ndarray:
    """Returns Zhu and Wang's bound for a Poisson sample of any mechanism, at whole orders."""
    out = np.full(len(ORDERS), math.inf)
    whole = ORDERS[_WHOLE]
    for place in _WHOLE:
        order = int(ORDERS[place])
        k = np.arange(2, order + 1)
        # Divergence grows with the order, so the next larger known order bounds one that is not listed.
        at = base[_WHOLE][np.searchsorted(whole, k)]
        logs = _log_binomial(order, k) + k * math.log(rate) + (order - k) * math.log1p(-rate) + (k - 1) * at
        logs[1:] += math.log(3)
        none = (order - 1) * math.log1p(-rate) + math.log1p((order - 1) * rate)
        out[place] = max(0.0, float(logsumexp(np.append(logs, none)))) / (order - 1)
    return out


def _discrete_laplace(loss: float, shift: int) -> np.ndarray:
    """Returns the divergence of noise with masses ~ exp(-loss |x|) from itself shifted, summed in three pieces."""
    left = -loss * ORDERS * shift
    right = loss * shift * (ORDERS - 1)
    ends = np.logaddexp(left, right) - np.log1p(math.exp(-loss))
    if shift > 1:
        slope = loss * (2 * ORDERS - 1)
        between = left + slope * (shift - 1) + np.log(-np.expm1(-slope * (shift - 1))) - np.log(-np.expm1(-slope))
        ends = np.logaddexp(ends, between + math.log(math.tanh(loss / 2)))
    return _rounded_up(ends)


def _randomised_response(part: float, buckets: int) -> np.ndarray:
    """Returns the divergence between the answers of two inputs; ``part`` of the answers is uniform."""
    if buckets == 1 or part == 1:
        return np.zeros(len(ORDERS))
    rest = (buckets - 2) * part / buckets
    loss = math.log1p(buckets * (1 - part) / part)
    low = math.log(part / buckets)
    pieces = [low + ORDERS * loss, low + (1 - ORDERS) * loss]
    if rest > 0:
        pieces.append(np.full(len(ORDERS), math.log(rest)))
    return _rounded_up(np.logaddexp.reduce(pieces))


def _rounded_up(logs: np.ndarray) -> np.ndarray:
    """Returns logs / (order - 1), not below the truth by rounding, which near order 1 is magnified."""
    return np.asarray(np.maximum(logs + 4e-16 * (1 + np.abs(logs)), 0) / (ORDERS - 1))


def _log_binomial(order: int, k: np.ndarray) -> np.ndarray:
    return np.asarray(gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1))
