"""Aggregation in integers: the same bytes on every miner, whatever its processor, BLAS or number of threads.

Sums of floats depend on their order, so two honest miners could disagree about a model. Here an update is
fixed point, 2^16 to the unit, clipped to 32; distances, scores and means are exact. Selection and
evaluation are those of :func:`privet.ledger.reputation.evaluate`, which the chain applies as well.

Cost: one Gram product of the updates in float64 and one pass; rounding an update moves a coordinate by at
most 2^-17.

References:
    Blanchard et al., NeurIPS 2017, section 4; Zhao et al., section IV.B, equation 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privet.errors import InputError
from privet.ledger.reputation import Evaluation, evaluate

SCALE = 1 << 16
"""Steps in a unit."""

CLIP = 32
"""Coordinates beyond plus or minus this are cut off."""

LARGEST = CLIP * SCALE
"""The largest coordinate in steps, 2^21."""

_EXACT = 1 << 53
_FLUSH = 1 << 9
_CACHED = 1 << 13

Steps = NDArray[np.int32]
"""Fixed-point numbers, each from -LARGEST to LARGEST."""


@dataclass(frozen=True)
class Aggregated:
    """What a round's updates give.

    Attributes:
        update: the mean of the selected updates in steps, shape (d,).
        scores: each update's exact Krum score in squared steps; 0 under ``mean``.
        evaluations: who was selected, and whose update speaks for its sender.
    """

    update: Steps
    scores: list[int]
    evaluations: list[Evaluation]


def quantise(update: NDArray[np.floating]) -> Steps:
    """Returns an update in steps: clipped, then rounded to the nearest step, half to even.

    Args:
        update: shape (d,), float32 or float64, finite.

    Raises:
        InputError: the shape or type is another, or a value is not finite.
    """
    if update.ndim != 1 or update.dtype not in (np.float32, np.float64):
        raise InputError(f"an update of shape {update.shape} and type {update.dtype}", allowed="(d,), float32 or 64")
    if not np.isfinite(update).all():
        raise InputError("the update holds values that are not finite")
    # Exact up to the rounding: a float64 holds any float32, and SCALE is a power of two.
    return np.rint(np.clip(update.astype(np.float64), -CLIP, CLIP) * SCALE).astype(np.int32)


def restore(steps: Steps) -> NDArray[np.float32]:
    """Returns steps as float32, exactly: 22 bits fit its 24."""
    return (steps / SCALE).astype(np.float32)


def to_bytes(steps: Steps) -> bytes:
    """Returns the bytes that are stored and hashed: 32-bit little-endian integers."""
    return steps.astype("<i4").tobytes()


def from_bytes(data: bytes, size: int) -> Steps:
    """Returns what :func:`to_bytes` wrote.

    Raises:
        InputError: there are not ``size`` numbers, or one is larger than clipping allows.
    """
    if len(data) != 4 * size:
        raise InputError(f"an update of {len(data)} bytes", allowed=f"{4 * size} for {size} numbers")
    steps = np.frombuffer(data, "<i4").astype(np.int32)
    _check(steps[None])
    return steps


def aggregate(updates: Sequence[Steps], rule: str, f: int, kappa: int) -> Aggregated:
    """Returns the exact result of a round.

    Args:
        updates: (d,) each, in the order of the customers' keys, so that equal scores are told apart alike everywhere.
        rule: ``multi-krum`` (all but the ``f`` highest scores are averaged) or ``mean``.
        f: hostile updates to withstand.
        kappa: see :func:`privet.ledger.reputation.evaluate`.

    Raises:
        InputError: shapes differ, or a number is larger than clipping allows.
        RefusedError: there are too few updates for the rule.
    """
    if len({steps.shape for steps in updates}) > 1:
        raise InputError("the updates of a round have different shapes")
    scores = [0] * len(updates)
    evaluations = evaluate(scores, rule, f, kappa)  # too few are refused before the work
    if rule != "mean":
        scores = krum_scores(np.stack(updates), f)
        evaluations = evaluate(scores, rule, f, kappa)
    chosen = [steps for steps, one in zip(updates, evaluations, strict=True) if one.selected]
    return Aggregated(mean(np.stack(chosen)), scores, evaluations)


def scores_of(contents: Sequence[bytes], rule: str, f: int) -> list[int]:
    """Returns the scores that a verdict must give to updates as they are stored, by :func:`to_bytes`.

    Raises:
        InputError: a content is no update, or they differ in length.
    """
    if rule == "mean" or not contents:
        return [0] * len(contents)
    size = len(contents[0]) // 4
    return krum_scores(np.stack([from_bytes(content, size) for content in contents]), f)


def krum_scores(updates: Steps, f: int) -> list[int]:
    """Returns each update's exact sum of squared distances to its n - f - 2 nearest others, in squared steps.

    Args:
        updates: shape (n, d), n >= f + 3.
        f: hostile updates to withstand.
    """
    distances = squared_distances(updates)
    nearest = updates.shape[0] - f - 2
    # An update is 0 from itself, so of the sorted row the first is left out.
    return [sum(sorted(row)[1 : nearest + 1]) for row in distances]


def squared_distances(updates: Steps) -> list[list[int]]:
    """Returns the exact squared distance of every pair, by a Gram product in float64.

    Why it is exact: the columns of a block are so few that columns * largest^2 <= 2^53. Each product of
    two steps, and each sum of such products in any order, with or without fused multiply-add, is then an
    integer of at most 2^53, which float64 holds: nothing is ever rounded. With coordinates at the clip,
    2^21, a block has 2^53 / 2^42 = 2048 columns. Blocks are added in int64, at most 2^9 of them, so a sum
    stays below 2^62; then in Python's integers, which have no bound.

    Args:
        updates: shape (n, d).

    Returns:
        n rows of n; symmetric, 0 on the diagonal.

    Raises:
        InputError: a number is larger than clipping allows.
    """
    largest = max(_check(updates), 1)
    n, d = updates.shape
    width = min(_EXACT // (largest * largest), _CACHED)
    total = np.zeros((n, n), dtype=object)
    gram = np.zeros((n, n), dtype=np.int64)
    for number, start in enumerate(range(0, d, width), 1):
        rows = updates[:, start : start + width].astype(np.float64)
        gram += (rows @ rows.T).astype(np.int64)
        if number % _FLUSH == 0:
            total += gram
            gram[:] = 0
    total += gram
    squares = total.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * total).tolist()  # type: ignore[no-any-return]


def mean(updates: Steps) -> Steps:
    """Returns the mean of updates of shape (n, d), each coordinate rounded to the nearest step, half to even.

    Raises:
        InputError: a number is larger than clipping allows.
    """
    _check(updates)
    n = updates.shape[0]
    total = updates.sum(axis=0, dtype=np.int64)  # below n * 2^21
    whole, left = np.divmod(total, n)
    up = (2 * left > n) | ((2 * left == n) & (whole % 2 == 1))
    rounded: Steps = (whole + up).astype(np.int32)
    return rounded


def _check(updates: Steps) -> int:
    if updates.dtype != np.int32 or updates.ndim != 2:
        raise InputError(f"steps of type {updates.dtype}, shape {updates.shape}", allowed="int32, one row an update")
    # Not abs(): the smallest int32 has no positive twin.
    largest = max(int(updates.max(initial=0)), -int(updates.min(initial=0)))
    if largest > LARGEST:
        raise InputError(f"an update holds {largest} steps", allowed=f"-{LARGEST} to {LARGEST}")
    return largest
