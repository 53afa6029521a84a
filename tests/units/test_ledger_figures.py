"""Figures 11 and 12 of the document: what is shipped is what the state machine gives."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("reputation", ROOT / "examples" / "ledger" / "reputation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulated(example):
    return example.simulate()


@pytest.mark.parametrize(("number", "what"), [(11, "reward"), (12, "reputation")])
def test_shipped_figure_is_what_the_chain_gives(example, simulated, number, what):
    shipped = json.loads((ROOT / "docs" / "figures" / f"paper_002_figure_{number}.json").read_text())
    assert shipped == example.table(number, what, simulated)
    assert shipped["verdict"] == "reproduced"
    assert (ROOT / "docs" / "figures" / f"paper_002_figure_{number}.svg").is_file()


def test_traces_of_the_document(example, simulated):
    assert simulated[example.HONEST]["reputation"][:5] == [5, 6, 7, 8, 9]
    assert simulated[example.FIRST]["reputation"][:4] == [5, 0, 1, 2]
    assert simulated[example.FOURTH]["reputation"][:6] == [5, 6, 7, 8, 7, 8]
    assert simulated[example.FOURTH]["reward"][:6] == [5, 6, 7, 0, 7, 8]
    others = [seen for name, seen in simulated.items() if name.startswith("another")]
    assert all(seen == simulated[example.HONEST] for seen in others)


def test_a_claim_that_does_not_hold_is_said(example, simulated):
    wrong = {**simulated, example.FIRST: simulated[example.HONEST]}
    assert example.table(12, "reputation", wrong)["verdict"] == "in part"
