"""Budgets of bits: never exceeded, never forgotten, paid once a release."""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.errors import InputError, RefusedError, RunError
from privet.governance import BitBook, BitBudget
from privet.ledger import Log

BUDGET = BitBudget("ann", "digits", 10.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bits.jsonl"


def test_a_release_is_paid_for_once_and_survives(path: Path) -> None:
    with BitBook(path, [BUDGET]) as book:
        assert book.spend(["a", "b", "a"], "ann", "digits", 3.0) == 2
        assert book.spend(["a"], "ann", "digits", 3.0) == 0
    with BitBook(path, [BUDGET]) as book:
        assert book.spent("ann", "digits") == 6.0
        assert book.spend(["b", "c"], "ann", "digits", 3.0) == 1
        assert book.spent("ann", "digits") == 9.0


def test_what_would_exceed_is_refused_for_all(path: Path) -> None:
    with BitBook(path, [BUDGET]) as book:
        book.spend(["a"], "ann", "digits", 6.0)
        with pytest.raises(RefusedError, match=r"from 6 to 18 bits; allowed: 10") as refused:
            book.spend(["a", "b", "c"], "ann", "digits", 6.0)
        assert refused.value.exit_code == 3
        assert book.spent("ann", "digits") == 6.0
        assert book.spend(["d", "e", "f", "g"], "ann", "digits", 1.0) == 4  # exactly to the last bit
        assert book.spend(["a"], "ann", "digits", 6.0) == 0  # what was paid for stays free
        with pytest.raises(RefusedError):
            book.spend(["h"], "ann", "digits", 0.001)
    assert len(Log(path).records) == 6


def test_logarithms_fill_a_budget_exactly(path: Path) -> None:
    bits = math.log2(97)
    with BitBook(path, [BitBudget("ann", "digits", 7 * bits)]) as book:
        for at in range(7):
            book.spend([str(at)], "ann", "digits", bits)
        with pytest.raises(RefusedError):
            book.spend(["7"], "ann", "digits", bits)


def test_uncounted_bits_are_refused(path: Path) -> None:
    with BitBook(path, [BUDGET]) as book:
        with pytest.raises(RefusedError, match="inf bits"):
            book.spend(["a"], "ann", "digits", math.inf)
        assert book.spend([], "ann", "digits", math.inf) == 0
        for wrong in (-1.0, math.nan):
            with pytest.raises(InputError, match="bits"):
                book.spend(["a"], "ann", "digits", wrong)
        assert book.spent("ann", "digits") == 0.0


def test_no_budget_and_other_budgets_are_refused(path: Path) -> None:
    with BitBook(path, [BUDGET]) as book:
        for subject, purpose in (("bob", "digits"), ("ann", "faces")):
            with pytest.raises(RefusedError, match="no budget of bits"):
                book.spend(["a"], subject, purpose, 1.0)
            with pytest.raises(RefusedError, match="no budget of bits"):
                book.spent(subject, purpose)
        with pytest.raises(RefusedError, match="of 10 bits, not 20"):
            book.open(BitBudget("ann", "digits", 20.0))
        book.spend(["a"], "ann", "digits", 1.0)
        with pytest.raises(InputError, match="other bits"):
            book.spend(["a"], "ann", "digits", 2.0)
    with pytest.raises(RefusedError, match="not 20"):
        BitBook(path, [BitBudget("ann", "digits", 20.0)])
    BitBook(path).close()  # the refusal let go of the file


@pytest.mark.parametrize("bits", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_is_finite_and_more_than_none(bits: float) -> None:
    with pytest.raises(InputError, match="budget"):
        BitBudget("ann", "digits", bits)


def test_one_process_at_a_time(path: Path) -> None:
    with BitBook(path), pytest.raises(RefusedError, match="another process"):
        BitBook(path)
    BitBook(path).close()


def test_a_changed_file_is_refused(path: Path) -> None:
    with BitBook(path, [BUDGET]) as book:
        book.spend(["a"], "ann", "digits", 3.0)
    path.write_text(path.read_text().replace("3.0", "1.0"))
    with pytest.raises(RunError, match="does not verify"):
        BitBook(path)


def test_records_of_other_kinds_cost_nothing(path: Path) -> None:
    Log(path).append("note", {})
    with BitBook(path, [BUDGET]) as book:
        assert book.spent("ann", "digits") == 0.0


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 6)), max_size=8))
def test_it_is_never_exceeded_whatever_comes(asked: list[tuple[str, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paid: dict[str, float] = {}
        for release, bits in asked:
            with BitBook(Path(folder) / "bits", [BUDGET]) as book, suppress(RefusedError, InputError):
                if book.spend([release], "ann", "digits", bits):
                    paid[release] = bits
        with BitBook(Path(folder) / "bits", [BUDGET]) as book:
            assert book.spent("ann", "digits") == pytest.approx(sum(paid.values()))
            assert book.spent("ann", "digits") <= 10.0 + 1e-9
