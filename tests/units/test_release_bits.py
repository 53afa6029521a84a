"""What codes can tell at most: exact figures, and what is refused."""

from __future__ import annotations

import doctest

import pytest

from privet.accounting import release_bits
from privet.accounting.release_bits import ReleaseBits
from privet.errors import InputError


def test_figures() -> None:
    assert ReleaseBits(97).rank_1(2_000) == 97 / 2_000
    assert ReleaseBits(10).rank_1(2_000, classes=10) == 0.05
    assert ReleaseBits(10).rank_1(5) == 1.0
    assert ReleaseBits(1).bits == 0.0
    assert ReleaseBits(10).repeats(3) == ReleaseBits(1_000)


def test_many_repeats_are_counted_though_no_float_holds_them() -> None:
    many = ReleaseBits(97).repeats(1_000)
    assert many.bits == pytest.approx(1_000 * ReleaseBits(97).bits)
    assert many.rank_1(10**9, classes=10) == 1.0


@pytest.mark.parametrize("codes", [0, -3])
def test_no_code_is_refused(codes: int) -> None:
    with pytest.raises(InputError, match="codes"):
        ReleaseBits(codes)


def test_no_candidate_class_or_release_is_refused() -> None:
    bits = ReleaseBits(3)
    for wrong in (lambda: bits.rank_1(0), lambda: bits.rank_1(5, 0), lambda: bits.repeats(0)):
        with pytest.raises(InputError):
            wrong()


def test_the_example_in_its_docstring() -> None:
    assert doctest.testmod(release_bits).failed == 0
    assert doctest.testmod(release_bits).attempted > 0
