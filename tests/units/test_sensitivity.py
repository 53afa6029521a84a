"""Sensitivities: what three norms imply of each other, and what counts as a change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.accounting import Relation, Sensitivity, Unit

RECORD = Sensitivity("record", dimension=16)


def test_nothing_is_bounded_unless_said() -> None:
    assert (RECORD.l1, RECORD.l2, RECORD.linf) == (math.inf,) * 3
    assert RECORD.bounded(l2=1.0).unbounded() == RECORD


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"linf": 1.0}, (16.0, 4.0, 1.0)),
        ({"l2": 1.0}, (4.0, 1.0, 1.0)),
        ({"l1": 1.0}, (1.0, 1.0, 1.0)),
        ({"l1": 4.0, "linf": 1.0}, (4.0, 2.0, 1.0)),  # l2^2 <= l1 linf
        ({"l1": 100.0, "l2": 2.0, "linf": 50.0}, (8.0, 2.0, 2.0)),
        ({"linf": 0.0}, (0.0, 0.0, 0.0)),
        ({}, (math.inf, math.inf, math.inf)),
    ],
)
def test_each_norm_is_as_small_as_the_others_imply(given_: dict[str, float], expected: tuple[float, ...]) -> None:
    tight = RECORD.bounded(**given_)
    assert (tight.l1, tight.l2, tight.linf) == expected


@settings(max_examples=100, derandomize=True)
@given(
    change=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), known=st.sets(st.sampled_from(["l1", "l2", "linf"]))
)
def test_tightening_never_excludes_a_change_that_obeys_what_is_known(change: list[float], known: set[str]) -> None:
    vector = torch.tensor(change, dtype=torch.float64)
    norms = {"l1": vector.norm(1).item(), "l2": vector.norm(2).item(), "linf": vector.abs().max().item()}
    tight = Sensitivity("record", dimension=len(change)).bounded(**{name: norms[name] for name in known})
    for name, norm in norms.items():
        assert norm <= getattr(tight, name) * (1 + 1e-12) + 1e-12


def test_a_single_coordinate_moves_alike_in_every_norm_until_it_spreads() -> None:
    one = replace(RECORD, unit="coordinate")
    assert one.moved == 1
    assert one.bounded(linf=3.0).l1 == 3.0
    assert replace(one, spread=True).moved == 16
    assert replace(one, spread=True).bounded(linf=3.0).l1 == 48.0


def test_a_unit_moves_all_values_of_its_vectors() -> None:
    assert replace(RECORD, vectors=64).moved == 1024
    assert replace(RECORD, vectors=math.inf).bounded(linf=1.0).l1 == math.inf
    assert replace(RECORD, vectors=math.inf).bounded(linf=0.0).l1 == 0


def test_only_what_comes_or_goes_counts_once() -> None:
    counts = {
        (unit, relation, spread): Sensitivity(unit, relation, spread=spread).neighbours
        for unit in get_args(Unit)
        for relation in get_args(Relation)
        for spread in (False, True)
    }
    once = {case for case, count in counts.items() if count == 1}
    assert once == {("record", "add-or-remove-one", False), ("device", "add-or-remove-one", False)}
    assert set(counts.values()) == {1, 2}
