"""Exact aggregation: against a slow twin with Python's integers, at the bounds, in any order, with any threads."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from threadpoolctl import threadpool_limits

from privet.aggregation import exact
from privet.aggregation.exact import CLIP, LARGEST, SCALE, aggregate, from_bytes, quantise, restore, to_bytes
from privet.errors import InputError, RefusedError

rounds = arrays.arrays(
    np.int32,
    st.tuples(st.integers(5, 9), st.integers(1, 40)),
    elements=st.integers(-LARGEST, LARGEST) | st.sampled_from([-LARGEST, -1, 0, 1, LARGEST]),
)


def slow_distances(updates):
    rows = [[int(value) for value in row] for row in updates]
    return [[sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]


def slow_scores(updates, f):
    found = []
    for at, row in enumerate(slow_distances(updates)):
        others = sorted(row[:at] + row[at + 1 :])
        found.append(sum(others[: len(row) - f - 2]))
    return found


def slow_mean(updates):
    columns = zip(*[[int(value) for value in row] for row in updates], strict=True)
    return [round(Fraction(sum(column), len(updates))) for column in columns]  # round() of a Fraction: half to even


@given(rounds)
def test_equal_to_the_slow_twin(updates):
    assert exact.squared_distances(updates) == slow_distances(updates)
    assert exact.krum_scores(updates, 1) == slow_scores(updates, 1)
    assert exact.mean(updates).tolist() == slow_mean(updates)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 1000, LARGEST]), st.integers(4090, 4110))
def test_equal_to_the_slow_twin_over_several_blocks(seed, largest, d):
    updates = np.random.default_rng(seed).integers(-largest, largest, (5, d), dtype=np.int32, endpoint=True)
    assert exact.squared_distances(updates) == slow_distances(updates)


def test_the_bound_is_reached_and_nothing_is_rounded():
    # Every product at its largest: one block of 2048 columns sums to exactly 2^53; the next odd product would not fit.
    d = 3 * 2048 + 1
    updates = np.full((2, d), LARGEST, dtype=np.int32)
    updates[1] = -LARGEST
    updates[0, -1] = LARGEST - 1
    distance = (d - 1) * (2 * LARGEST) ** 2 + (2 * LARGEST - 1) ** 2
    assert exact.squared_distances(updates) == [[0, distance], [distance, 0]]


def test_sums_beyond_64_bits_are_right(monkeypatch):
    # 2^22 columns of differences of 2^22 make 2^66; blocks are flushed before int64 overflows.
    updates = np.full((2, 1 << 22), LARGEST, dtype=np.int32)
    updates[1] = -LARGEST
    assert exact.squared_distances(updates)[0][1] == 1 << 66
    assert exact._FLUSH * exact._EXACT < 1 << 63


def test_more_blocks_between_flushes_would_overflow(monkeypatch):
    monkeypatch.setattr(exact, "_FLUSH", 1 << 30)
    updates = np.full((2, 1 << 22), LARGEST, dtype=np.int32)
    updates[1] = -LARGEST
    assert exact.squared_distances(updates)[0][1] != 1 << 66


def test_more_columns_in_a_block_would_round(monkeypatch):
    monkeypatch.setattr(exact, "_EXACT", 1 << 62)
    d = 3 * 2048 + 1
    updates = np.full((2, d), LARGEST - 1, dtype=np.int32)
    updates[1] = LARGEST
    updates[1, ::2] = -LARGEST
    assert exact.squared_distances(updates) != slow_distances(updates)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bytes_in_any_order_and_with_any_threads(threads):
    random = np.random.default_rng(7)
    updates = [quantise(fixed(name, 20_000)) for name in range(9)]
    with threadpool_limits(threads):
        found = aggregate(updates, "multi-krum", 2, 3)
        for _ in range(5):
            order = random.permutation(9)
            again = aggregate([updates[at] for at in order], "multi-krum", 2, 3)
            assert to_bytes(again.update) == to_bytes(found.update)
            assert again.scores == [found.scores[at] for at in order]
            assert again.evaluations == [found.evaluations[at] for at in order]
    # The digest of these bytes; another machine, another BLAS or another numpy must find the same.
    assert hashlib.sha256(to_bytes(found.update)).hexdigest() == DIGEST


DIGEST = "18f253b14133b12cbf590e0338b975a00469a9e170e31be163988a4324a5aeb8"


def fixed(name, size):
    """Values in -0.5 to 0.5 that no library's generator has a say in."""
    drawn = np.frombuffer(hashlib.shake_256(str(name).encode()).digest(4 * size), "<u4")
    return drawn / 2**32 - 0.5


def test_multi_krum_leaves_the_liar_out_and_names_it():
    random = np.random.default_rng(1)
    updates = [quantise(random.normal(0, 0.1, 500).astype(np.float32)) for _ in range(6)]
    updates[2] = quantise(np.full(500, 9.0))
    found = aggregate(updates, "multi-krum", 1, 3)
    assert [one.selected for one in found.evaluations] == [at != 2 for at in range(6)]
    assert [one.high for one in found.evaluations] == [at != 2 for at in range(6)]
    assert found.update.tolist() == slow_mean(np.stack(updates[:2] + updates[3:]))


def test_a_mean_wrong_by_one_step_is_another_result():
    updates = [quantise(np.full(3, value)) for value in (0.0, 1.0)]
    found = aggregate(updates, "mean", 0, 3)
    assert found.update.tolist() == [SCALE // 2] * 3
    assert (found.scores, [one.selected for one in found.evaluations]) == ([0, 0], [True, True])
    assert to_bytes(found.update) != to_bytes(found.update + np.int32(1))


def test_half_goes_to_even_on_both_sides_of_zero():
    # Means of two: 0.5, 1.5, 2.5, -0.5, -1.5, -2.5.
    updates = np.array([[0, 1, 2, 0, -1, -2], [1, 2, 3, -1, -2, -3]], dtype=np.int32)
    assert exact.mean(updates).tolist() == [0, 2, 2, 0, -2, -2]


def test_quantising_clips_rounds_half_to_even_and_restores_exactly():
    values = np.array([0, 1, -1, 40, -1e300, 0.5 / SCALE, 1.5 / SCALE, -0.5 / SCALE, CLIP], dtype=np.float64)
    assert quantise(values).tolist() == [0, SCALE, -SCALE, LARGEST, -LARGEST, 0, 2, 0, LARGEST]
    steps = np.arange(-LARGEST, LARGEST + 1, 997, dtype=np.int32)
    assert (quantise(restore(steps)) == steps).all()
    assert (from_bytes(to_bytes(steps), len(steps)) == steps).all()


@given(arrays.arrays(np.float32, 20, elements=st.floats(-31, 31, width=32)))
def test_rounding_moves_by_half_a_step_at_most(values):
    moved = quantise(values).astype(np.float64) / SCALE - values.astype(np.float64)
    assert np.abs(moved).max() <= 0.5 / SCALE


@pytest.mark.parametrize(
    "values",
    [np.array([np.nan]), np.array([np.inf]), np.array([-np.inf]), np.array([1]), np.array([[1.0]]), np.array([True])],
    ids=str,
)
def test_what_is_no_finite_vector_is_refused(values):
    with pytest.raises(InputError):
        quantise(values)


def test_what_clipping_can_not_give_is_refused():
    for value in (LARGEST + 1, -LARGEST - 1, -(2**31)):
        wrong = np.array([value], dtype=np.int32)
        with pytest.raises(InputError, match="steps; allowed"):
            from_bytes(to_bytes(wrong), 1)
        with pytest.raises(InputError, match="steps; allowed"):
            aggregate([wrong], "mean", 0, 3)
    with pytest.raises(InputError, match="7 bytes"):
        from_bytes(bytes(7), 2)
    with pytest.raises(InputError, match="different shapes"):
        aggregate([np.zeros(2, np.int32), np.zeros(3, np.int32)], "mean", 0, 3)
    with pytest.raises(InputError, match="int64"):
        aggregate([np.zeros(2, np.int64)], "mean", 0, 3)


def test_scores_of_stored_bytes():
    updates = np.random.default_rng(3).integers(-99, 99, (6, 11), dtype=np.int32)
    contents = [to_bytes(row) for row in updates]
    assert exact.scores_of(contents, "multi-krum", 1) == slow_scores(updates, 1)
    assert exact.scores_of(contents, "mean", 1) == [0] * 6
    with pytest.raises(InputError, match="for 11 numbers"):
        exact.scores_of([*contents[:5], bytes(40)], "multi-krum", 1)


def test_too_few_updates_are_refused():
    with pytest.raises(RefusedError, match="5 or more"):
        aggregate([np.zeros(2, np.int32)] * 4, "multi-krum", 1, 3)
    with pytest.raises(RefusedError, match="1 or more"):
        aggregate([], "mean", 1, 3)
