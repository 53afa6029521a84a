"""Public committees: the draw, and its exact risk against counting every committee there is."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import pytest

from privet.errors import InputError, RefusedError
from privet.ledger.public_committee import ALLOWED_RISK, draw_committee, failure_risk, quorum, require_safe


def test_a_quorum_is_just_more_than_two_thirds():
    for weight in range(1, 200):
        assert 3 * quorum(weight) > 2 * weight
        assert 3 * (quorum(weight) - 1) <= 2 * weight


def counted_risk(total, faulty, size):
    """Counts the committees in which the honest are no quorum, or those at fault can help two blocks to one."""
    committees = [sum(unit < faulty for unit in members) for members in combinations(range(total), size)]
    wanted = quorum(size)
    failed = [bad for bad in committees if size - bad < wanted or 2 * wanted - size <= bad]
    return Fraction(len(failed), len(committees))


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("faulty", [0, 1, 3, 4, 9])
def test_the_risk_is_that_of_counting(faulty, size):
    assert failure_risk(9, faulty, size) == counted_risk(9, faulty, size)


@pytest.mark.parametrize("total", [4, 7, 100, 1000])
def test_when_everybody_votes_less_than_a_third_at_fault_is_no_risk(total):
    below = (total - 1) // 3
    assert failure_risk(total, below, total) == 0
    assert failure_risk(total, below + 1, total) == 1


def test_risks_above_one_in_a_billion_are_refused():
    assert require_safe(1000, 200, 259) <= ALLOWED_RISK
    with pytest.raises(RefusedError, match=r"a committee of 100 of 1000 units, 200 at fault, fails with probability"):
        require_safe(1000, 200, 100)
    assert require_safe(1000, 200, 100, allowed=Fraction(1, 100)) > ALLOWED_RISK


def test_the_limit_is_compared_exactly():
    risk = failure_risk(1000, 200, 250)
    assert require_safe(1000, 200, 250, allowed=risk) == risk
    with pytest.raises(RefusedError):
        require_safe(1000, 200, 250, allowed=risk - Fraction(1, 10**400))


@pytest.mark.parametrize(("total", "faulty", "size"), [(10, 11, 5), (10, -1, 5), (10, 3, 0), (10, 3, 11)])
def test_a_committee_that_can_not_be_is_refused(total, faulty, size):
    with pytest.raises(InputError, match="no committee"):
        failure_risk(total, faulty, size)


def test_committees_are_drawn_by_stake_without_putting_back():
    stakes = [40, 10, 10, 0, 40]
    sums = [0] * 5
    for number in range(300):
        weights = draw_committee(number.to_bytes(4, "big"), stakes, 20)
        assert sum(weights) == 20
        assert all(weight <= stake for weight, stake in zip(weights, stakes, strict=True))
        sums = [one + other for one, other in zip(sums, weights, strict=True)]
    assert all(abs(drawn / 300 - stake / 5) < 0.5 for drawn, stake in zip(sums, stakes, strict=True))
    assert draw_committee(b"seed", stakes, 20) == draw_committee(b"seed", stakes, 20)
    assert draw_committee(b"seed", stakes, 100) == stakes
    with pytest.raises(InputError, match="no committee of 101 of 100 units"):
        draw_committee(b"seed", stakes, 101)
